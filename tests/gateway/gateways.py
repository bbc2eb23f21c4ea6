"""Gateways that a test can use, kill and stop: real processes, or one in the test's own loop."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from durasleep import Durasleep
from durasleep.gateway.bridge import Bridge
from durasleep.gateway.gateway import Gateway, Options, listen
from durasleep.protocol.resonate import VERSION
from tests.service.workers import PATIENCE_S, ROOT, eventually

HOST = "127.0.0.1"
FAR_MS = 4_000_000_000_000
"""A deadline of a promise that no test reaches."""


def data_of(value: object) -> dict[str, Any]:
    """A value as the SDKs write it into a promise."""
    return {"data": base64.b64encode(json.dumps(value).encode()).decode()}


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway in this process."""

    gateway: Gateway
    port: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


@asynccontextmanager
async def serving(
    client: Durasleep, bridge: Sequence[str] = (), *, waits: bool = True, **options: Any
) -> AsyncGenerator[Served]:
    """A gateway in this loop, with these options of ``Options``, that bridges these groups. ``waits`` until it is
    ready.
    """
    sockets, stop = listen(HOST, 0), asyncio.Event()
    gateway = Gateway(client, Options(**options), [lambda of: Bridge(of, bridge).run()])
    running = asyncio.create_task(gateway.run(sockets, stop))
    ready = asyncio.create_task(gateway.ready.wait())
    try:
        if waits:
            await asyncio.wait((running, ready), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not running.done():
            yield Served(gateway, sockets[0].getsockname()[1])
    finally:
        stop.set()
        await running


class GatewayProcess:
    """``durasleep serve`` in a process of its own, with its log in a file."""

    def __init__(
        self, url: str, namespace: str, log: Path, options: tuple[str, ...], environment: dict[str, str]
    ) -> None:
        self._log = log
        self.port = 0
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "durasleep", "serve", "--url", url, "--namespace", namespace, *options],
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    async def ready(self) -> GatewayProcess:
        """Wait until it serves."""

        def look() -> re.Match[str] | None:
            assert self._process.poll() is None, f"it has ended\n{self.log()}"
            return re.search(r"the gateway is at http://[^ ]*:(\d+)/", self.log())

        found = await eventually(look, "the gateway to say where it is")
        self.port = int(found[1])
        return self

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def exited(self) -> int:
        """Its exit code, when it has ended; negative for the signal that ended it."""
        await eventually(lambda: self._process.poll() is not None, "the gateway to exit")
        return self._process.wait()

    async def kill(self) -> None:
        """kill -9, and wait for its end."""
        self.signal(signal.SIGKILL)
        await self.exited()

    def clean_up(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()


class Gateways:
    """Starts gateway processes for one test; ``clean_up`` ends them all."""

    def __init__(self, url: str, namespace: str, directory: Path) -> None:
        self._url = url
        self._namespace = namespace
        self._directory = directory
        self._started: list[GatewayProcess] = []

    def begin(self, *options: str, port: int = 0, url: str | None = None, **environment: str) -> GatewayProcess:
        """Start one; await its ``ready()``."""
        log = self._directory / f"gateway-{len(self._started)}.log"
        options = ("--port", str(port), *options)
        gateway = GatewayProcess(url or self._url, self._namespace, log, options, environment)
        self._started.append(gateway)
        return gateway

    async def start(self, *options: str, port: int = 0, url: str | None = None, **environment: str) -> GatewayProcess:
        """Start one, and wait until it serves."""
        return await self.begin(*options, port=port, url=url, **environment).ready()

    def clean_up(self) -> None:
        for gateway in self._started:
            gateway.clean_up()


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a request."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


async def fetch(url: str, *, method: str = "GET", data: Any = None, headers: dict[str, str] | None = None) -> Answered:
    """Make one request; ``data`` is bytes, or sent as JSON."""
    body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
    request = urllib.request.Request(url, body, headers or {}, method=method)

    def ask() -> Answered:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return Answered(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answered(error.code, dict(error.headers), error.read())

    return await asyncio.to_thread(ask)


async def rpc(url: str, kind: str, *, head: dict[str, Any] | None = None, **data: Any) -> tuple[int, Any]:
    """One request of Resonate's protocol; returns the status and the data of its answer."""
    request = {"kind": kind, "head": {"corrId": "c1", "version": VERSION, **(head or {})}, "data": data}
    answered = await fetch(f"{url}/", method="POST", data=request, headers={"Content-Type": "application/json"})
    answer = answered.json()
    assert (answer["kind"], answer["head"]["corrId"], answer["head"]["status"]) == (kind, "c1", answered.status)
    return answered.status, answer["data"]


class Poll:
    """One process of a group that polls, as an SDK does. Whoever opens some calls ``close_all`` at the end."""

    _opened: ClassVar[list[Poll]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._opened.append(self)

    @classmethod
    async def close_all(cls) -> None:
        """Close all that were opened."""
        while cls._opened:
            await cls._opened.pop().close()

    @classmethod
    async def open(cls, port: int, group: str, pid: str, *, headers: str = "") -> Poll:
        """Connect, and wait for the head of the answer."""
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(f"GET /poll/{group}/{pid} HTTP/1.1\r\nHost: {HOST}\r\n{headers}\r\n".encode())
        made = cls(reader, writer)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        assert head.startswith(b"HTTP/1.1 200 "), head
        return made

    async def message(self) -> Any:
        """The next message."""
        while True:
            async with asyncio.timeout(PATIENCE_S):  # wait_for of Python 3.11 may lose a cancel
                line = await self._reader.readline()
            assert line, "the poll was ended"
            if line.startswith(b"data: "):
                return json.loads(line.removeprefix(b"data: "))

    async def ended(self) -> None:
        """Wait until the gateway has closed it."""
        assert await asyncio.wait_for(self._reader.read(), PATIENCE_S) is not None

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
