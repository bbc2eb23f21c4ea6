"""Runs web servers and workers as processes of their own, and is a client of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from harness.servers import free_port

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0
LOOK_S = 0.02
BIN = Path(sys.executable).parent


def until(look: Callable[[], Any], what: str) -> Any:
    """The answer of ``look``, when it is true; fails with ``what`` it waited for."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < give_up_at, f"waited in vain for {what}"
        time.sleep(LOOK_S)
    return found


class Program:
    """A process and its log."""

    def __init__(self, command: Sequence[str], cwd: Path, environment: dict[str, str], log: Path) -> None:
        self.command = list(command)
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                self.command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def says(self, text: str) -> Self:
        """Wait until its log has this text."""
        until(lambda: text in self.log() or self.process.poll() is not None, f"{text!r} of {self.command}")
        assert text in self.log(), self.log()
        return self

    def kill(self) -> None:
        """As kill -9 does."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def end(self) -> None:
        """SIGTERM, and wait for its end: a server ends those that it has started, too."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


class Shop:
    """The processes of one shop; use it as a context manager, which ends them all."""

    def __init__(self, tmp_path: Path, *, cwd: Path = ROOT, **environment: str) -> None:
        kept = {name: value for name, value in os.environ.items() if "REDIS" not in name and "DURASLEEP" not in name}
        path = {"PYTHONPATH": os.pathsep.join(str(one) for one in {ROOT, cwd}), "PYTHONUNBUFFERED": "1"}
        self._environment = {**kept, **path, **environment}
        self._cwd = cwd
        self._tmp_path = tmp_path
        self._started: list[Program] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._started:
            program.end()

    def start(self, *command: str, **environment: str) -> Program:
        """Start a program of this Python."""
        log = self._tmp_path / f"{len(self._started)}.log"
        program = Program([sys.executable, *command], self._cwd, {**self._environment, **environment}, log)
        self._started.append(program)
        return program

    def serve(self, *command: str, path: str, **environment: str) -> Web:
        """Start a web server, for which ``{port}`` in its arguments is a free port; see ``Web.ready``."""
        port = free_port()
        program = self.start(*(word.format(port=port) for word in command), **environment)
        return Web(program, f"http://127.0.0.1:{port}", path)

    def run(self, *command: str) -> str:
        """Run a program of this Python to its end; returns what it prints."""
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self._cwd,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


class Web:
    """A client of one web server, with a new connection for each request: they go to any of its processes."""

    def __init__(self, program: Program, url: str, unknown: str) -> None:
        self.program = program
        self.url = url
        self._unknown = unknown
        """A path that it answers by 404."""

    def ready(self) -> Self:
        """Wait until it answers."""

        def answers() -> bool:
            assert self.program.process.poll() is None, self.program.log()
            try:
                return self.get(self._unknown).status_code == 404
            except httpx.TransportError:
                return False

        until(answers, f"an answer of {self.program.command}")
        return self

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"connection": "close", **options.pop("headers", {})}
        return httpx.request(method, f"{self.url}{path}", headers=headers, timeout=PATIENCE_S, **options)

    def get(self, path: str) -> httpx.Response:
        return self._request("GET", path)

    def post(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._request("POST", path, json=body, headers=named)

    def delete(self, path: str) -> httpx.Response:
        return self._request("DELETE", path)

    def events(self, path: str) -> Events:
        return Events(f"{self.url}{path}")


class Events:
    """Server-sent events, read in a thread until the server ends them."""

    def __init__(self, url: str) -> None:
        self.seen: list[dict[str, Any]] = []
        self._url = url
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        until(lambda: self.seen, f"the first event of {url}")

    def _read(self) -> None:
        with httpx.stream("GET", self._url, timeout=PATIENCE_S) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    self.seen.append(json.loads(line.removeprefix("data: ")))

    def all(self) -> list[dict[str, Any]]:
        """All of them, when the stream has ended."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), self.seen
        return self.seen
