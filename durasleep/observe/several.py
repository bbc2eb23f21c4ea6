"""The health of several worker processes under one command, asked of each and answered at one address.

Each process answers at a Unix socket of its own; the parent asks all of them and says what is true of them together.
"""

from __future__ import annotations

import http
import http.client
import logging
import socket
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from durasleep.observe.health import UNIX, Answer, not_found, said
from durasleep.observe.http_server import HealthServer

logger = logging.getLogger("durasleep")

ASK_S = 1.0  # a process answers from a thread, also while its event loop hangs
SILENT_MAX_S = 30.0
"""A process may be silent for so long without being called dead: it was started anew, and imports its application."""


class _Connection(http.client.HTTPConnection):
    """To a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ASK_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path: str, what: str) -> Answer | None:
    """The answer at a Unix socket; None if nobody answers."""
    connection = _Connection(path)
    try:
        connection.request(http.HTTPMethod.GET, what)
        response = connection.getresponse()
        return Answer(response.status, response.read(), response.headers.get("Content-Type", ""))
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class SeveralProcesses:
    """All of them, by number from 1."""

    def __init__(self, count: int, directory: str) -> None:
        self._paths = {number: str(Path(directory, f"{number}.sock")) for number in range(1, count + 1)}
        self._heard_at = dict.fromkeys(self._paths, time.monotonic())

    def options(self, number: int) -> list[str]:
        """How a process is told where to answer."""
        return ["--health", f"{UNIX}{self._paths[number]}"]

    def why_not_live(self) -> str:
        """Empty if all are alive, else a sentence."""
        for number, path in self._paths.items():
            answer = ask(path, "/livez")
            if answer is not None:
                self._heard_at[number] = time.monotonic()
                if answer.status != 200:
                    return _of(number, answer)
            elif time.monotonic() - self._heard_at[number] > SILENT_MAX_S:
                return f"process {number} does not answer"
        return ""

    def why_not_ready(self) -> str:
        """Empty if all are ready, else a sentence."""
        for number, path in self._paths.items():
            answer = ask(path, "/readyz")
            if answer is None:
                return f"process {number} does not answer"
            if answer.status != 200:
                return _of(number, answer)
        return ""

    def answer(self, path: str) -> Answer:
        """The same paths as one process has. Metrics get the label ``process``."""
        match path:
            case "/livez":
                return said(self.why_not_live())
            case "/readyz":
                return said(self.why_not_ready())
            case "/metrics":
                return self._metrics()
            case _:
                return not_found("/livez", "/readyz", "/metrics")

    def _metrics(self) -> Answer:
        texts: dict[int, bytes] = {}
        for number, path in self._paths.items():
            answer = ask(path, "/metrics")
            if answer is not None and answer.status == 200:
                texts[number] = answer.body
            elif answer is not None:
                return answer
        from durasleep.observe import metrics

        return Answer(200, metrics.joined(texts), metrics.CONTENT_TYPE)


def _of(number: int, answer: Answer) -> str:
    return f"process {number}: {answer.body.decode(errors='replace').strip()}"


@contextmanager
def several_processes(count: int, listen: str | None) -> Generator[SeveralProcesses]:
    """The health of processes that are started in the block, answered at ``listen`` if that is given. UsageError if
    nobody can listen there.
    """
    with tempfile.TemporaryDirectory(prefix="durasleep-") as directory:
        all = SeveralProcesses(count, directory)
        server = None if listen is None else HealthServer(listen, all.answer)
        if server is not None:
            server.start()
            logger.info("health of %d processes at %s/livez and /readyz, metrics at /metrics", count, server.url)
        try:
            yield all
        finally:
            if server is not None:
                server.close()
