"""A process that has imported durasleep, and forks gateways: each is a process of its own within milliseconds.

Run as a module it is that process. It reads lines of JSON, a log file and arguments of the command line, and answers
the number of the process that runs them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from durasleep.cli.app import main
from durasleep.gateway.bridge import Bridge
from tests.service.workers import ROOT, eventually

__all__ = ["Bridge"]  # imported once for all gateways


class ForkedGateway:
    """A gateway that was forked."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self._log = log
        self._is_killed = False

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    async def ready(self) -> ForkedGateway:
        """Wait until it serves."""
        await eventually(lambda: re.search("the gateway is at ", self.log()), "the gateway to say where it is")
        return self

    def kill(self) -> None:
        """kill -9; once, as its number may be given to another process then."""
        if self._is_killed:
            return
        self._is_killed = True
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Nursery:
    """Forks gateways of one Redis; ``close`` ends them all."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made: list[ForkedGateway] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.gateway.nursery"],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fork(self, url: str, namespace: str, *options: str) -> ForkedGateway:
        log = self._directory / f"gateway-{len(self._made)}.log"
        log.touch()
        args = ["serve", "--url", url, "--namespace", namespace, "--port", "0", *options]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(log), args]) + "\n")
        self._process.stdin.flush()
        made = ForkedGateway(int(self._process.stdout.readline()), log)
        self._made.append(made)
        return made

    def close(self) -> None:
        for gateway in self._made:
            gateway.kill()
        self._process.communicate()


def _main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they have ended
    for line in sys.stdin:
        log, args = json.loads(line)
        pid = os.fork()
        if pid:
            sys.stdout.write(f"{pid}\n")
            sys.stdout.flush()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        output = os.open(log, os.O_WRONLY | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for there, here in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(there, here)
        sys.argv = ["durasleep", *args]
        main()
        os._exit(0)


if __name__ == "__main__":
    _main()
