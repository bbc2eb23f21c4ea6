"""HTTP/1.1 messages as bytes, with no I/O: the heads of requests, bodies in chunks, and answers.

What is not exactly as RFC 9112 has it is refused: a proxy in front might understand it in another way, and a part of
one request would pass for the next one.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Final

HEAD_BYTES_MAX = 16 << 10
BODY_BYTES_MAX = 2 << 20
CHUNKS_MAX = 20_000
"""Of one body: reading a chunk costs a microsecond, however short it is."""
_KEPT_BYTES_MAX = 1024  # of a head that is kept, so that it need not be read again
_CHUNK_LINE_MAX = 256  # bytes of the line before a chunk, with extensions that nobody uses
_LENGTH_DIGITS_MAX = 18

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_HEAD = re.compile(
    rb"(" + _TOKEN + rb") ([\x21\x22\x24-\x7e]+) HTTP/1\.([01])\r\n"
    rb"((?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n)*)\r\n"
)
_OTHER_VERSION = re.compile(rb"[^\r\n]* HTTP/(?!1\.[01])[0-9]\.[0-9]\r\n")
_ABSOLUTE = re.compile(r"[Hh][Tt][Tt][Pp][Ss]?://([^/?]+)")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"(?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*)?")
_ONLY_ONCE = frozenset(("content-length", "transfer-encoding", "host", "authorization", "expect"))
_HEADER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [\t\x20-\x7e\x80-\xff]*")

REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


@dataclass(slots=True)
class Request:
    """What was asked. ``path`` is as it was sent, percent-encoded and without the query; the names of ``headers`` are
    in lower case.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Response:
    """An answer. Its length and the like are written by the server."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Sequence[tuple[str, str]] = ()
    on_unsent: Callable[[], None] | None = None
    """Called if nobody can have read the whole answer: its client had closed before it came, or has not taken it. If it
    had closed before it was written, it is not written.
    """


Handler = Callable[[Request], Response | Awaitable[Response]]
"""Answers requests. An Awaitable may take long; it is cancelled when its connection closes."""


class Refusal(Exception):
    """A request that cannot be read. The connection ends after the answer: nobody knows where the next one begins."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.path = ""
        """Of the request, if its head could be read."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The head of a request, and what it says of the body and the connection."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    length: int
    """Bytes of the body; -1 if it comes in chunks."""
    keeps_alive: bool
    is_http_10: bool
    awaits_continue: bool


def read_head(data: bytes) -> RequestHead:
    """The head that ends at the end of ``data``; raises Refusal. A client nearly always sends the same again."""
    return _read_again(data) if len(data) <= _KEPT_BYTES_MAX else _read_head(data)


def _read_head(data: bytes) -> RequestHead:
    match = _HEAD.fullmatch(data)
    if match is None:
        if _OTHER_VERSION.match(data):
            raise Refusal(505, "this server speaks HTTP/1.1 and HTTP/1.0")
        raise Refusal(400, "the head of the request is not as HTTP/1.1 has it")
    method, target, minor, lines = match.groups()
    headers: dict[str, str] = {}
    for line in lines.decode("latin-1").split("\r\n")[:-1]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if name not in headers:
            headers[name] = value
        elif name in _ONLY_ONCE:
            raise Refusal(400, f"the header {name} stands twice")
        else:
            headers[name] += f", {value}"
    is_http_10 = minor == b"0"
    if not is_http_10 and "host" not in headers:
        raise Refusal(400, "the header host is missing")
    host, rest = _split(target.decode("ascii"))
    if host:
        headers["host"] = host  # RFC 9112 3.2.2: the Host that was sent does not count then
    path, _, query = rest.partition("?")
    options = {option.strip() for option in headers.get("connection", "").lower().split(",")}
    try:
        length = _length_of(headers, is_http_10=is_http_10)
        awaits_continue = _awaits_continue(headers, is_http_10=is_http_10)
    except Refusal as refusal:
        refusal.path = path
        raise
    return RequestHead(
        method.decode("ascii"),
        path,
        query,
        headers,
        length=length,
        keeps_alive="keep-alive" in options if is_http_10 else "close" not in options,
        is_http_10=is_http_10,
        awaits_continue=awaits_continue,
    )


_read_again = lru_cache(maxsize=1024)(_read_head)


def _split(target: str) -> tuple[str, str]:
    """The host of a target, if it is a whole URL; and its path and query."""
    if target.startswith("/") or target == "*":
        return "", target
    match = _ABSOLUTE.match(target)
    if match is None:
        raise Refusal(400, "the target of the request is neither a path nor a URL")
    rest = target[match.end() :]
    return match[1], rest if rest.startswith("/") else f"/{rest}"


def _length_of(headers: Mapping[str, str], *, is_http_10: bool) -> int:
    length, encoding = headers.get("content-length"), headers.get("transfer-encoding")
    if encoding is None:
        if length is None:
            return 0
        if not (length.isascii() and length.isdigit()):
            raise Refusal(400, "the content-length is not a number")
        if len(length) > _LENGTH_DIGITS_MAX or int(length) > BODY_BYTES_MAX:
            raise Refusal(413, f"the body has more than {BODY_BYTES_MAX} bytes")
        return int(length)
    if length is not None:
        raise Refusal(400, "the request has a content-length and a transfer-encoding")
    if is_http_10:
        raise Refusal(400, "HTTP/1.0 has no transfer-encoding")
    if encoding.lower() != "chunked":
        raise Refusal(501, "the transfer-encoding is not chunked")
    return -1


def _awaits_continue(headers: Mapping[str, str], *, is_http_10: bool) -> bool:
    expected = headers.get("expect")
    if expected is None or is_http_10:
        return False
    if expected.lower() != "100-continue":
        raise Refusal(417, "only 100-continue can be expected")
    return True


class Chunks:
    """Reads a body in chunks, as it comes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.size = 0
        """Bytes of the chunks so far, with the whole one that is being read."""
        self._left = 0
        """Bytes of the chunk that is being read; -1 for the line end after it."""
        self._is_in_trailers = False
        self._trailer_bytes = 0

    def feed(self, data: bytes, start: int = 0) -> tuple[int, bytes | None]:
        """Read on in ``data``: how far, and the body if this was its end. Raises Refusal."""
        at = start
        while True:
            if self._left > 0:
                part = data[at : at + self._left]
                if not part:
                    return at, None
                self._parts.append(part)
                at += len(part)
                self._left -= len(part)
                if self._left:
                    return at, None
                self._left = -1
            if self._left == -1:
                if len(data) - at < len(b"\r\n"):
                    return at, None
                if data[at : at + 2] != b"\r\n":
                    raise Refusal(400, "a chunk does not end where its length says")
                at += 2
                self._left = 0
            end = data.find(b"\r\n", at, at + _CHUNK_LINE_MAX)
            if end < 0:
                if len(data) - at >= _CHUNK_LINE_MAX:
                    raise Refusal(400, "the line before a chunk is too long")
                return at, None
            line = data[at:end]
            at = end + 2
            if self._is_in_trailers:
                if not line:
                    return at, b"".join(self._parts)
                self._read_trailer(line)
            else:
                self._begin(line)

    def _begin(self, line: bytes) -> None:
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise Refusal(400, "the length of a chunk cannot be read")
        self._left = int(match[1], 16)
        self.size += self._left
        self._is_in_trailers = self._left == 0
        if self.size > BODY_BYTES_MAX:
            raise Refusal(413, f"the body has more than {BODY_BYTES_MAX} bytes")
        if len(self._parts) > CHUNKS_MAX:
            raise Refusal(413, f"the body has more than {CHUNKS_MAX} chunks")

    def _read_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        if not _TRAILER.fullmatch(line) or self._trailer_bytes > HEAD_BYTES_MAX:
            raise Refusal(400, "what follows the chunks cannot be read")


def write_head(response: Response, *, date: str, connection: str = "") -> bytes:
    """The head of an answer with a body of known length. ValueError for a header that would break it."""
    kept = f"Connection: {connection}\r\n" if connection else ""
    more = "".join([_header(name, value) for name, value in response.headers]) if response.headers else ""
    if response.status == HTTPStatus.NO_CONTENT:  # RFC 9110 8.6: it has no length
        return f"HTTP/1.1 204 No Content\r\nDate: {date}\r\n{kept}{more}\r\n".encode("latin-1")
    return (
        f"HTTP/1.1 {response.status} {REASONS.get(response.status, 'Unknown')}\r\nDate: {date}\r\nContent-Type: "
        f"{response.content_type}\r\nContent-Length: {len(response.body)}\r\n{kept}{more}\r\n"
    ).encode("latin-1")


def write_endless_head(response: Response, *, date: str) -> bytes:
    """The head of an answer that ends with its connection."""
    lines = [
        f"HTTP/1.1 {response.status} {REASONS[response.status]}\r\nDate: {date}\r\n",
        f"Content-Type: {response.content_type}\r\nConnection: close\r\n",
        *[_header(name, value) for name, value in response.headers],
        "\r\n",
    ]
    return "".join(lines).encode("latin-1")


def _header(name: str, value: str) -> str:
    line = f"{name}: {value}"
    if not _HEADER.fullmatch(line):
        raise ValueError(f"{line!r} is no header")
    return f"{line}\r\n"
