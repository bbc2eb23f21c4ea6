"""The server of the gateway: what it reads, what it refuses, and what it does not wait for."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator

import pytest

from durasleep.gateway import connection, http, unread
from durasleep.gateway.api import problems
from tests.gateway.echo import LARGE, Echo, Reply, Wire, ask, chunked, echoing, request
from tests.service.workers import eventually

CHUNKED = ["Transfer-Encoding: chunked"]


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Echo, int]]:
    async with echoing() as served:
        yield served


@pytest.fixture
def port(echo: tuple[Echo, int]) -> int:
    return echo[1]


@pytest.mark.parametrize(
    ("sent", "target"),
    [
        ("/a/b%20c?x=1&y", ("/a/b%20c", "x=1&y")),
        ("http://example.com/a?b", ("/a", "b")),
        ("HTTPS://example.com:8001", ("/", "")),
        ("http://example.com?q", ("/", "q")),
        ("http://x", ("/", "")),
        ("*", ("*", "")),
        ("//a//b", ("//a//b", "")),
    ],
)
async def test_a_target_is_a_path_or_a_url(port: int, sent: str, target: tuple[str, str]) -> None:
    reply, _ = await ask(port, request("OPTIONS", sent))
    assert (reply.json()["path"], reply.json()["query"]) == target
    host = sent.split("/")[2].partition("?")[0] if "://" in sent else "x"
    assert reply.json()["headers"]["host"] == host  # that of a URL counts


GOOD = "GET / HTTP/1.1\r\nHost: x\r\n"
POST = "POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        (f"{GOOD}Host: y\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        ("GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505),
        ("GET / HTTP/1.10\r\nHost: x\r\n\r\n", 400),
        ("GET / http/1.1\r\nHost: x\r\n\r\n", 400),
        ("G(T / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("GET a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("GET /#a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("GET /\xe9 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (f"{GOOD}A: b\r\n c\r\n\r\n", 400),
        (f"{GOOD}A : b\r\n\r\n", 400),
        (f"{GOOD}A\r\n\r\n", 400),
        (f"{GOOD}: b\r\n\r\n", 400),
        (f"{GOOD}A: b\nC: d\r\n\r\n", 400),
        (f"{GOOD}A: b\rC: d\r\n\r\n", 400),
        (f"{GOOD}A: \0\r\n\r\n", 400),
        (f"{POST}Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),
        (f"{POST}Content-Length: 1, 1\r\n\r\na", 400),
        (f"{POST}Content-Length: -1\r\n\r\n", 400),
        (f"{POST}Content-Length: +1\r\n\r\na", 400),
        (f"{POST}Content-Length: 0x1\r\n\r\na", 400),
        (f"{POST}Content-Length: \r\n\r\na", 400),
        (f"{POST}Content-Length: \xb2\r\n\r\na", 400),
        (f"{POST}Content-Length: 1 1\r\n\r\na", 400),
        (f"{POST}Content-Length: 2097153\r\n\r\n", 413),
        (f"{POST}Content-Length: {'9' * 5000}\r\n\r\n", 413),
        (f"{POST}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (f"{POST}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (f"{POST}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (f"{POST}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (f"{POST}Expect: 200-ok\r\n\r\n", 417),
        (f"{POST}Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", 400),
        (f"{POST}Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n", 400),
        (f"{POST}Transfer-Encoding: chunked\r\n\r\n\r\n", 400),
        (f"{POST}Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", 400),
        (f"{POST}Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", 400),
        (f"{POST}Transfer-Encoding: chunked\r\n\r\n200001\r\n", 413),
        (f"{POST}Transfer-Encoding: chunked\r\n\r\nfffffffff\r\n", 400),
        (f"{POST}Transfer-Encoding: chunked\r\n\r\n1;{'a' * 300}\r\n", 400),
        (f"{POST}Transfer-Encoding: chunked\r\n\r\n0\r\n folded\r\n\r\n", 400),
        (f"{GOOD}A: {'b' * 16_384}\r\n\r\n", 431),
        ("G" * 20_000, 431),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
)
async def test_what_is_not_exactly_http_is_refused_and_the_connection_ends(port: int, sent: str, status: int) -> None:
    reply, is_closed = await ask(port, sent.encode("latin-1"))
    assert (reply.status, is_closed) == (status, True), reply.body
    assert reply.json()["type"].rpartition("#")[2] in problems.KINDS


async def test_chunks_are_one_body(port: int) -> None:
    body = chunked(b"ab", b"c" * 70_000, trailer=b"Checksum: 1\r\n")
    reply, is_closed = await ask(port, request("POST", headers=CHUNKED) + body)
    assert (reply.json()["size"], is_closed) == (70_002, False)
    reply, _ = await ask(port, request("POST", headers=CHUNKED) + b"2;name=value\r\nab\r\n0\r\n\r\n")
    assert reply.json()["size"] == 2


async def test_the_largest_body_is_read(port: int) -> None:
    reply, _ = await ask(port, request("POST", body=b"x" * http.BODY_BYTES_MAX))
    assert reply.json()["size"] == http.BODY_BYTES_MAX


async def test_a_refusal_arrives_although_a_body_is_being_sent(port: int) -> None:
    wire = await Wire.open(port)
    await wire.write(f"{POST}Content-Length: 90000000\r\n\r\n".encode(), *[b"x" * 65_536] * 40)
    assert (await wire.reply()).status == 413
    assert await wire.ended() == b""


async def test_pipelined_requests_are_answered_in_their_order(echo: tuple[Echo, int]) -> None:
    site, port = echo
    wire = await Wire.open(port)
    await wire.write(request("POST", "/slow", body=b"a") + b"".join(request(target=f"/{n}") for n in range(50)))
    await eventually(lambda: site.asked, "the first request")
    assert len(site.asked) == 1
    site.go.set()
    paths = [(await wire.reply()).json()["path"] for _ in range(51)]
    assert paths == ["/slow", *[f"/{n}" for n in range(50)]]


async def test_what_is_sent_ahead_is_not_kept_without_end(echo: tuple[Echo, int]) -> None:
    site, port = echo
    wire = await Wire.open(port)
    count = 2000
    await wire.write(request("POST", "/slow", body=b"a"))
    writing = asyncio.create_task(wire.write(*[request(target="/" + "a" * 1000)] * count))
    [served] = await eventually(lambda: site.asked and list(site.connections.open), "the first request")
    await eventually(lambda: not site.transports[0].is_reading(), "a pause")
    assert served.bytes_ahead < 1 << 20
    site.go.set()
    for _ in range(count + 1):
        await wire.reply()
    await writing


async def test_100_continue_is_said_when_the_body_is_wanted(port: int) -> None:
    wire = await Wire.open(port)
    await wire.write(request("POST", headers=["Expect: 100-continue", "Content-Length: 2"]))
    assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await wire.write(b"ab")
    assert (await wire.reply()).json()["size"] == 2
    await wire.write(request("POST", headers=["Expect: 100-continue", "Content-Length: 90000000"]))
    assert (await wire.reply()).status == 413


async def test_head_is_get_without_a_body(port: int) -> None:
    wire = await Wire.open(port)
    await wire.write(request("HEAD") + request())
    assert int((await wire.reply(has_body=False)).headers["content-length"]) > 0
    assert (await wire.reply()).json()["method"] == "GET"


@pytest.mark.parametrize(
    ("sent", "connection"),
    [
        (request(), None),
        (request(headers=["Connection: Close"]), "close"),
        (request(headers=["Connection: closed, keep"]), None),
        (b"GET / HTTP/1.0\r\n\r\n", "close"),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "keep-alive"),
    ],
)
async def test_a_connection_is_kept_as_its_client_wants(port: int, sent: bytes, connection: str | None) -> None:
    reply, _ = await ask(port, sent)
    assert (reply.status, reply.headers.get("connection")) == (200, connection)


async def test_a_client_that_sends_no_more_gets_its_answers(port: int) -> None:
    wire = await Wire.open(port)
    await wire.write(b"\r\n" + request() + b"\r\n" + request(target="/b"))
    wire.writer.write_eof()
    assert [(await wire.reply()).json()["path"] for _ in range(2)] == ["/", "/b"]
    assert await wire.ended() == b""


async def test_a_client_that_sends_no_more_is_waited_for_a_little(
    echo: tuple[Echo, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, port = echo
    for is_quick in (True, False):
        monkeypatch.setattr(connection, "HALF_S", 60 if is_quick else 0.1)
        wire = await Wire.open(port)
        await wire.write(request(target="/slow"))
        await eventually(lambda: site.asked, "the request")
        wire.writer.write_eof()
        if is_quick:
            await asyncio.wait_for(site.ended.wait(), 5)
            site.go.set()
            assert (await wire.reply()).status == 200
            site.go.clear()
            site.asked.clear()
        assert await wire.ended() == b""
    assert site.cancelled.is_set()


@pytest.mark.parametrize("notices", [True, False])
async def test_an_answer_that_is_called_lost_was_not_read(
    echo: tuple[Echo, int], notices: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``notices`` is whether the server knows of the end of its client before it answers."""
    site, port = echo
    if not notices:

        def has_left(_transport: asyncio.Transport) -> bool:
            return False

        monkeypatch.setattr(unread, "has_left", has_left)
    for closes in (True, False):
        wire = await Wire.open(port)
        await wire.write(request(target="/lent"))
        await eventually(lambda: site.asked, "the request")
        if closes:
            await wire.close()
        else:
            wire.writer.write_eof()
        await asyncio.wait_for(site.ended.wait(), 5)
        site.go.set()
        was_read = False if closes else bool(await wire.ended())
        await eventually(lambda: not site.connections.open, "the end of the connection")
        assert site.lost.is_set() is not was_read
        assert was_read is (not closes and not notices)
        for event in (site.go, site.lost, site.ended):
            event.clear()
        site.asked.clear()


async def test_a_client_that_has_read_its_answer_may_close_as_it_likes(echo: tuple[Echo, int]) -> None:
    site, port = echo
    site.go.set()
    for is_reset in (True, False):
        wire = await Wire.open(port)
        await wire.write(request(target="/lent"))
        assert (await wire.reply()).status == 200
        if is_reset:
            wire.reset()
        else:
            await wire.close()
        await eventually(lambda: not site.connections.open, "the end of the connection")
        assert not site.lost.is_set()


@pytest.mark.parametrize("ending", ["client", "server"])
async def test_an_answer_that_is_written_arrives_as_a_whole(ending: str) -> None:
    kept_bytes = LARGE // 8 if ending == "client" else 2 * LARGE
    async with echoing(kept_bytes=kept_bytes) as (site, port):
        wire = await Wire.open(port, receive_bytes=65_536)
        await wire.write(request(target="/large"))
        await eventually(lambda: site.asked, "the request")
        if ending == "client":
            wire.writer.write_eof()
            closing = None
        else:
            closing = asyncio.create_task(site.connections.close(10.0))
        await wire.reader.readuntil(b"\r\n\r\n")
        assert len(await wire.ended()) == LARGE
        await wire.close()
        if closing is not None:
            await closing


async def test_the_system_is_told_to_notice_clients_that_are_gone(echo: tuple[Echo, int]) -> None:
    site, port = echo
    await Wire.open(port)
    [transport] = await eventually(lambda: site.transports, "the connection")
    served = transport.get_extra_info("socket")
    assert served.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert served.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * connection.WRITE_S


async def test_errors_of_handlers_are_answered(port: int) -> None:
    for target in ("/broken", "/split"):
        wire = await Wire.open(port)
        await wire.write(request(target=target) + request())
        assert (await wire.reply()).status == 500
        assert (await wire.reply()).status == 200


async def test_a_connection_that_closes_cancels_what_it_waits_for(echo: tuple[Echo, int]) -> None:
    site, port = echo
    wire = await Wire.open(port)
    await wire.write(request(target="/slow"))
    await eventually(lambda: site.asked, "the request")
    await wire.close()
    await asyncio.wait_for(site.cancelled.wait(), 5)


@pytest.mark.parametrize("sent", [b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"])
async def test_a_slow_request_is_not_waited_for(sent: bytes, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.2)
    monkeypatch.setattr(connection, "BODY_S", 0.2)
    reply, is_closed = await ask(port, sent)
    assert (reply.status, is_closed) == (408, True)


async def test_idle_connections_end_without_a_word(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "IDLE_S", 0.2)
    wire = await Wire.open(port)
    await wire.write(request())
    assert (await wire.reply()).status == 200
    assert await wire.ended() == b""


@pytest.mark.parametrize(("target", "is_half"), [("/large", False), ("/large", True), ("/stream", False)])
async def test_a_reader_that_takes_nothing_is_cut(
    echo: tuple[Echo, int], target: str, is_half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WRITE_S", 0.3)
    site, port = echo
    wire = await Wire.open(port, receive_bytes=4096)
    await wire.write(request(target=target))
    if is_half:
        await eventually(lambda: site.asked, "the request")
        wire.writer.write_eof()
    if target == "/stream":
        [stream] = await eventually(lambda: site.streams, "the stream")
        while stream.is_writable:
            stream.send(b"data: {}\n\n" * 1000)
    await eventually(lambda: site.asked and not site.connections.open, "the end of the connection")
    assert not site.streams
    assert site.lost.is_set() is (target == "/large")
    assert len(await wire.ended()) < LARGE  # what the system holds for the reader


async def test_a_slow_reader_gets_its_answer(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WRITE_S", 0.3)
    wire = await Wire.open(port, receive_bytes=65_536)
    await wire.write(request(target="/large"))
    await wire.reader.readuntil(b"\r\n\r\n")
    begun, left = time.monotonic(), LARGE
    while left:
        left -= len(await wire.reader.readexactly(min(left, 1 << 18)))
        await asyncio.sleep(0.03)  # it is slow: that is what is tested
    assert time.monotonic() - begun > 2 * connection.WRITE_S


async def test_the_body_of_a_request_that_is_refused_anyway_is_not_read(echo: tuple[Echo, int]) -> None:
    site, port = echo
    for headers in (["Content-Length: 2000000"], CHUNKED, ["Expect: 100-continue", "Content-Length: 5"]):
        reply, is_closed = await ask(port, request("POST", "/closed", headers=headers))
        assert (reply.status, is_closed) == (401, True)
    assert not site.asked


@pytest.mark.parametrize("headers", [["Content-Length: 100000"], CHUNKED])
async def test_all_bodies_together_have_a_bound(
    echo: tuple[Echo, int], headers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BODIES_BYTES_MAX", 100_000)
    site, port = echo
    part = (b"%x\r\n" % 60_000 if headers is CHUNKED else b"") + b"x" * 60_000
    first = await Wire.open(port)
    await first.write(request("POST", headers=headers), part)
    await eventually(lambda: site.connections.body_bytes == 60_000, "the first body")
    reply, is_closed = await ask(port, request("POST", "/a", headers=headers), part)
    assert (reply.status, is_closed, reply.json()["instance"]) == (503, True, "/a")
    await first.close()
    await eventually(lambda: site.connections.body_bytes == 0, "the end of the first body")


async def test_a_body_counts_until_it_is_answered(echo: tuple[Echo, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BODIES_BYTES_MAX", 100_000)
    site, port = echo
    first, body = await Wire.open(port), b"x" * 60_000
    for sent in (request("POST", "/slow", body=body), request("POST", "/slow", CHUNKED) + chunked(body)):
        await first.write(sent)
        await eventually(lambda: site.asked, "the first request")
        assert (await ask(port, request("POST", body=body)))[0].status == 503
        site.go.set()
        assert (await first.reply()).status == 200
        assert (await ask(port, request("POST", body=body)))[0].status == 200
        site.go.clear()
        site.asked.clear()
    await first.write(request("POST", "/stream", body=body))
    await eventually(lambda: site.streams, "the stream")
    assert site.connections.body_bytes == 0


async def test_a_server_that_ends_answers_what_is_under_way(echo: tuple[Echo, int]) -> None:
    site, port = echo
    busy, idle, stream = [await Wire.open(port) for _ in range(3)]
    await busy.write(request(target="/slow"))
    await idle.write(request())
    assert (await idle.reply()).status == 200
    await stream.write(request(target="/stream"))
    await eventually(lambda: len(site.asked) == 3 and site.streams, "all requests")
    ending = asyncio.create_task(site.connections.close(5.0))
    assert await idle.ended() == b""
    assert (await stream.ended()).startswith(b"HTTP/1.1 200 OK")
    site.go.set()
    reply = await busy.reply()
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    await busy.close()
    await ending


async def test_one_connection_too_many_takes_the_place_of_an_idle_one() -> None:
    async with echoing(connections_max=2) as (site, port):
        busy, idle = [await Wire.open(port) for _ in range(2)]
        await busy.write(request(target="/slow"))
        await eventually(lambda: site.asked, "the request")
        await idle.write(request())
        await idle.reply()
        third = await Wire.open(port)
        await third.write(request(target="/slow"))
        await eventually(lambda: len(site.asked) == 3, "the third request")
        assert await idle.ended() == b""
        fourth = await Wire.open(port)
        assert (await fourth.reply()).status == 503
        site.go.set()
        assert [(await wire.reply()).status for wire in (busy, third)] == [200, 200]


async def test_half_requests_do_not_keep_others_out() -> None:
    async with echoing(connections_max=2) as (site, port):
        for half in (b"GET / HT", request("POST", headers=["Content-Length: 5"]) + b"ab"):
            wires = [await Wire.open(port) for _ in range(2)]
            for wire in wires:
                await wire.write(half)
            await eventually(lambda: not any(one.is_idle for one in site.connections.open), "half requests")
            reply, _ = await ask(port, request())
            assert reply.status == 200


def _some_requests(chance: random.Random) -> list[tuple[bytes, int]]:
    """Requests, each with the size of its body."""
    made: list[tuple[bytes, int]] = []
    for _ in range(chance.randint(1, 6)):
        size = chance.choice([0, 1, 3, 100, 5000])
        headers = [f"X-{n}: {'v' * chance.randint(0, 50)}" for n in range(chance.randint(0, 5))]
        if chance.random() < 0.5:
            at = sorted(chance.randint(0, size) for _ in range(3))
            parts = [b"y" * n for n in (at[0], at[1] - at[0], at[2] - at[1], size - at[2]) if n]
            made.append((request("POST", headers=[*headers, *CHUNKED]) + chunked(*parts), size))
        else:
            made.append((request("POST", headers=headers, body=b"y" * size), size))
    return made


async def test_it_does_not_matter_how_the_bytes_come(port: int) -> None:
    for seed in range(30):
        chance = random.Random(seed)
        asked = _some_requests(chance)
        data = b"".join(sent for sent, _ in asked)
        cuts = sorted(chance.sample(range(len(data)), min(len(data) - 1, chance.choice([0, 1, 5, 60]))))
        wire = await Wire.open(port)
        await wire.write(*[data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)])
        sizes = [(await wire.reply()).json()["size"] for _ in asked]
        assert sizes == [size for _, size in asked], f"seed {seed}"
        await wire.close()


async def test_garbage_is_refused_and_harms_nobody(echo: tuple[Echo, int]) -> None:
    site, port = echo
    good, spoilt = request("POST", headers=[*CHUNKED, "A: b"]) + chunked(b"ab", b"c"), 0
    for seed in range(100):
        chance = random.Random(seed)
        data = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice([0, 9, 10, 13, 32, 48, 57, 58, 59, 65, 127, 255])
        before = len(site.asked)
        wire = await Wire.open(port)
        await wire.write(bytes(data))
        wire.writer.write_eof()
        await wire.ended()
        spoilt += len(site.asked) == before
        assert all(one.body in (b"", b"abc") or len(one.body) == 3 for one in site.asked[before:]), bytes(data)
        await wire.close()
    assert spoilt > 25
    assert isinstance((await ask(port, request()))[0], Reply)
