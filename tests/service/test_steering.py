"""What runs is listed, and woken, moved, canceled, halted or resumed, from asyncio and without it."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from durasleep import Canceled, Context, Durasleep, NotFound, UsageError, sync
from durasleep.client.client import ending_of, store_of
from durasleep.errors import InvalidDuration, NotAllowed, StoreUnavailable
from durasleep.model import CANCEL, Number, PromiseId, State
from durasleep.protocol.script import Value
from durasleep.query.call_tree import Node, Tree
from durasleep.query.search import SearchPage
from tests.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import double, nap, note, sleeping_workflow, stand_at, waiting
from tests.service.workers import Effects, Workers, eventually, serving, until

Verb = Callable[..., Awaitable[Any]]
"""``verb(name, *args)``: what a method of the client answers."""


@pytest.fixture(params=["async", "sync"])
async def verb(request: pytest.FixtureRequest, app: Durasleep, real_server: Server) -> AsyncIterator[Verb]:
    """The verbs of the client, of either kind."""
    with sync.Client(real_server.url, namespace=app.namespace) as client:

        async def verb(name: str, *args: Any, **options: Any) -> Any:
            if request.param == "async":
                return await getattr(app, name)(*args, **options)
            return await asyncio.to_thread(getattr(client, name), *args, **options)

        yield verb


async def wide(ctx: Context, effects: str) -> Any:
    """A step, two sleeps, a promise, a child and an execution of its own at the same time."""
    await ctx.run(note, effects, "begun")
    return await asyncio.gather(
        ctx.sleep(3600, name="short"),
        ctx.sleep(7200, name="long"),
        ctx.promise(name="approval"),
        ctx.rpc(sleeping_workflow, 60),
        ctx.rpc(sleeping_workflow, 5400, id="beside"),
    )


def ids(found: SearchPage) -> list[str]:
    return [one.id for one in found]


# -- lists


async def test_each_execution_is_listed_once_with_where_it_is(
    app: Durasleep, verb: Verb, effects: Effects, real_server: Server
) -> None:
    app.workflow(wide)
    app.task(stand_at)
    async with serving(app):
        await app.rpc("wide", wide, effects.path)
        await app.rpc("approval", waiting)  # in no timer, no stream
        await app.rpc("later", double, 1, delay=600)
        await app.rpc("runs", stand_at, effects.path, "gate", timeout=900)
        await app.rpc("stopped", waiting)
        await app.rpc("over", double, 1)
        for id in ("wide", "wide~5", "beside", "approval", "stopped"):
            await until(app, id, "suspended")
        await app.halt("stopped", "a look")
        await effects.standing("gate")
        await until(app, "over", "done")
        await app.rpc("lonely", double, 1, target="gpu")

        found = await verb("search")
        statuses = {one.id: one.status for one in found}
        assert statuses == {
            "stopped": "halted",
            "lonely": "queued",
            "runs": "running",
            "later": "delayed",
            "wide": "suspended",
            "wide~5": "suspended",
            "beside": "suspended",
            "approval": "suspended",
        }
        assert len(found) == len(statuses)
        assert (found.is_all, found.notes) == (True, [])
        by_id = {one.id: one for one in found}
        assert (by_id["stopped"].reason, by_id["runs"].worker, by_id["lonely"].group) == ("a look", "w1", "gpu")
        now_ms = time.time_ns() // 1_000_000
        for id, seconds in (("later", 600), ("wide", 3600), ("wide~5", 60), ("beside", 5400)):
            assert abs((by_id[id].due_at_ms or 0) - now_ms - seconds * 1000) < 30_000, id
        assert by_id["approval"].due_at_ms is None
        assert by_id["runs"].timeout_at_ms

        assert ids(await verb("search", status="halted")) == ["stopped"]
        assert sorted(ids(await verb("search", status=["running", "queued"]))) == ["lonely", "runs"]
        assert ids(await verb("search", status="done")) == ["over"]
        assert ids(await verb("search", group="gpu")) == ["lonely"]
        assert sorted(ids(await verb("search", function="sleeping_workflow"))) == ["beside", "wide~5"]
        assert await verb("search", function="nobody") == []
        cut = await verb("search", limit=3)
        assert (len(cut), cut.is_all) == (3, False)
        with pytest.raises(UsageError, match="status 'asleep'"):
            await verb("search", status="asleep")
        with pytest.raises(UsageError, match="limit 0"):
            await verb("search", limit=0)
        effects.open("gate")
        assert await app.get("runs") == "through gate"
    real_server.flush()


@pytest.mark.leaves_keys("what nobody but a person can put right")
async def test_what_was_put_aside_by_name_is_noted_beside_the_list(app: Durasleep, real_server: Server) -> None:
    keys = (await store_of(app)).keys()
    client: Any = real_server.sync_client()
    client.zadd(keys.halted, {"timers:broken~1: CORRUPT due time": 1})
    client.hset(keys.promise("odd"), "s", "?")
    client.set(keys.queue("odd"), "garbage")
    await app.rpc("fine", double, 1)
    found = await app.search()
    assert ids(found) == ["fine"]
    for text in ("quarantined: timers:broken~1: CORRUPT due time", "the hash of odd", "queue:odd cannot be read"):
        assert any(text in line for line in found.notes), found.notes
    assert len(found.notes) == 3
    real_server.flush()


async def test_pages_of_timers_miss_none_and_show_none_twice(
    app: Durasleep, real_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many due at the same instant, with pages that end among them."""
    monkeypatch.setattr("durasleep.query.search.PAGE", 7)
    due = datetime.now(UTC) + timedelta(hours=1)
    names = [f"order-{number}" for number in range(60)]
    for number, name in enumerate(names):
        await app.rpc(name, double, 1, delay=due + timedelta(seconds=number // 20))
    found = await app.search(status="delayed")
    assert sorted(ids(found)) == sorted(names)
    dues = [one.due_at_ms or 0 for one in found]
    assert dues == sorted(dues)
    await asyncio.gather(*(app.cancel(name) for name in names))
    assert await app.search() == []
    assert sorted(ids(await app.search(status="done"))) == sorted(names)


async def test_any_number_is_halted_resumed_and_canceled_in_one_go(
    app: Durasleep, real_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durasleep.query.search.LOOKED_MAX", 500)
    names = [f"order-{number}" for number in range(2_000)]
    await app.rpc_many(double, [(name, 1) for name in names])
    for act, status, word in (
        (app.halt, "queued", "halted"),
        (app.resume, "halted", "resumed"),
        (partial(app.cancel, force=True), "queued", "canceled"),
    ):
        done: list[str] = []
        async for found in app.search_all(status=status, function="double"):
            answers = await asyncio.gather(*(act(one.id) for one in found))
            assert {answer.word for answer in answers} <= {word}
            done += ids(found)
        assert sorted(done) == sorted(names), act
    assert await app.search() == []


async def test_timers_are_shown_soonest_first_by_what_steers_them(
    app: Durasleep, verb: Verb, effects: Effects, real_server: Server
) -> None:
    app.workflow(wide)
    async with serving(app):
        await app.rpc("wide", wide, effects.path, timeout=9000)
        await app.rpc("later", double, 1, delay=600)
        await app.promises.create("bare", timeout=1200)
        await app.promises.create("alarm", timeout=1800, timer=True)
        await app.schedule("monthly", "0 0 1 * *", double, 1)
        await until(app, "wide", "suspended")
        await until(app, "wide~5", "suspended")
        await until(app, "beside", "suspended")
        shown = [(one.id, one.kind, one.name, one.func) for one in await verb("timers")]
    assert shown[:-1] == [
        ("wide~5~1", "timer", "", "sleeping_workflow"),
        ("later", "start", "", "double"),
        ("bare", "promise", "", None),
        ("alarm", "timer", "", None),
        ("wide~2", "timer", "short", "wide"),
        ("beside~1", "timer", "", "sleeping_workflow"),
        ("wide~3", "timer", "long", "wide"),
        ("wide", "deadline", "", "wide"),
    ]
    assert shown[-1] == ("monthly", "cron", "0 0 1 * * UTC", "double")
    assert [one.id for one in await verb("timers", 2)] == ["wide~5~1", "later"]
    real_server.flush()


# -- trees


def shape(node: Node) -> tuple[Any, ...]:
    return (node.id, node.kind, node.name, node.state, [shape(child) for child in node.children])


async def test_a_tree_shows_what_an_execution_has_called(
    app: Durasleep, verb: Verb, effects: Effects, real_server: Server
) -> None:
    app.workflow(wide)
    async with serving(app):
        await app.rpc("wide", wide, effects.path)
        await until(app, "wide", "suspended")
        await until(app, "beside", "suspended")
        await until(app, "wide~5", "suspended")
        tree: Tree = await verb("tree", "wide")
        asleep: list[Any] = [("timer", "", "pending", [])]
        named = shape(tree.root)
        assert named[:4] == ("wide", "execution", "wide", "pending")
        assert [(*child[1:4], child[4] and [leaf[1:] for leaf in child[4]]) for child in named[4]] == [
            ("step", "note", "resolved", []),
            ("timer", "short", "pending", []),
            ("timer", "long", "pending", []),
            ("promise", "approval", "pending", []),
            ("execution", "sleeping_workflow", "pending", asleep),
            ("execution", "sleeping_workflow", "pending", asleep),
        ]
        assert [child.id for child in tree.root.children][4:] == ["wide~5", "beside"]
        assert tree.is_all
        step, sleep, *_ = tree.root.children
        assert step.settled_at_ms
        assert sleep.due_at_ms
        assert tree.root.created_at_ms
        await app.cancel("wide", force=True)
        tree = await verb("tree", "wide")
        assert {child.state for child in tree.root.children} == {"resolved", "canceled", "pending"}
        with pytest.raises(NotFound):
            await verb("tree", "nobody")
        await app.cancel("beside")


async def test_a_tree_is_bounded_and_ends_where_executions_wait_for_one_another(
    app: Durasleep, real_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ping(ctx: Context, other: str) -> None:
        await ctx.rpc("ping", ctx.info.id, id=other)

    async def steps(ctx: Context) -> None:
        for _ in range(30):
            await ctx.run(double, 1)
        await ctx.rpc("steps_below", id="below")

    app.workflow(ping)
    app.workflow(steps)
    async with serving(app):
        await app.rpc("a", ping, "b")
        await until(app, "a", "suspended")  # so there is b
        await until(app, "b", "suspended")
        tree = await app.tree("a")
        assert shape(tree.root)[4] == [
            ("b", "execution", "ping", "pending", [("a", "execution", "ping", "pending", [])]),
        ]
        monkeypatch.setattr("durasleep.query.call_tree.NODES_MAX", 20)
        await app.rpc("steps", steps)
        await until(app, "steps", "suspended")
        tree = await app.tree("steps")
        assert (len(tree.root.children), tree.is_all) == (19, False)
        for id in ("a", "b", "steps", "below"):
            await app.cancel(id, force=True)


# -- steering


async def test_the_verbs_take_the_id_of_what_sleeps(app: Durasleep, verb: Verb) -> None:
    async with serving(app):
        handles = {id: await app.rpc(id, sleeping_workflow, 3600) for id in ("woken", "moved", "canceled", "stopped")}
        for id in handles:
            await until(app, id, "suspended")
        assert (await verb("wake", "woken")).word == "woken"
        assert await handles["woken"] == "Slept for 3600 seconds"
        assert (await verb("wake", "woken")).word == "already"

        at = datetime.now(UTC) + timedelta(hours=2)
        assert (await verb("reschedule", "moved", at)).word == "rescheduled"
        [timer] = (await app.describe("moved")).waiting_on
        assert abs((timer.due_ms or 0) - at.timestamp() * 1000) < 2
        assert (await verb("reschedule", "moved", 0.001)).word == "rescheduled"
        assert await handles["moved"] == "Slept for 3600 seconds"

        assert (await verb("cancel", "canceled")).word == "canceling"
        with pytest.raises(Canceled):
            await handles["canceled"]
        assert (await verb("cancel", "canceled")).word == "already"

        assert (await verb("halt", "stopped", "why")).word == "halted"
        assert [one.reason for one in await verb("search", status="halted")] == ["why"]
        for name in ("wake", "reschedule"):
            with pytest.raises(NotAllowed):
                await verb(name, "stopped", *([5] if name == "reschedule" else []))
        assert (await verb("resume", "stopped")).word == "resumed"
        assert (await verb("cancel", "stopped", force=True)).word == "canceled"
        with pytest.raises(NotFound):
            await verb("wake", "nobody")
        with pytest.raises(InvalidDuration, match="no time zone"):
            await verb("reschedule", "stopped", datetime(2030, 1, 1))  # noqa: DTZ001 - the point


async def test_of_several_timers_one_has_to_be_named(
    app: Durasleep, verb: Verb, effects: Effects, real_server: Server
) -> None:
    app.workflow(wide)
    async with serving(app):
        await app.rpc("wide", wide, effects.path)
        await app.rpc("approval", waiting)
        await until(app, "wide", "suspended")
        await until(app, "approval", "suspended")
        with pytest.raises(NotAllowed, match=r"wide waits for 2 timers, name one: wide~2 \(short\), wide~3 \(long\)"):
            await verb("wake", "wide")
        with pytest.raises(NotAllowed, match="approval waits for no timer"):
            await verb("reschedule", "approval", 5)
        assert (await verb("wake", "wide~2")).word == "woken"
        await until(app, "wide", "suspended")
        assert (await verb("wake", "wide")).word == "woken"
        await app.cancel("wide", force=True)
        await app.cancel("beside", force=True)
        await app.cancel("approval", force=True)


async def test_a_wake_repeated_after_its_answers_were_lost_ends_one_sleep_only(
    app: Durasleep, new_app: NewApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time it is repeated the workflow sleeps again; that sleep is not the one its caller saw."""

    async def two_sleeps(ctx: Context) -> None:
        await ctx.sleep(3600)
        await ctx.sleep(3600)

    observer = new_app()

    async def sleeps_again() -> bool:
        return [one.id for one in (await observer.describe("twice")).waiting_on] == ["twice~2"]

    app.workflow(two_sleeps)
    link = (await store_of(app))._link  # pyright: ignore[reportPrivateUsage]
    exchange = link.exchange
    sent: Counter[Value] = Counter()

    async def lose_each_first_answer(calls: Sequence[Sequence[Value]], **options: Any) -> list[Any]:
        replies = await exchange(calls, **options)
        for call in calls:
            if "wake" in call:
                sent[id := call[-3]] += 1
                if id == "twice~1":
                    await eventually(sleeps_again, "the next sleep")
                if sent[id] == 1:
                    raise StoreUnavailable("the answer is lost")
        return replies

    async with serving(app):
        await app.rpc("twice", two_sleeps)
        await until(app, "twice", "suspended")
        monkeypatch.setattr(link, "exchange", lose_each_first_answer)
        assert (await app.wake("twice")).word == "already"
        assert min(sent.values()) >= 2
        assert await sleeps_again()
        await app.cancel("twice", force=True)


# -- the race

RACES = 1_002
WAVE = 167  # under way at a time
SLEEP_S = 0.5  # all of a wave are asleep by then
MOVE_S = 0.3
VERBS = ("wake", "reschedule", "cancel")


@dataclass
class Aim:
    """When to act, in ms from the due time: each race aims where the last ones were even."""

    offset_ms: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter[str])

    def learn(self, outcome: str) -> None:
        self.outcomes[outcome] += 1
        self.offset_ms += -0.3 if outcome == "fired" else 0.3


def _endings(client: Any, recent: str) -> Counter[str]:
    """How often each id is told to have ended; one entry tells of several, under the same names."""
    rows = client.eval("return redis.call('XRANGE', KEYS[1], '-', '+')", 1, recent)
    told = [pair for _, fields in rows for pair in zip(fields[::2], fields[1::2], strict=True)]
    return Counter(value.decode() for name, value in told if name == b"i")


@pytest.mark.timeout(120)
async def test_what_is_steered_at_the_moment_it_fires_ends_in_exactly_one_way(
    app: Durasleep, workers: Workers, effects: Effects, real_server: Server
) -> None:
    """A thousand races between a verb and the firing of a timer, in three processes, around its due time."""
    await workers.start("w1", "w2")
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keys()
    aims = {verb: Aim() for verb in VERBS}
    ended: Counter[str] = Counter()
    for start in range(0, RACES, WAVE):
        races = {f"race-{number}": VERBS[number % len(VERBS)] for number in range(start, start + WAVE)}
        dues: dict[str, int] = {}

        def are_asleep(dues: dict[str, int] = dues) -> bool:
            for member, due in client.zrange(keys.timers, 0, -1, withscores=True):
                dues.setdefault(member.decode().partition("~")[0], int(due))
            return len(dues) == WAVE

        await asyncio.gather(
            *(app.rpc(id, nap, effects.path, SLEEP_S) for id, verb in races.items() if verb != "cancel"),
            *(app.rpc(id, sleeping_workflow, SLEEP_S) for id, verb in races.items() if verb == "cancel"),
        )
        await eventually(are_asleep, "all of the wave to sleep")
        await asyncio.gather(*(_race(app, id, verb, dues[id], aims[verb]) for id, verb in races.items()))
        ends = _endings(client, keys.recent)
        ended.update({id: ends[id] for id in races})
    assert set(ended.values()) == {1}
    assert len(ended) == RACES
    done = Counter(effects.lines())
    assert set(done.values()) == {1}
    assert len(done) == 2 * RACES * 2 // 3  # two steps of each that was not to be canceled
    for verb, aim in aims.items():
        assert min(aim.outcomes["fired"], aim.outcomes["steered"]) >= 10, (verb, aim)  # both are met, often


async def _race(app: Durasleep, id: str, verb: str, due_ms: int, aim: Aim) -> None:
    """Act as the timer falls due, and check that what was said is what happened."""
    instant_s = (due_ms + aim.offset_ms + random.uniform(-1, 1)) / 1000
    await asyncio.sleep(instant_s - time.time())
    said = await _act(app, id, verb)
    outcome = "fired" if said == "already" else "steered"
    if verb != "cancel":
        aim.learn(outcome)
    ending = await ending_of(app, PromiseId(id), 30)
    loaded = await (await store_of(app)).load(PromiseId(id))
    assert loaded
    if verb == "cancel":
        timer, told = loaded.entries[Number("1")], loaded.entries.get(CANCEL)
        # The workflow hears both in the order of the journal, and the first decides how it ends.
        was_told = told is not None and (timer.state is not State.RESOLVED or told.stamp < timer.stamp)
        assert said == ("canceling" if told else "already"), id
        assert ending.state is (State.CANCELED if was_told else State.RESOLVED), id
        outcome = "steered" if was_told else "fired"
        aim.learn(outcome)
    else:
        timer = loaded.entries[Number("2")]
        assert (ending.state, timer.state) == (State.RESOLVED, State.RESOLVED), id
    if outcome == "fired":
        assert timer.stamp >= due_ms, id
    elif verb == "reschedule":
        assert timer.stamp > due_ms, id


async def _act(app: Durasleep, id: str, verb: str) -> str:
    """What the caller is told."""
    if verb == "wake":
        return (await app.wake(id)).word
    if verb == "cancel":
        return (await app.cancel(id)).word
    try:
        return (await app.reschedule(id, MOVE_S)).word
    except NotAllowed:  # it runs, so it was fired
        return "already"
