"""The command `durasleep serve`: what it refuses, who may use it, and how it ends."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from durasleep import Durasleep
from durasleep.errors import SchemaMismatch
from durasleep.protocol.keys import meta_key
from harness.servers import Server
from tests.cli.conftest import Quick, quick
from tests.cli.terminal import Terminal
from tests.gateway.echo import ask, request
from tests.gateway.gateways import Gateways, Poll, Served, fetch, rpc, serving
from tests.service.workers import eventually

__all__ = ["quick"]

TOKEN = "a-token-of-some-length"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
GET = {"kind": "promise.get", "head": {"corrId": "c", "version": "2026-04-01"}, "data": {"id": "a"}}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "other machines would reach it without a token"),
        (["--host", "::"], "other machines would reach it without a token"),
        (["--host", "no.such.host.invalid", "--token", TOKEN], "cannot listen on no.such.host.invalid:8001"),
        (["--host", "192.0.2.1", "--token", TOKEN], "cannot listen on 192.0.2.1:8001: cannot assign requested address"),
        (["--port", "65536"], "'--port'"),
        (["--token", "short"], "the token can be guessed"),
        (["--host", "0.0.0.0", "--allow-host", "a", "--token", ""], "the token is empty"),
        (["--token", "a-token-with-é-in-it"], "the token can be guessed"),
        (["--allow-host", "a b"], "--allow-host 'a b'"),
        (["--bridge", ""], "group"),
        (["--namespace", "a", "shop:app"], "leave one of them out"),
        (["no_such_module"], "there is no module 'no_such_module'"),
    ],
)
def test_it_refuses_in_one_sentence(options: list[str], said: str, tmp_path: Path, quick: Quick) -> None:
    ran = quick(Terminal(tmp_path), "serve", *options)
    assert (ran.code, said in ran.err, ran.err.count("\n")) == (2, True, 1), ran.err


def test_an_address_that_is_taken_is_named(tmp_path: Path, quick: Quick) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = quick(Terminal(tmp_path), "serve", "--port", str(port))
    assert (ran.code, ran.err) == (2, f"error: cannot listen on 127.0.0.1:{port}: address already in use\n")


async def test_with_a_token_nobody_else_is_answered(client: Durasleep) -> None:
    async with serving(client, token=f"{TOKEN}\n") as served:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            for path in ("/poll/a/b", "/v1/executions", "/no/such/path"):
                answered = await fetch(f"{served.url}{path}", headers=headers)
                assert (answered.status, answered.headers["WWW-Authenticate"]) == (401, "Bearer")
            answered = await fetch(f"{served.url}/", method="POST", data=GET, headers=headers)
            assert (answered.status, answered.json()["head"]) == (
                401,
                {"corrId": "c", "status": 401, "version": "2026-04-01"},
            )
        assert (await rpc(served.url, "promise.get", head={"auth": "wrong"}, id="a"))[0] == 401
        assert (await rpc(served.url, "promise.get", head={"auth": TOKEN}, id="a"))[0] == 404
        answered = await fetch(
            f"{served.url}/", method="POST", data=GET, headers=BEARER | {"Origin": "https://a.example"}
        )
        assert answered.status == 404
        poll = await Poll.open(served.port, "a", "b", headers=f"authorization: bearer {TOKEN}\r\n")
        await poll.close()
        for path in ("/health", "/ready"):
            assert (await fetch(f"{served.url}{path}")).status == 200


async def test_without_a_token_pages_and_other_names_are_refused(client: Durasleep) -> None:
    async with serving(client, allowed_hosts=["Gateway.internal"]) as served:

        async def status(**headers: str) -> int:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return (await fetch(f"{served.url}/", method="POST", data=GET, headers=named)).status

        assert await status(Origin="https://a.example") == 403
        assert await status(Sec_Fetch_Site="cross-site") == 403
        for host in ("a.example", "127.0.0.1.a.example:80", "a b", ""):
            assert await status(Host=host) == 403, host
        for host in ("localhost:8001", "localhost:", "[::1]:8001", "127.0.0.2", "gateway.INTERNAL.:9"):
            assert await status(Host=host) == 404, host
        assert (await fetch(f"{served.url}/health", headers={"Host": "10.0.0.7:8001"})).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 405),
        ("OPTIONS", "/", 405),
        ("POST", "/health", 405),
        ("POST", "/poll/a/b", 405),
        ("GET", "/poll/a", 404),
        ("GET", "/poll/a/b/c", 404),
        ("GET", "/poll//b", 404),
        ("HEAD", "/poll/a/b", 200),
        ("HEAD", "/ready", 200),
        ("GET", "/v1", 404),
        ("GET", "/promise", 404),
        ("GET", "*", 404),
    ],
)
async def test_paths_and_methods(gateway: Served, method: str, path: str, status: int) -> None:
    answered = await fetch(f"{gateway.url}{path}" if path != "*" else f"{gateway.url}/*", method=method)
    assert answered.status == status
    if status == 405:
        assert answered.headers["Allow"]
    assert "Access-Control-Allow-Origin" not in answered.headers


@pytest.mark.parametrize("options", [{}, {"token": TOKEN}])
async def test_whatever_the_target_is_the_answer_is_no_failure(
    client: Durasleep, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(client, **options) as served:
        for target in ("*", "//", "/%00", "http://localhost", "/?", "/v1/%FF", "/poll/%FF/%00"):
            reply, _ = await ask(served.port, request("OPTIONS", target, host="Host: localhost"))
            assert 400 <= reply.status < 500, target
            assert reply.json()["instance"], target
        reply, _ = await ask(served.port, request("GET", "http://evil.example/v1/groups", host="Host: localhost"))
        assert reply.status == (401 if options else 403)
    assert not caplog.records


async def test_it_is_a_process_that_ends_when_it_is_told_to(gateways: Gateways) -> None:
    process = await gateways.start("--host", "0.0.0.0", DURASLEEP_GATEWAY_TOKEN=TOKEN)
    for path in ("/health", "/ready"):
        assert (await fetch(f"{process.url}{path}")).status == 200
    assert (await fetch(f"{process.url}/v1/executions")).status == 401
    assert (await fetch(f"{process.url}/v1/executions", headers=BEARER)).status == 200
    poll = await Poll.open(process.port, "a", "b", headers=f"Authorization: Bearer {TOKEN}\r\n")
    process.signal(signal.SIGTERM)
    await poll.ended()
    assert await process.exited() == 0
    assert "Traceback" not in process.log()


async def test_a_second_poll_of_a_process_takes_the_place_of_the_first(gateway: Served) -> None:
    first = await Poll.open(gateway.port, "a%20b", "p%2F1")
    second = await Poll.open(gateway.port, "a%20b", "p%2F1")
    await first.ended()
    tags = {"resonate:target": "poll://uni@a b/p/1"}
    await rpc(gateway.url, "promise.create", id="a", timeoutAt=4_000_000_000_000, tags=tags)
    assert (await second.message())["data"]["task"]["id"] == "a"


async def test_there_is_a_last_poll(gateway: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from durasleep.gateway import polls

    monkeypatch.setattr(polls, "POLLS_MAX", 2)
    first = await Poll.open(gateway.port, "a", "1")
    await Poll.open(gateway.port, "a", "2")
    assert (await fetch(f"{gateway.url}/poll/a/3")).status == 503
    await Poll.open(gateway.port, "a", "2")  # the same again
    await first.close()

    async def is_taken() -> bool:
        try:
            await Poll.open(gateway.port, "a", "3")
        except AssertionError:
            return False
        return True

    await eventually(is_taken, "room for a poll")


async def test_the_tests_of_sdks_choose_the_time(client: Durasleep) -> None:
    async with serving(client, debug=True) as served:
        assert (await rpc(served.url, "debug.start"))[0] == 200
        at = {"resonate:debug_time": 1_000}
        await rpc(served.url, "promise.create", head=at, id="a", timeoutAt=5_000, tags={"resonate:external": "true"})
        assert (await rpc(served.url, "promise.get", head=at, id="a"))[1]["promise"]["state"] == "pending"
        await rpc(served.url, "debug.tick", time=5_000)
        assert (await rpc(served.url, "promise.get", head=at, id="a"))[1]["promise"]["state"] == "rejected_timedout"
        assert (await rpc(served.url, "debug.reset"))[0] == 200
        assert (await rpc(served.url, "promise.get", head=at, id="a"))[0] == 404
        assert (await rpc(served.url, "debug.snap"))[0] == 501
        for time in (None, "5", True, -1, 5.5, 2**53, 10**23):
            assert (await rpc(served.url, "debug.tick", time=time))[0] == 400, time
        assert (await rpc(served.url, "debug.stop"))[0] == 200


async def test_only_with_debug(gateway: Served) -> None:
    assert (await rpc(gateway.url, "debug.tick", time=5_000))[0] == 400
    at = {"resonate:debug_time": 1_000}
    _, data = await rpc(gateway.url, "promise.create", head=at, id="a", timeoutAt=5_000, tags={})
    assert data["promise"]["state"] == "rejected_timedout"


async def test_it_ends_if_its_namespace_cannot_be_used_any_more(
    one_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durasleep.gateway.gateway.CHECK_S", 0.05)
    monkeypatch.setattr("durasleep.transport.store.CHECK_S", 0.0)

    async def serve_until_it_ends() -> None:
        async with Durasleep(one_server.url, namespace=namespace) as client, serving(client) as served:
            poll = await Poll.open(served.port, "a", "b")
            one_server.sync_client().hset(meta_key(namespace), "schema", 99)
            await poll.ended()

    with pytest.raises(SchemaMismatch):
        await serve_until_it_ends()
    one_server.sync_client().delete(meta_key(namespace))


async def test_a_comment_keeps_a_quiet_poll_open(
    one_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durasleep.gateway.gateway.COMMENT_S", 0.05)
    async with Durasleep(one_server.url, namespace=namespace) as client, serving(client) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET /poll/a/b HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"text/event-stream" in head
        assert (await asyncio.wait_for(reader.readuntil(b"\n\n"), 5)).startswith(b":")
        writer.close()
        await writer.wait_closed()
