"""A server of the gateway's connections, whose site says what it was asked, and a client that sends any bytes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

from durasleep.gateway.connection import Answer, Connection, Connections, Stream
from durasleep.gateway.gateway import every
from durasleep.gateway.http import Refusal, Request, Response
from durasleep.gateway.site import problem
from tests.service.workers import PATIENCE_S

LARGE = 8 << 20


@dataclass
class Echo:
    """Answers with what it was asked. ``/slow`` and ``/lent`` wait for ``go``; ``/stream`` has no end; ``/large`` has
    8 MiB. Those of ``/lent`` and ``/large`` are ``lost`` if nobody can have read them.
    """

    go: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[Request] = field(default_factory=list[Request])
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """A client sends no more."""
    transports: list[asyncio.Transport] = field(default_factory=list[asyncio.Transport])
    """Of all connections that were accepted."""
    streams: list[Connection] = field(default_factory=list[Connection])
    connections: Connections = field(init=False)

    def answer(self, request: Request) -> Answer | Awaitable[Answer]:
        self.asked.append(request)
        match request.path:
            case "/slow" | "/lent":
                return self._slow(request)
            case "/stream":
                return Stream(Response(200, b"", "text/event-stream"), self.streams.append, self._close)
            case "/large":
                return Response(200, b"x" * LARGE, "application/octet-stream", on_unsent=self.lost.set)
            case "/broken":
                raise RuntimeError("this handler is broken")
            case "/split":
                return Response(200, b"", headers=[("X", "a\r\nSet-Cookie: b")])
            case _:
                return said(request)

    def _close(self, connection: Connection) -> None:
        self.streams.remove(connection)

    async def _slow(self, request: Request) -> Response:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        answer = said(request)
        if request.path == "/lent":
            answer.on_unsent = self.lost.set
        return answer

    def answer_unread(self, request: Request) -> Response | None:
        return problem(401, "a token is needed", request.path) if request.path == "/closed" else None

    def refuse(self, refusal: Refusal) -> Response:
        return problem(refusal.status, str(refusal), refusal.path)

    def fail(self, request: Request, error: BaseException) -> Response:
        return problem(500, str(error), request.path)


def said(request: Request) -> Response:
    """What was asked, as JSON."""
    told = {
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "headers": dict(request.headers),
        "size": len(request.body),
        "sha": hashlib.sha1(request.body).hexdigest(),
    }
    return Response(200, json.dumps(told).encode())


class _Watched(Connection):
    """Tells a site of itself; ``kept_bytes`` is how much of an answer it keeps before it waits for its client."""

    def __init__(self, site: Echo, kept_bytes: int | None) -> None:
        super().__init__(site.connections)
        self._site = site
        self._kept_bytes = kept_bytes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._site.transports.append(transport)
        if self._kept_bytes is not None:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
            transport.set_write_buffer_limits(self._kept_bytes, self._kept_bytes)
        super().connection_made(transport)

    def eof_received(self) -> bool:
        is_kept = super().eof_received()
        self._site.ended.set()
        return is_kept


@asynccontextmanager
async def echoing(connections_max: int = 100, kept_bytes: int | None = None) -> AsyncGenerator[tuple[Echo, int]]:
    """A site, and the port at which it is served."""
    site = Echo()
    connections = site.connections = Connections(site, connections_max=connections_max)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Watched(site, kept_bytes), "127.0.0.1", 0)
    looking = loop.create_task(every(0.05, connections.look))
    try:
        yield site, server.sockets[0].getsockname()[1]
    finally:
        await Wire.close_all()
        server.close()
        await connections.close(0.0)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A connection on which a test writes bytes, and reads answers."""

    _opened: ClassVar[list[Wire]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._opened.append(self)

    @classmethod
    async def close_all(cls) -> None:
        """Close all that were opened."""
        while cls._opened:
            await cls._opened.pop().close()

    @classmethod
    async def open(cls, port: int, *, receive_bytes: int = 0) -> Wire:
        """Connect; with little room for what is received, if so many bytes are given."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        limit = receive_bytes or 1 << 16
        return cls(*await asyncio.open_connection(sock=sock, limit=limit))

    async def write(self, *parts: bytes) -> None:
        """Write each part in a packet of its own."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def reply(self, *, has_body: bool = True) -> Reply:
        """The next answer."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        found = re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Za-z' -]+", first)
        assert found, first
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = int(headers.get("content-length", 0)) if has_body else 0
        return Reply(int(found[1]), headers, await asyncio.wait_for(self.reader.readexactly(size), PATIENCE_S))

    async def ended(self) -> bytes:
        """What came until the other side closed; a reset is an end, too."""
        try:
            return await asyncio.wait_for(self.reader.read(), PATIENCE_S)
        except ConnectionError:
            return b""

    def reset(self) -> None:
        """Close it as some proxies do: by a reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.close()

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


async def ask(port: int, *parts: bytes) -> tuple[Reply, bool]:
    """The answer to a request on a connection of its own, and whether the connection was closed then."""
    wire = await Wire.open(port)
    await wire.write(*parts)
    reply = await wire.reply()
    is_closed = reply.headers.get("connection") == "close"
    if is_closed:
        assert await wire.ended() == b""
    await wire.close()
    return reply, is_closed


def request(
    method: str = "GET", target: str = "/", headers: Sequence[str] = (), body: bytes = b"", *, host: str = "Host: x"
) -> bytes:
    """A request as bytes."""
    lines = [f"{method} {target} HTTP/1.1", *([host] if host else []), *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(*chunks: bytes, trailer: bytes = b"") -> bytes:
    """A body in chunks."""
    return b"".join([b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks]) + b"0\r\n" + trailer + b"\r\n"
