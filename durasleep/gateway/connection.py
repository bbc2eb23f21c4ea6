"""One connection of a client: requests in, answers out in order, and the bounds of both."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum, auto
from typing import Protocol, cast

from durasleep.gateway import unread
from durasleep.gateway.http import (
    HEAD_BYTES_MAX,
    Chunks,
    Refusal,
    Request,
    RequestHead,
    Response,
    read_head,
    write_endless_head,
    write_head,
)

HEAD_S = 10.0
"""A head that takes longer is answered 408."""
BODY_S = 30.0
"""The same for a body: 2 MiB at 70 kB/s."""
IDLE_S = 75.0
"""A connection without a request is closed: longer than clients keep theirs, so that none sends into a closed one."""
WRITE_S = 20.0
"""A client that takes nearly nothing of what was written for so long is gone, or too slow: its connection is cut."""
TAKEN_BYTES_MIN = 64 << 10
"""What it must take in this time, if there is more."""
BODIES_BYTES_MAX = 256 << 20
"""Of the bodies of all requests that come or are being answered. More of them are answered 503."""
HALF_S = 1.0
"""A client that sends no more is answered within this time, or not: it may as well be gone."""
DISCARD_S = 2.0
"""After a refusal, what still comes is read for so long: otherwise the system would not deliver the answer."""
AHEAD_BYTES_MAX = 64 << 10
"""Of requests that were sent before the answer to the one under way."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_FOREVER = float("inf")

logger = logging.getLogger("durasleep")


@dataclass(slots=True)
class Stream:
    """An answer that ends with its connection: server-sent events."""

    head: Response
    on_open: Callable[[Connection], None]
    """Gets the connection, to whose ``send`` it belongs from now on."""
    on_close: Callable[[Connection], None]
    on_room: Callable[[Connection], None] = lambda _: None
    """Is told when a slow client takes more again."""


Answer = Response | Stream


class Site(Protocol):
    """What is served."""

    def answer(self, request: Request) -> Answer | Awaitable[Answer]:
        """The answer to a request."""
        ...

    def answer_unread(self, request: Request) -> Response | None:
        """The answer to a request that is refused whatever its body says; None if it is to be read."""
        ...

    def refuse(self, refusal: Refusal) -> Response:
        """The answer to a request that cannot be read."""
        ...

    def fail(self, request: Request, error: BaseException) -> Response:
        """The answer to a request whose answer has raised an error."""
        ...


class _State(Enum):
    HEAD = auto()
    """A head is awaited, or being read."""
    BODY = auto()
    BUSY = auto()
    """The answer is being made, or not taken yet."""
    STREAM = auto()
    DISCARD = auto()
    """The answer has been written, and the other side is to close."""
    CLOSED = auto()


class Connections:
    """All connections of a server. A look once a second ends those that are too slow."""

    def __init__(self, site: Site, *, connections_max: int) -> None:
        self.site = site
        self.date = ""
        """For the answers of this second."""
        self.open: dict[Connection, None] = {}
        self.body_bytes = 0
        """Of the bodies of all requests that are not answered."""
        self._connections_max = connections_max
        self._emptied = asyncio.Event()
        self.is_closing = False
        self.look()

    def look(self) -> None:
        """End connections whose time is over. Call it once a second."""
        self.date = formatdate(usegmt=True)
        if not self.open:
            return
        now = asyncio.get_running_loop().time()
        for connection in [one for one in self.open if one.deadline < now]:
            connection.end_late()

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for one more: the oldest one makes room that is idle, or has not sent its request."""
        if len(self.open) >= self._connections_max:
            idle = next((one for one in self.open if one.is_idle), None)
            spared = idle or next((one for one in self.open if one.is_unasked), None)
            if spared is None:
                return False
            spared.cut()
        self.open[connection] = None
        return True

    def drop(self, connection: Connection) -> None:
        """It is closed."""
        self.open.pop(connection, None)
        if not self.open:
            self._emptied.set()

    async def close(self, grace_s: float) -> None:
        """Answer what is under way, for so long at most, and end all connections."""
        self.is_closing = True
        self._emptied.clear()
        for connection in list(self.open):
            connection.end_soon()
        if self.open:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._emptied.wait()
        for connection in list(self.open):
            connection.cut()
        await asyncio.sleep(0)


class Connection(asyncio.Protocol):
    """One client. Requests are answered one after the other, in their order."""

    __slots__ = (
        "_all",
        "_awaited",
        "_body",
        "_buffer",
        "_chunks",
        "_head",
        "_held",
        "_is_ended",
        "_is_paused",
        "_is_reading_paused",
        "_left",
        "_loop",
        "_request",
        "_state",
        "_stream",
        "_transport",
        "_unread",
        "deadline",
    )

    def __init__(self, all: Connections) -> None:
        self._all = all
        self._loop = asyncio.get_running_loop()
        self._buffer: bytes = b""
        self._state = _State.HEAD
        self._head: RequestHead | None = None
        self._request: Request | None = None
        self._body = bytearray()
        """A part of a body, if it has not come as a whole."""
        self._held = 0
        """How much of its body is counted in ``body_bytes``."""
        self._left = 0
        """How much the client had not taken at the last look, if it is slow."""
        self._chunks: Chunks | None = None
        self._awaited: asyncio.Future[Answer] | None = None
        self._stream: Stream | None = None
        self._is_paused = False
        self._is_reading_paused = False
        self._is_ended = False
        """The other side sends no more."""
        self._unread: Callable[[], None] | None = None
        """What to call if the last answer is not read."""
        self.deadline = self._loop.time() + HEAD_S

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        _watch(self._transport)
        if not self._all.admit(self):
            self._state = _State.CLOSED
            response = self._all.site.refuse(Refusal(503, "there are too many connections"))
            self._transport.write(self._written(response, "close"))
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.drop(self)
        self._hold(0)
        self._state = _State.CLOSED
        if self._unread is not None:
            # A client that has closed before its answer came has sent an end, and then its system sends a reset. A
            # reset alone says nothing: some proxies close so when they have read everything.
            was_reset = self._is_ended and (exc is not None or unread.was_reset(self._transport))
            if was_reset or self._is_paused:
                self._unread()
            self._unread = None
        self.deadline = _FOREVER
        if self._awaited is not None:
            self._awaited.cancel()
        if self._stream is not None:
            self._stream.on_close(self)
            self._stream = None

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state is _State.HEAD or state is _State.BODY:
            self._buffer = self._buffer + data if self._buffer else data
            self._read_on()
        elif state is _State.BUSY:
            self._buffer += data
            if len(self._buffer) > AHEAD_BYTES_MAX:
                self._is_reading_paused = True
                self._transport.pause_reading()

    def eof_received(self) -> bool:
        """A client may stop to send before it has its answer. But one that waits for long may as well be gone."""
        self._is_ended = True
        if unread.is_received(self._transport):
            self._unread = None  # it was there when its answer came: whether it has read it, nothing will tell
        if self._unread is not None and self._state in (_State.HEAD, _State.DISCARD):
            self._loop.call_later(unread.LOOK_S, self.close)  # then it is known whether the answer was read
            return True
        if self._state is _State.BUSY and isinstance(self._awaited, asyncio.Task):
            self._loop.call_later(HALF_S, self._end_half, self._awaited)
        return self._state is _State.BUSY

    def _end_half(self, awaited: asyncio.Future[Answer]) -> None:
        if self._awaited is awaited:
            self.close()

    def pause_writing(self) -> None:
        self._is_paused = True
        self._left = unread.bytes_left(self._transport)
        self.deadline = self._loop.time() + WRITE_S

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._state is _State.CLOSED:
            return  # it closes when the rest is written
        self.deadline = self._loop.time() + DISCARD_S if self._state is _State.DISCARD else _FOREVER
        if self._state is _State.BUSY and self._awaited is None:
            self._next()
            self._read_on()
        elif self._stream is not None:
            self._stream.on_room(self)

    # -- reading

    def _read_on(self) -> None:
        """Read what has come, until a request is to be answered or more is needed."""
        try:
            while self._state is _State.HEAD or self._state is _State.BODY:
                is_enough = self._read_head() if self._state is _State.HEAD else self._read_body()
                if not is_enough:
                    break
        except Refusal as refusal:
            self._refuse(refusal)
            return
        if self._is_ended and self._state in (_State.HEAD, _State.BODY):
            self.close()  # the rest of this request will never come

    def _read_head(self) -> bool:
        buffer = self._buffer
        if buffer.startswith((b"\r", b"\n")):
            buffer = self._buffer = buffer.lstrip(b"\r\n")  # some clients end a body with one
        end = buffer.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
        if end < 0:
            if len(buffer) >= HEAD_BYTES_MAX:
                raise Refusal(431, f"the head has more than {HEAD_BYTES_MAX} bytes")
            if buffer and self.deadline > (begun := self._loop.time() + HEAD_S):
                self.deadline = begun
            return False
        end += 4
        head = self._head = read_head(buffer[:end])
        self._unread = None
        self._buffer = buffer[end:]
        self._state = _State.BODY
        if head.length < 0 or len(self._buffer) < head.length:
            unread_request = Request(head.method, head.path, head.query, head.headers, b"")
            refused = self._all.site.answer_unread(unread_request)
            if refused is not None:
                self._give_up(refused)
                return True
        if head.length < 0:
            self._chunks = Chunks()
        if head.awaits_continue and not self._buffer and head.length:
            self._transport.write(_CONTINUE)
        self.deadline = self._loop.time() + BODY_S
        return True

    def _read_body(self) -> bool:
        head, buffer = self._head, self._buffer
        assert head is not None, "a body has a head"
        length = head.length
        if self._chunks is not None:
            at, body = self._chunks.feed(buffer)
            self._buffer = buffer[at:]
            if body is None:
                self._hold(self._chunks.size)
                return False
            self._chunks = None
        elif not self._body and len(buffer) >= length:
            body, self._buffer = buffer[:length], buffer[length:]
        else:
            missing = length - len(self._body)
            self._body += buffer[:missing]
            self._buffer = buffer[missing:]
            if len(self._body) < length:
                self._hold(len(self._body))
                return False
            body, self._body = bytes(self._body), bytearray()
        if body:
            self._hold(len(body))
        self._state = _State.BUSY
        self.deadline = _FOREVER
        request = self._request = Request(head.method, head.path, head.query, head.headers, body)
        self._answer(request)
        return True

    def _hold(self, size: int) -> None:
        """Count what is kept of a body; Refusal if there is too much of all."""
        self._all.body_bytes += size - self._held
        self._held = size
        if size and self._all.body_bytes > BODIES_BYTES_MAX:
            raise Refusal(503, "the gateway has too many bodies: ask again")

    # -- answering

    def _answer(self, request: Request) -> None:
        try:
            answer = self._all.site.answer(request)
        except Exception as error:  # noqa: BLE001 - the site says what is answered
            answer = self._all.site.fail(request, error)
        if isinstance(answer, Response):
            self._finish(answer)
        elif isinstance(answer, Stream):
            self._open_stream(answer)
        else:
            awaited = asyncio.ensure_future(answer)
            self._awaited = awaited
            awaited.add_done_callback(self._on_answer)

    def _on_answer(self, awaited: asyncio.Future[Answer]) -> None:
        self._awaited = None
        error = asyncio.CancelledError() if awaited.cancelled() else awaited.exception()
        if self._state is not _State.BUSY:
            if error is None:
                _note_unsent(awaited.result())
            return
        assert self._request is not None, "an answer has a request"
        if error is not None:
            answer: Answer = self._all.site.fail(self._request, error)
        else:
            answer = awaited.result()
        if isinstance(answer, Stream):
            self._open_stream(answer)
            return
        self._finish(answer)
        self._read_on()

    def _finish(self, response: Response) -> None:
        """Write an answer; then the next request has its turn, unless the client does not take this one."""
        head, request = self._head, self._request
        assert head is not None, "an answer has a head"
        assert request is not None, "an answer has a request"
        is_last = not head.keeps_alive or (self._is_ended and not self._buffer) or self._all.is_closing
        connection = "close" if is_last else "keep-alive" if head.is_http_10 else ""
        try:
            written = self._written(response, connection)
        except ValueError as error:
            response = self._all.site.fail(request, error)
            written = self._written(response, connection)
        if request.method == "HEAD":
            written = written[: len(written) - len(response.body)]
        if response.on_unsent is not None and self._is_left():
            response.on_unsent()
            self.close()
            return
        self._unread = response.on_unsent
        self._transport.write(written)
        if is_last:
            self._end()
        elif not self._is_paused:
            self._next()

    def _is_left(self) -> bool:
        """Whether nobody may be there to read what would be written now."""
        return self._transport.is_closing() or unread.has_left(self._transport)

    def _next(self) -> None:
        """The answer is written: the next request may be read."""
        self._head = self._request = None
        if self._held:
            self._hold(0)
        self._state = _State.HEAD
        self.deadline = self._loop.time() + (HEAD_S if self._buffer else IDLE_S)
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()

    def _written(self, response: Response, connection: str) -> bytes:
        return write_head(response, date=self._all.date, connection=connection) + response.body

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what cannot be read; what follows it is dropped."""
        if self._head is not None:
            refusal.path = self._head.path
        self._give_up(self._all.site.refuse(refusal))

    def _give_up(self, response: Response) -> None:
        """Answer a request that is not read to its end."""
        self._transport.write(self._written(response, "close"))
        self._end()

    def _end(self) -> None:
        """Nothing more is written. The system delivers the answer, if the other side closes or nothing is unread."""
        self._head, self._request, self._buffer = None, None, b""
        self._body, self._chunks = bytearray(), None
        self._hold(0)
        if self._is_ended:
            self.close()
            return
        self._state = _State.DISCARD
        is_written = not self._transport.get_write_buffer_size()
        self._left = 0 if is_written else unread.bytes_left(self._transport)
        self.deadline = self._loop.time() + (DISCARD_S if is_written else WRITE_S)
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()
        with suppress(OSError):
            self._transport.write_eof()

    # -- streams

    def _open_stream(self, stream: Stream) -> None:
        head = self._head
        assert head is not None, "an answer has a head"
        self._head, self._request, self._buffer = None, None, b""
        self._hold(0)
        self._transport.write(write_endless_head(stream.head, date=self._all.date))
        if head.method == "HEAD" or self._all.is_closing:
            self._end()
            return
        self._state = _State.STREAM
        self._stream = stream
        stream.on_open(self)

    def send(self, data: bytes) -> None:
        """Write to an open stream."""
        self._transport.write(data)

    @property
    def is_writable(self) -> bool:
        """Whether the client of a stream takes what is written."""
        return self._state is _State.STREAM and not self._is_paused

    # -- ending

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way, and all answers are written."""
        return self._state is _State.HEAD and not self._buffer and not self._transport.get_write_buffer_size()

    @property
    def is_unasked(self) -> bool:
        """Whether its request has not come as a whole."""
        return self._state is _State.HEAD or self._state is _State.BODY

    @property
    def bytes_ahead(self) -> int:
        """How much was sent ahead of the answer under way."""
        return len(self._buffer)

    def end_late(self) -> None:
        """Its time is over, unless it has taken some of what was written: then it gets more."""
        is_ending = self._state is _State.DISCARD or self._state is _State.CLOSED
        if (self._is_paused or is_ending) and self._transport.get_write_buffer_size():
            left = unread.bytes_left(self._transport)
            if self._left - left >= TAKEN_BYTES_MIN:
                self._left = left
                self.deadline = self._loop.time() + WRITE_S
                return
        if self._state is _State.BODY or (self._state is _State.HEAD and self._buffer):
            self._refuse(Refusal(408, "the request took too long to come"))
        else:
            self.cut()

    def end_soon(self) -> None:
        """The server ends: close what is idle or endless; what is under way is answered first."""
        if self._state is _State.STREAM or self._state is _State.HEAD:
            self.close()

    def close(self) -> None:
        """Close it when all is written; nothing more is read."""
        if self._state is _State.CLOSED:
            return
        self._state = _State.CLOSED
        self._left = unread.bytes_left(self._transport)
        self.deadline = self._loop.time() + WRITE_S
        self._transport.close()

    def cut(self) -> None:
        """Close it at once."""
        self._state = _State.CLOSED
        self.deadline = _FOREVER
        if self._transport.get_write_buffer_size():
            self._transport.abort()  # closing it would wait for a client that takes nothing
        else:
            self._transport.close()


def _note_unsent(answer: Answer) -> None:
    """The connection closed before this could be written."""
    if isinstance(answer, Response) and answer.on_unsent is not None:
        answer.on_unsent()


def _watch(transport: asyncio.Transport) -> None:
    """Let the system notice a client that is gone without a word."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == getattr(socket, "AF_UNIX", None):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * WRITE_S))
