"""Commands that begin at once: a process that has imported durasleep forks for each of them.

Half a second of computing is saved each time, and pages have some hundred commands. ``Forks`` starts that process and
makes a command ``durasleep`` for PATH: a small program that passes on its arguments, its directory, its environment and
its files, forwards signals, and ends as the forked process ends.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Self

import typer.main

from tests.cli.terminal import ROOT, wait_for

IMPORTED = (
    *("durasleep.app", "durasleep.client.client", "durasleep.runtime.channels", "durasleep.query.call_tree"),
    *(
        "durasleep.worker.worker",
        "pydantic",
        "durasleep.cli.output.histories",
        "redis.asyncio",
        "rich.console",
        "rich.table",
    ),
)
FORWARDED_KILL = signal.SIGUSR2
"""The command kills the forked process when it gets this; it ends any other command itself."""
COMMAND = """#!{python} -IS
import json, os, signal, socket, sys
link = socket.socket(socket.AF_UNIX)
link.connect({address!r})
request = json.dumps(dict(words=sys.argv[1:], directory=os.getcwd(), environment=dict(os.environ))).encode()
socket.send_fds(link, [len(request).to_bytes(4, "big")], [0, 1, 2])
link.sendall(request)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: link.send(bytes([number])))
signal.signal({kill}, lambda number, frame: link.send(bytes([signal.SIGKILL])))
os._exit(link.recv(1)[0])
"""


class Forks:
    """The process that forks, and the command that asks it to."""

    def __init__(self, directory: Path) -> None:
        self.bin = directory / "bin"
        self._address = directory / "forks"

    def __enter__(self) -> Self:
        self.bin.mkdir(parents=True)
        command = self.bin / "durasleep"
        command.write_text(COMMAND.format(python=sys.executable, address=str(self._address), kill=int(FORWARDED_KILL)))
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.docs.forking", str(self._address)], cwd=ROOT, stdin=subprocess.DEVNULL
        )
        wait_for(self._address.exists, "the process that forks")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def main() -> None:
    from durasleep.cli.app import app as commands
    from durasleep.cli.app import main as durasleep

    for name in IMPORTED:
        importlib.import_module(name)
    typer.main.get_command(commands)  # which imports what it needs, too
    address = Path(sys.argv[1])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen(64)
    address.with_name(f"{address.name}.new").rename(address)
    request = accept(listener)
    become(**request)
    durasleep()


def accept(listener: socket.socket) -> dict[str, Any]:
    """Fork for each request; this returns in the forked processes only."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        link, _ = listener.accept()
        if os.fork():
            link.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        size, files, _, _ = socket.recv_fds(link, 4, 3)
        with link.makefile("rb") as stream:
            request = json.loads(stream.read(int.from_bytes(size, "big")))
        if pid := os.fork():
            watch(link, pid, files)
        link.close()
        return {**request, "files": files}


def watch(link: socket.socket, pid: int, files: list[int]) -> None:
    """Forward signals to a process, and its exit code to whoever has asked for it; kill it when nobody listens."""

    def forward() -> None:
        with suppress(OSError):  # it has ended
            while number := link.recv(1):
                os.kill(pid, number[0])
            os.kill(pid, signal.SIGKILL)

    for file in files:
        os.close(file)
    threading.Thread(target=forward, daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(OSError):  # nobody listens any more
        link.sendall(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def become(words: list[str], directory: str, environment: dict[str, str], files: list[int]) -> None:
    """Take the place of a process that was just started."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["durasleep", *words]
    sys.path[0] = environment["PYTHONPATH"]
    assert isinstance(sys.stdout, TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)


if __name__ == "__main__":
    main()
