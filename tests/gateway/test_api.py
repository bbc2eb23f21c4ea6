"""`/v1` of a gateway, as programs in any language use it. Every request and answer is held against the OpenAPI file."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from durasleep import Codec, Context, Durasleep, publish
from durasleep.client.client import store_of
from durasleep.codec.values import unpack
from durasleep.errors import NotFound
from durasleep.gateway.api import values
from durasleep.gateway.api.idempotency import Noted, Repeats
from durasleep.gateway.api.problems import Problem
from durasleep.gateway.api.table import TABLE
from durasleep.gateway.api.values import Document
from durasleep.gateway.http import Request
from durasleep.protocol.command import Command
from harness.proxy import Proxy
from harness.servers import Server
from tests.gateway.described import Caller, Described, word_of
from tests.gateway.gateways import serving
from tests.service.workers import eventually

MOMENT = datetime(2027, 3, 1, 12, tzinfo=UTC)
RICH = {"at": MOMENT, "raw": b"\x00\xff", "sum": Decimal("4.20"), "many": {7}, "big": 2**60, "day": date(2027, 3, 1)}


def functions(app: Durasleep) -> None:
    """What the application of these tests can do."""

    @app.task
    def add(a: int, b: int = 1) -> int:
        return a + b

    @app.task
    def give(value: Any) -> Any:
        return value

    @app.task
    def rich() -> dict[Any, Any]:
        return {**RICH, "nan": float("nan"), 3: "three"}

    @app.task
    def fail(how: str) -> None:
        raise ValueError(how)

    @app.workflow
    async def sleep(ctx: Context, seconds: float) -> str:
        ctx.publish(status="asleep")
        await ctx.sleep(seconds)
        return "awake"

    @app.workflow
    async def listen(ctx: Context) -> list[Any]:
        heard: list[Any] = []
        async for message in ctx.messages("chat"):
            if message.value == "end":
                break
            heard.append(message.value)
            await message.reply({"heard": len(heard)})
        return heard

    @app.workflow
    async def approve(ctx: Context) -> Any:
        return await ctx.promise(name="approval")

    @app.task
    async def report() -> None:
        publish(part=1)

    del add, give, rich, fail, sleep, listen, approve, report


@pytest.fixture(scope="session")
def described() -> Described:
    return Described()


@pytest.fixture
async def app(one_server: Server, namespace: str) -> AsyncIterator[Durasleep]:
    """An application, served by a worker in this process."""
    app = Durasleep(one_server.url, namespace=namespace)
    functions(app)
    async with app, app.serving():
        yield app


@pytest.fixture
async def v1(app: Durasleep, client: Durasleep, described: Described) -> AsyncIterator[Caller]:
    """A caller of a gateway that does not have the application."""
    async with serving(client) as served:
        caller = Caller(served.url, described)
        try:
            yield caller
        finally:
            await caller.aclose()


def packed(value: Any) -> str:
    return base64.b64encode(Codec().encode(value, "the value")).decode()


def unpacked(text: str) -> Any:
    return unpack(base64.b64decode(text))


# -- executions ---------------------------------------------------------------


async def test_the_same_id_is_the_same_execution(v1: Caller) -> None:
    first = await v1.start("sum", "add", 2, kwargs={"b": 3}, wait=20)
    assert first.status_code == 201
    assert first.headers["location"] == "/v1/executions/sum"
    assert first.json() == {"id": "sum", "disposition": "created", "state": "resolved", "value": 5}
    again = await v1.start("sum", "add", 2, kwargs={"b": 3})
    assert again.status_code == 200
    assert again.json() == {"id": "sum", "disposition": "finished", "state": "resolved", "value": 5}
    other = await v1.start("sum", "give", 1)
    assert (other.status_code, word_of(other)) == (409, "other-function")


async def test_a_get_that_waits_answers_when_the_execution_ends(v1: Caller, app: Durasleep) -> None:
    assert (await v1.start("patient", "sleep", 3600)).json()["state"] == "pending"
    waiting = asyncio.create_task(v1.get("/v1/executions/patient", wait=30))
    await eventually(lambda: _status(app, "patient"), "it to sleep")
    assert not waiting.done()
    await v1.post("/v1/executions/patient:wake")
    found = (await waiting).json()
    assert (found["state"], found["value"], found["function"]) == ("resolved", "awake", "sleep")
    assert (found["args"], found["kwargs"], "json_notes" in found) == ([3600], {}, False)


async def _status(app: Durasleep, id: str) -> bool:
    return (await app.describe(id)).status == "suspended"


async def test_a_get_that_waits_in_vain_shows_the_state(v1: Caller) -> None:
    await v1.start("long", "sleep", 3600)
    found = (await v1.get("/v1/executions/long", wait=1)).json()
    assert found["state"] == "pending"
    assert [(one["kind"], one["id"]) for one in found["waiting_on"]] == [("timer", "long~1")]


async def test_the_options_of_a_call_are_those_of_the_client(v1: Caller) -> None:
    options: dict[str, Any] = {
        "delay": "1h",
        "timeout": 7200,
        "priority": 1,
        "labels": {"customer": "7"},
        "retention": "forever",
    }
    assert (await v1.start("later", "add", 1, **options)).json()["state"] == "pending"
    found = (await v1.get("/v1/executions/later")).json()
    assert (found["status"], found["priority"], found["labels"]) == ("delayed", 1, {"customer": "7"})
    assert found["timeout_at_ms"] - found["created_at_ms"] == pytest.approx(7_200_000, abs=1_000)
    moved = await v1.post("/v1/executions/later:reschedule", {"due": "2100-01-01T00:00:00Z"})
    assert moved.json()["word"] == "rescheduled"
    due = datetime(2100, 1, 1, tzinfo=UTC).timestamp() * 1000
    assert (await v1.get("/v1/executions/later")).json()["waiting_on"][0]["due_ms"] == due
    assert (await v1.start("at", "add", 1, delay="2100-01-01T00:00:00Z")).status_code == 201
    assert (await v1.start("sum", "add", 1, wait=20)).json()["value"] == 2
    assert (await v1.start("sum", "add", 5, if_finished="start", wait=20)).json()["value"] == 6


async def test_an_execution_without_an_id_gets_one(v1: Caller) -> None:
    made = await v1.post("/v1/executions", {"function": "add", "args": [1]}, wait=20)
    assert (made.status_code, made.json()["value"]) == (201, 2)
    assert (await v1.get(made.headers["location"])).json()["id"] == made.json()["id"]


async def test_any_id_stands_in_a_path_percent_encoded(v1: Caller) -> None:
    for id in ("a/b", "x:wake", ":x", "a%2Fb", "ü +?#", "{tag}1", "a&b=c", "Ω" * 200):
        assert (await v1.start(id, "give", id, wait=20)).json()["value"] == id
        place = f"/v1/executions/{quote(id, safe='')}"
        assert (await v1.get(place)).json()["id"] == id
        assert (await v1.post(f"{place}:cancel")).json() == {"id": id, "word": "already", "state": "resolved"}


# -- values -------------------------------------------------------------------


async def test_what_json_cannot_carry_is_named(v1: Caller) -> None:
    found = (await v1.start("rich", "rich", wait=20)).json()
    assert found["value"] == {
        "at": "2027-03-01T12:00:00+00:00",
        "raw": "AP8=",
        "sum": "4.20",
        "many": [7],
        "big": 2**60,
        "day": "2027-03-01",
        "nan": None,
        "3": "three",
    }
    notes = {one["at"].removeprefix("/value/"): one["type"] for one in found["json_notes"]}
    assert notes == {
        "at": "datetime",
        "raw": "bytes",
        "sum": "decimal",
        "many": "set",
        "big": "integer",
        "day": "date",
        "nan": "nan",
        "3": "key",
    }
    exact = (await v1.get("/v1/executions/rich", values="msgpack")).json()
    value = unpacked(exact["value_msgpack"])
    assert {name: value[name] for name in RICH} == RICH
    assert value[3] == "three"
    assert "value" not in exact
    assert "json_notes" not in exact


async def test_messagepack_in_a_request_is_exact(v1: Caller, app: Durasleep) -> None:
    plain = await v1.post(
        "/v1/executions/packed",
        {"function": "give", "args_msgpack": packed([b"\x00\x01"]), "kwargs_msgpack": packed({})},
        wait=20,
        values="msgpack",
    )
    assert unpacked(plain.json()["value_msgpack"]) == b"\x00\x01"
    assert await app.get("packed").result() == b"\x00\x01"


async def test_an_encrypted_value_needs_the_gateway_of_its_application(
    one_server: Server, namespace: str, described: Described, v1: Caller
) -> None:
    class Reversed:
        def wrap(self, payload: bytes) -> bytes:
            return b"\xc1" + payload[::-1]

        def unwrap(self, payload: bytes) -> bytes:
            return payload[:0:-1]

    secret = Durasleep(one_server.url, namespace=namespace, group="secret", codec=Codec(outer=Reversed()))
    functions(secret)
    async with secret, secret.serving(), serving(secret) as served:
        with_app = Caller(served.url, described)
        try:
            assert (await with_app.start("hidden", "give", "x", wait=20)).json()["value"] == "x"
        finally:
            await with_app.aclose()
        found = (await v1.get("/v1/executions/hidden")).json()
        assert found["state"] == "resolved"
        assert "value" not in found
        assert "payload" in found["value_unreadable"]


async def test_an_error_has_its_type_and_message(v1: Caller) -> None:
    failed = (await v1.start("bad", "fail", "no more", wait=20)).json()
    assert failed["state"] == "rejected"
    assert (failed["error"]["type"], failed["error"]["message"]) == ("ValueError", "no more")
    assert "raise ValueError(how)" in failed["error"]["traceback"]
    assert (await v1.get("/v1/executions/bad")).json()["error"] == failed["error"]


# -- control, lists, views ----------------------------------------------------


async def test_executions_are_controlled(v1: Caller, app: Durasleep) -> None:
    await v1.start("s", "sleep", 3600)
    await eventually(lambda: _status(app, "s"), "it to sleep")
    assert (await v1.post("/v1/executions/s:halt", {"reason": "look here"})).json()["word"] == "halted"
    assert (await v1.get("/v1/executions/s")).json()["reason"] == "look here"
    assert (await v1.post("/v1/executions/s:resume")).json()["word"] == "resumed"
    assert (await v1.post("/v1/executions/s:cancel", {"force": True})).json()["word"] == "canceled"
    assert (await v1.get("/v1/executions/s")).json()["error"]["type"] == "durasleep.errors.Canceled"
    assert (await v1.post("/v1/executions/s:retry")).json()["word"] == "retrying"
    refused = await v1.post("/v1/executions/nobody:wake")
    assert (refused.status_code, word_of(refused)) == (404, "not-found")


async def test_a_view_and_a_history_show_what_is_done(v1: Caller, app: Durasleep) -> None:
    await v1.start("seen", "sleep", 3600)
    await eventually(lambda: _status(app, "seen"), "it to sleep")
    assert (await v1.get("/v1/executions/seen/view")).json()["values"] == {"status": "asleep"}
    await v1.start("task", "report", wait=20)
    assert (await v1.get("/v1/executions/task/view")).json()["values"] == {"part": 1}
    [call] = (await v1.get("/v1/executions/seen/history", with_values="true")).json()["calls"]
    assert (call["kind"], call["state"], call["value"]) == ("timer", "pending", None)
    assert [one["name"] for one in (await v1.get("/v1/groups")).json()["groups"]] == ["workers"]


async def test_a_list_is_read_page_by_page(v1: Caller) -> None:
    for number in range(5):
        await v1.start(f"n{number}", "sleep", 3600, labels={"of": "list"})
    await v1.start("other", "sleep", 3600)
    wanted = {"label": "of=list", "function": "sleep", "limit": 2}
    found: list[str] = []
    page = (await v1.get("/v1/executions", **wanted)).json()
    cursors = [page["cursor"]]
    while True:
        found += [one["id"] for one in page["executions"]]
        if page["cursor"] is None:
            break
        again = (await v1.get("/v1/executions", **wanted, cursor=page["cursor"])).json()
        assert (await v1.get("/v1/executions", **wanted, cursor=page["cursor"])).json() == again
        page = again
        cursors.append(page["cursor"])
    assert sorted(found) == [f"n{number}" for number in range(5)]
    assert page["is_all"]
    other = await v1.get("/v1/executions", cursor=cursors[0])
    assert (other.status_code, word_of(other)) == (422, "invalid")
    unknown = await v1.get("/v1/executions", cursor="nobody")
    assert (unknown.status_code, word_of(unknown)) == (410, "cursor-gone")

    def ids(answer: httpx.Response) -> list[str]:
        return sorted(one["id"] for one in answer.json()["executions"])

    everything = sorted([*found, "other"])
    assert ids(await v1.get("/v1/executions", status=["suspended", "queued", "running"])) == everything
    await v1.start("bad", "fail", "x", wait=20)
    assert ids(await v1.get("/v1/executions", status="failed")) == ["bad"]
    assert ids(await v1.get("/v1/executions", since="1h", group="workers")) == everything
    assert ids(await v1.get("/v1/executions", since="2100-01-01T00:00:00Z")) == []
    assert ids(await v1.get("/v1/executions", group="nobody")) == []


# -- messages and promises ----------------------------------------------------


async def test_a_message_begins_the_execution_and_is_answered(v1: Caller) -> None:
    place = "/v1/executions/talk/messages/chat"
    body = {"value": "hello", "key": "k1", "start": {"function": "listen", "labels": {"kind": "talk"}}}
    assert (await v1.post(place, body)).json() == {"delivery": "stored"}
    assert (await v1.post(place, body)).json() == {"delivery": "duplicate"}
    assert (await v1.post(f"{place}:ask", {"value": "you?", "timeout": "20s"})).json() == {
        "state": "resolved",
        "value": {"heard": 2},
    }
    await v1.post(place, {"value": "end"})
    assert (await v1.get("/v1/executions/talk", wait=20)).json()["value"] == ["hello", "you?"]
    late = await v1.post(place, {"value": "late"})
    assert (late.status_code, word_of(late)) == (409, "ended")
    missing = await v1.post("/v1/executions/nobody/messages/chat", {"value": 1})
    assert (missing.status_code, word_of(missing)) == (404, "not-found")


async def test_a_question_that_nobody_answers_ends(v1: Caller) -> None:
    await v1.start("deaf", "sleep", 3600)
    question = "/v1/executions/deaf/messages/chat:ask", {"value": 1, "timeout": "300ms"}
    for _ in range(2):  # under a key, it is not sent again
        answer = await v1.post(*question, key="q")
        assert (answer.status_code, word_of(answer)) == (504, "no-answer")
    assert (await v1.get("/v1/executions/deaf")).json()["unread"]["messages"] == 1


async def test_a_promise_is_settled_once(v1: Caller, app: Durasleep) -> None:
    assert (await v1.post("/v1/promises/paid", {"timeout": "1h"})).status_code == 201
    assert (await v1.post("/v1/promises/paid", {"timeout": "1h"})).status_code == 200
    waiting = asyncio.create_task(v1.get("/v1/promises/paid", wait=30))
    for _ in range(2):  # the same request again finds the same
        settled = await v1.post("/v1/promises/paid:resolve", {"value": {"cents": 420}})
        assert settled.json() == {"id": "paid", "state": "resolved", "value": {"cents": 420}}
    assert (await waiting).json() == {"id": "paid", "state": "resolved", "value": {"cents": 420}}
    other = await v1.post("/v1/promises/paid:reject", {"message": "no"})
    assert (other.status_code, word_of(other), other.json()["state"]) == (409, "settled-otherwise", "resolved")

    await v1.post("/v1/promises/lost")
    rejected = await v1.post("/v1/promises/lost:reject", {"message": "gone", "type": "shop.OutOfStock"})
    assert rejected.json()["error"] == {"type": "shop.OutOfStock", "message": "gone", "traceback": None}
    await v1.post("/v1/promises/off")
    assert (await v1.post("/v1/promises/off:cancel")).json()["state"] == "canceled"


async def test_a_workflow_waits_for_a_promise_that_is_resolved_here(v1: Caller, app: Durasleep) -> None:
    await v1.start("order", "approve")
    await eventually(lambda: _status(app, "order"), "it to wait")
    [awaited] = (await v1.get("/v1/executions/order")).json()["waiting_on"]
    assert awaited["kind"] == "promise"
    await v1.post(f"/v1/promises/{quote(awaited['id'], safe='')}:resolve", {"value": "yes"})
    assert (await v1.get("/v1/executions/order", wait=20)).json()["value"] == "yes"


# -- repeated requests --------------------------------------------------------


async def test_a_request_that_is_repeated_under_its_key_gets_the_same_answer(v1: Caller, app: Durasleep) -> None:
    started = await v1.post("/v1/executions", {"function": "add", "args": [1]}, key="s1")
    again = await v1.post("/v1/executions", {"function": "add", "args": [1]}, key='"s1"', wait=20)
    assert (again.status_code, again.json()["id"]) == (201, started.json()["id"])
    assert (again.json()["disposition"], again.json()["value"]) == ("created", 2)

    await v1.post("/v1/executions/talk/messages/chat", {"value": 0, "start": {"function": "listen"}})
    sent = [await v1.post("/v1/executions/talk/messages/chat", {"value": 1}, key="m1") for _ in range(2)]
    assert sent[0].json() == sent[1].json() != {"delivery": "duplicate"}
    asked = [await v1.post("/v1/executions/talk/messages/chat:ask", {"value": 2}, key="a1") for _ in range(2)]
    assert asked[0].json() == asked[1].json() == {"state": "resolved", "value": {"heard": 3}}

    await v1.start("bad", "fail", "x", wait=20)
    for _ in range(2):
        assert (await v1.post("/v1/executions/bad:retry", key="r1")).json()["word"] == "retrying"
        await v1.get("/v1/executions/bad", wait=20)
    [attempt] = [one for one in (await app.stats()).functions if one.name == "fail"]
    assert attempt.ended == 2

    other = await v1.post("/v1/executions/bad:cancel", key="r1")
    assert (other.status_code, word_of(other)) == (422, "key-reused")


async def test_all_gateways_know_what_was_done_under_a_key(v1: Caller, client: Durasleep, described: Described) -> None:
    async with serving(client) as served:
        other = Caller(served.url, described)
        await v1.post("/v1/promises/p")
        first = await v1.post("/v1/promises/p:resolve", {"value": 1}, key="k")
        assert (await other.post("/v1/promises/p:resolve", {"value": 1}, key="k")).json() == first.json()
        again = await other.post("/v1/promises/p:resolve", {"value": 2}, key="k")
        assert (again.status_code, word_of(again)) == (422, "key-reused")
        await other.aclose()


async def test_a_key_is_free_again_when_nothing_was_done(v1: Caller) -> None:
    refused = await v1.post("/v1/promises/soon:resolve", {"value": 1}, key="k")
    assert (refused.status_code, word_of(refused)) == (404, "not-found")
    await v1.post("/v1/promises/soon")
    assert (await v1.post("/v1/promises/soon:resolve", {"value": 1}, key="k")).status_code == 200


async def under_a_key(client: Durasleep, act: Callable[[], Awaitable[Noted]]) -> Noted:
    """Wake x under the key k, at a gateway that does it so."""
    request = Request("POST", "/v1/executions/x:wake", "", {}, b"")
    return await Repeats(await store_of(client), "k", request, does_more=True).once(act)


async def dies() -> Noted:
    raise asyncio.CancelledError


async def test_the_key_of_a_gateway_that_died_is_free_after_a_while(
    v1: Caller, app: Durasleep, client: Durasleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    await v1.start("x", "sleep", 3600)
    await eventually(lambda: _status(app, "x"), "it to sleep")
    monkeypatch.setattr("durasleep.gateway.api.idempotency._CLAIM_MS", 300)
    with pytest.raises(asyncio.CancelledError):
        await under_a_key(client, dies)
    refused = await v1.post("/v1/executions/x:wake", key="k")
    assert (refused.status_code, word_of(refused)) == (409, "in-progress")

    async def is_done() -> bool:
        return (await v1.post("/v1/executions/x:wake", key="k")).status_code == 200

    await eventually(is_done, "the key to be free")


async def test_whoever_is_late_leaves_a_key_to_whoever_has_it_by_now(
    client: Durasleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails_late() -> Noted:
        await asyncio.sleep(0.005)
        monkeypatch.undo()
        with pytest.raises(asyncio.CancelledError):
            await under_a_key(client, dies)
        raise NotFound("p")

    monkeypatch.setattr("durasleep.gateway.api.idempotency._CLAIM_MS", 1)
    with pytest.raises(NotFound):
        await under_a_key(client, fails_late)
    with pytest.raises(Problem, match="still carried out"):
        await under_a_key(client, dies)


@pytest.fixture
async def proxy(one_server: Server) -> AsyncIterator[Proxy]:
    """A network between a gateway and Redis."""
    made = Proxy()
    await made.start(int(one_server.url.rpartition(":")[2]))
    yield made
    await made.close()


@pytest.fixture
async def far(
    app: Durasleep, proxy: Proxy, described: Described, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Caller]:
    """A caller of a gateway behind that network; it soon gives up."""
    monkeypatch.setattr("durasleep.app.CALL_PATIENCE_S", 0.3)
    async with Durasleep(f"redis://127.0.0.1:{proxy.port}", namespace=app.namespace) as made, serving(made) as served:
        caller = Caller(served.url, described)
        await caller.get("/v1/groups")
        yield caller
        await caller.aclose()


async def test_a_repeated_request_does_nothing_twice_though_nobody_heard_of_the_first(
    far: Caller, app: Durasleep, proxy: Proxy
) -> None:
    async def is_lost(asked: Awaitable[Any], has_come: Callable[[], Any]) -> None:
        """Make a request; the answer of Redis to what it does is lost."""
        proxy.delay_s = 0.1
        answering, target_port = asyncio.ensure_future(asked), proxy.target_port
        await eventually(has_come, "Redis to do it")
        proxy.target_port, proxy.delay_s = 1, 0
        proxy.cut()
        answer = await answering
        assert (answer.status_code, word_of(answer), answer.headers["retry-after"]) == (503, "unavailable", "1")
        proxy.target_port = target_port

    new = "/v1/executions", {"function": "sleep", "args": [3600]}
    await is_lost(far.post(*new, key="new"), lambda: _ids(app))
    [begun] = await _ids(app)
    again = await far.post(*new, key="new")
    assert (again.status_code, again.json()["disposition"], again.json()["id"]) == (201, "created", begun)
    assert await _ids(app) == [begun]

    wake = f"/v1/executions/{begun}:wake"
    await eventually(lambda: _status(app, begun), "it to sleep")
    await is_lost(far.post(wake, key="wake"), lambda: _is_awake(app, begun))
    held = await far.post(wake, key="wake")
    assert (held.status_code, word_of(held)) == (409, "in-progress")


async def _is_awake(app: Durasleep, id: str) -> bool:
    return not (await app.describe(id)).waiting_on


async def _ids(app: Durasleep) -> list[str]:
    """The executions that have not ended."""
    return [one.id for one in await app.search()]


async def test_a_start_whose_client_leaves_is_found_under_its_key(far: Caller, app: Durasleep, proxy: Proxy) -> None:
    new = "/v1/executions", {"function": "sleep", "args": [3600]}
    store = await store_of(app)
    proxy.delay_s = 0.1
    left = asyncio.create_task(far.post(*new, key="k"))
    name = store.keys("k").repeat("k")
    await eventually(lambda: store.call(Command([b"EXISTS", name], bool)), "the key to be claimed")
    left.cancel()
    begun = await eventually(lambda: _ids(app), "an execution to begin")
    proxy.delay_s = 0
    again = await far.post(*new, key="k")
    assert (again.status_code, [again.json()["id"]]) == (201, begun)
    assert await _ids(app) == begun


async def test_a_request_under_the_key_of_one_that_goes_on_is_refused(v1: Caller, app: Durasleep) -> None:
    await v1.start("deaf", "sleep", 3600)
    place, body = "/v1/executions/deaf/messages/chat:ask", {"value": 1, "timeout": 30}
    first = asyncio.create_task(v1.post(place, body, key="q"))

    async def is_asked() -> bool:
        unread = (await app.describe("deaf")).unread
        return unread is not None

    await eventually(is_asked, "the question to arrive")
    second = await v1.post(place, body, key="q")
    assert (second.status_code, word_of(second), second.headers["retry-after"]) == (409, "in-progress", "1")
    await v1.post("/v1/executions/deaf:cancel", {"force": True})
    assert word_of(await first) == "ended"


# -- what is refused ----------------------------------------------------------


WRONG: list[tuple[str, Any, int, str, str]] = [
    ("/v1/executions/x", b'{"function": "add",\n "args": [1,]}', 400, "unreadable", "line 2, column 13"),
    ("/v1/executions/x", b'{"function": NaN}', 400, "unreadable", "NaN is not JSON"),
    ("/v1/executions/x", b'{"a": 1, "a": 2}', 400, "unreadable", '"a" stands twice'),
    ("/v1/executions/x", b"[" * 100_000, 400, "unreadable", "nested too deeply"),
    ("/v1/executions/x", b"\xff", 400, "unreadable", "not UTF-8"),
    ("/v1/executions/x", b'{"function": "add", "args": [1e999]}', 400, "unreadable", "largest double"),
    ("/v1/executions/x", None, 400, "unreadable", "needs a body"),
    ("/v1/executions/%FF", {"function": "add"}, 400, "unreadable", "not UTF-8"),
    ("/v1/executions/x", [], 422, "invalid", "the body: it must be an object"),
    ("/v1/executions/x", {}, 422, "invalid", "/function: it is missing"),
    ("/v1/executions/x", {"function": "add", "group": "g"}, 422, "invalid", "/group: there is no such field"),
    ("/v1/executions/x", {"function": "add", "priority": 6}, 422, "invalid", "/priority: it must be 1 to 5"),
    ("/v1/executions/x", {"function": "add", "delay": "soon"}, 422, "invalid", "/delay: "),
    ("/v1/executions/x", {"function": "add", "labels": {"a": 1}}, 422, "invalid", "/labels/a: it must be a text"),
    ("/v1/executions/x", {"function": "add", "args_msgpack": "?"}, 422, "invalid", "/args_msgpack: it is not base64"),
    ("/v1/executions/x", {"function": "add", "args": ["\ud800"]}, 422, "invalid", "argument 1 of add"),
    ("/v1/executions/x", {"function": "add", "kwargs": {"\ud800": 1}}, 422, "invalid", "name of an argument"),
    ("/v1/executions/x", {"function": "\ud800"}, 422, "invalid", "/function: it is not valid Unicode"),
    ("/v1/executions/x", {"function": "add", "\ud800": 1}, 422, "invalid", "is not valid Unicode"),
    ("/v1/promises/x:reject", {"message": "\ud800"}, 422, "invalid", "/message: it is not valid Unicode"),
    ("/v1/executions/~", {"function": "add"}, 422, "invalid", "'~' is reserved"),
    ("/v1/executions/~/messages/c", {}, 422, "invalid", "stands before the first '~'"),
    ("/v1/groups/g:poll", {"worker": "w", "functions": ["\ud800"]}, 422, "invalid", "/functions/0: it is not valid Un"),
    ("/v1/groups/g:poll", {"worker": "w", "functions": {"\ud800": {}}}, 422, "invalid", "is not valid Unicode"),
    ("/v1/groups/g:poll", {"worker": "w", "functions": {"": {}}}, 422, "invalid", "must have 1 to 255 characters"),
    ("/v1/groups/g:poll", {"worker": "w 1", "functions": ["f"]}, 422, "invalid", "/worker: it does not match"),
    ("/v1/groups/g:poll", {"worker": "w", "functions": {"f": {"a": 1}}}, 422, "invalid", "/functions/f/a: there is no"),
    ("/v1/groups/g:fail", {"lease": "x", "error": {"message": "", "\udc00": ""}}, 422, "invalid", "not valid Unicode"),
    ("/v1/executions/x~1", {"function": "add"}, 422, "invalid", "'~' is reserved"),
    ("/v1/executions/x?wait=61", {"function": "add"}, 422, "invalid", "query wait: it must be 0 to 60"),
    ("/v1/executions/x?wait=soon", {"function": "add"}, 422, "invalid", "query wait: it must be a whole number"),
    ("/v1/executions/x?nix=1", {"function": "add"}, 422, "invalid", "query nix: there is no such parameter"),
    ("/v1/executions/x/messages/c", {"value": 1, "value_msgpack": "AA=="}, 422, "invalid", "not both"),
    ("/v1/executions/x", {"function": "add", "delay": "2027-03-01T12:00:00"}, 422, "invalid", "date, time and zone"),
    ("/v1/executions/x", {"function": "add", "delay": "2027-03-01"}, 422, "invalid", "date, time and zone"),
    ("/v1/executions/x", {"function": "add", "delay": "2h", "timeout": "1h"}, 422, "invalid", "delay 7200 s, timeout"),
    ("/v1/executions/x:wake", {"force": True}, 422, "invalid", "/force: there is no such field"),
    ("/v1/executions/x:wake", {}, 404, "not-found", "x"),
    ("/v1/promises/:resolve", {"value": 1}, 404, "no-such-route", "/v1/openapi.json"),
    ("/v1/nothing", {}, 404, "no-such-route", "/v1/openapi.json"),
    ("/v1/executions/x/y/z", {}, 404, "no-such-route", "/v1/openapi.json"),
]


async def test_a_wrong_request_is_told_what_is_wrong(v1: Caller) -> None:
    for path, body, status, word, says in WRONG:
        answer = await v1.post(path, body)
        assert (answer.status_code, word_of(answer)) == (status, word), path
        assert says in answer.json()["detail"]
        assert answer.json()["instance"] == path.partition("?")[0]
    assert (await v1.get("/v1/executions")).json()["executions"] == []


def test_what_a_request_costs_grows_no_faster_than_the_request() -> None:
    begun = time.process_time()
    names = b",".join(b'"%d":1' % number for number in range(50_000))
    with pytest.raises(Problem, match='"z" stands twice'):
        values.read_json(b'{%b,"z":1,"z":1}' % names)

    functions = {"k" * 500_000: {str(number): 1 for number in range(50_000)}}
    with pytest.raises(Problem) as refused:
        TABLE.check_body(TABLE.find("POST", "/v1/groups/g:poll")[0], {"worker": "w", "functions": functions})
    assert len(refused.value.response("").body) < 10_000

    document = Document()
    written = document.value("value", [{"k" * 500_000: [b""] * 50_000}])
    assert written == {"value": [{"k" * 500_000: [""] * 50_000}]}
    assert document.notes() == {"json_notes": [{"at": "", "type": "more"}]}
    assert time.process_time() - begun < 3  # each of the three took longer by itself


async def test_a_wrong_method_and_a_wrong_type_are_told_the_right_ones(v1: Caller) -> None:
    answer = await v1.ask("DELETE", "/v1/executions/x")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    answer = await v1.ask("GET", "/v1/executions/x:wake")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for path in ("/v1/executions/x", "/v1/executions/x:wake", "/v1/promises/x:cancel"):
        answer = await v1.ask("POST", path, b'{"function":"add"}', headers=form)
        assert (answer.status_code, word_of(answer)) == (415, "media-type")


async def test_a_gateway_with_a_token_answers_nobody_without_it(client: Durasleep, described: Described) -> None:
    async with serving(client, token="0123456789abcdef") as served:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            stranger = Caller(served.url, described, headers)
            answer = await stranger.get("/v1/executions/x")
            assert (answer.status_code, word_of(answer)) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
            await stranger.aclose()
        known = Caller(served.url, described, {"Authorization": "Bearer 0123456789abcdef"})
        assert (await known.get("/v1/executions")).json()["executions"] == []
        large = await known.start("x", "give", "x" * 1_100_000)
        assert (large.status_code, word_of(large)) == (413, "too-large")
        larger = await known.start("x", "give", "x" * 3_000_000)
        assert (larger.status_code, word_of(larger)) == (413, "too-large")
        await known.aclose()


# -- waiting ------------------------------------------------------------------


async def test_only_so_many_requests_wait_and_one_whose_client_has_gone_does_not(
    app: Durasleep, client: Durasleep, described: Described, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durasleep.gateway.api.shared.WAITS_MAX", 1)
    async with serving(client) as served:
        v1 = Caller(served.url, described)
        await v1.start("long", "sleep", 3600)
        waits = served.gateway.api.shared.waits
        first = asyncio.create_task(v1.get("/v1/executions/long", wait=60))
        await eventually(lambda: waits.waiting == 1, "the first to wait")
        second = await v1.get("/v1/executions/long", wait=60)
        assert (second.status_code, word_of(second)) == (503, "too-many-waits")
        assert (await v1.get("/v1/executions/long")).status_code == 200
        first.cancel()
        await eventually(lambda: waits.waiting == 0, "the first to be forgotten")
        third = asyncio.create_task(v1.get("/v1/executions/long", wait=60))
        await eventually(lambda: waits.waiting == 1, "the third to wait")
    assert (await third).json()["state"] == "pending"  # the gateway has ended, and answered first
    await v1.aclose()


async def test_a_request_is_answered_soon_though_redis_hangs(
    far: Caller, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durasleep.gateway.api.api._ANSWER_S", 0.3)
    proxy.black_hole()
    begun = time.monotonic()
    asked = [far.get("/v1/executions/x"), far.get("/v1/executions/x", wait=1), far.start("x", "add", 1)]
    answers = await asyncio.gather(*asked)
    assert [(answer.status_code, word_of(answer)) for answer in answers] == [(503, "unavailable")] * 3
    assert time.monotonic() - begun < 8  # alone, the first would hang for ten seconds
    proxy.cut()


async def test_a_repeated_key_needs_no_answer_that_is_too_long(v1: Caller) -> None:
    await v1.post("/v1/promises/long")
    value = {"value": "x" * 100_000}
    assert (await v1.post("/v1/promises/long:resolve", value, key="v")).status_code == 200
    again = await v1.post("/v1/promises/long:resolve", value, key="v")
    assert (again.status_code, word_of(again)) == (409, "answer-not-kept")


async def test_a_start_whose_execution_is_no_longer_kept_was_done_before(v1: Caller) -> None:
    body = {"function": "add", "args": [1, 2], "retention": 0}
    begun = await v1.post("/v1/executions", body, key="once")
    assert begun.status_code == 201

    async def is_gone() -> bool:
        return (await v1.get(begun.headers["location"])).status_code == 404

    await eventually(is_gone, "the execution to be forgotten")
    again = await v1.post("/v1/executions", body, key="once")
    assert (again.status_code, word_of(again)) == (409, "answer-not-kept")
