"""Lists, trees and control of executions that are odd, large or about to fire; ``tests/client`` has the usual cases."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from durasleep import Context, Durasleep
from durasleep.client.client import ending_of, store_of
from durasleep.errors import NotAllowed, StoreUnavailable
from durasleep.model import CANCEL, Number, PromiseId, State
from durasleep.protocol.script import Value
from durasleep.query.call_tree import Node
from durasleep.query.search import SearchPage
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import double, nap, sleeping_workflow
from tests.service.workers import Effects, Workers, eventually, link_of, serving, until


def ids(found: SearchPage) -> list[str]:
    return [one.id for one in found]


# -- lists


@pytest.mark.leaves_keys("what nobody but a person can put right")
@pytest.mark.usefixtures("in_one_partition")
async def test_what_was_quarantined_by_name_is_noted_beside_the_list(app: Durasleep, real_server: Server) -> None:
    keys = (await store_of(app)).keyspaces[-1]
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


# -- trees


def shape(node: Node) -> tuple[Any, ...]:
    return (node.id, node.kind, node.name, node.state, [shape(child) for child in node.children])


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


# -- control


async def test_a_wake_repeated_after_its_answers_were_lost_ends_one_sleep_only(
    app: Durasleep, new_app: NewApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the call is repeated, the workflow sleeps again; that sleep is not the one that its caller saw."""

    async def two_sleeps(ctx: Context) -> None:
        await ctx.sleep(3600)
        await ctx.sleep(3600)

    observer = new_app()

    async def sleeps_again() -> bool:
        return [one.id for one in (await observer.describe("twice")).waiting_on] == ["twice~2"]

    app.workflow(two_sleeps)
    link = await link_of(app)
    exchange = link.exchange
    sent: Counter[Value] = Counter()

    async def lose_each_first_answer(calls: Sequence[Sequence[Value]], **options: Any) -> list[Any]:
        replies = await exchange(calls, **options)
        for call in calls:
            if "wake" in call:
                sent[id := call[-4]] += 1
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
WAVE = 167  # that run at a time
SLEEP_S = 0.5  # all of a wave sleep by then
MOVE_S = 0.3
VERBS = ("wake", "reschedule", "cancel")


@dataclass
class Aim:
    """When to act, in ms from the due time: each race aims at the time at which both won equally often before."""

    offset_ms: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter[str])

    def learn(self, outcome: str) -> None:
        self.outcomes[outcome] += 1
        self.offset_ms += -0.3 if outcome == "fired" else 0.3


def _endings(client: Any, recent: str) -> Counter[str]:
    """How often each id is reported to have ended; one entry may report several, under the same names."""
    rows = client.eval("return redis.call('XRANGE', KEYS[1], '-', '+')", 1, recent)
    told = [pair for _, fields in rows for pair in zip(fields[::2], fields[1::2], strict=True)]
    return Counter(value.decode() for name, value in told if name == b"i")


@pytest.mark.timeout(120)
async def test_what_is_controlled_at_the_moment_it_fires_ends_in_exactly_one_way(
    app: Durasleep, workers: Workers, effects: Effects, real_server: Server
) -> None:
    """A thousand races between a control call and the firing of a timer, in three processes, around its due time."""
    await workers.start("w1", "w2")
    client: Any = real_server.sync_client()
    keyspaces = (await store_of(app)).keyspaces
    aims = {verb: Aim() for verb in VERBS}
    ended: Counter[str] = Counter()
    for start in range(0, RACES, WAVE):
        races = {f"race-{number}": VERBS[number % len(VERBS)] for number in range(start, start + WAVE)}
        dues: dict[str, int] = {}

        def are_asleep(dues: dict[str, int] = dues) -> bool:
            for keys in keyspaces:
                for member, due in client.zrange(keys.timers, 0, -1, withscores=True):
                    dues.setdefault(member.decode().partition("~")[0], int(due))
            return len(dues) == WAVE

        await asyncio.gather(
            *(app.rpc(id, nap, effects.path, SLEEP_S) for id, verb in races.items() if verb != "cancel"),
            *(app.rpc(id, sleeping_workflow, SLEEP_S) for id, verb in races.items() if verb == "cancel"),
        )
        await eventually(are_asleep, "all of the wave to sleep")
        await asyncio.gather(*(_race(app, id, verb, dues[id], aims[verb]) for id, verb in races.items()))
        ends = sum((_endings(client, keys.recent) for keys in keyspaces), Counter[str]())
        ended.update({id: ends[id] for id in races})
    assert set(ended.values()) == {1}
    assert len(ended) == RACES
    done = Counter(effects.lines())
    assert set(done.values()) == {1}
    assert len(done) == 2 * RACES * 2 // 3  # two steps of each that was not to be canceled
    for verb, aim in aims.items():
        assert min(aim.outcomes["fired"], aim.outcomes["controlled"]) >= 10, (verb, aim)  # both win often


async def _race(app: Durasleep, id: str, verb: str, due_ms: int, aim: Aim) -> None:
    """Act when the timer falls due, and check that the answer is what happened."""
    instant_s = (due_ms + aim.offset_ms + random.uniform(-1, 1)) / 1000
    await asyncio.sleep(instant_s - time.time())
    said = await _act(app, id, verb)
    outcome = "fired" if said == "already" else "controlled"
    if verb != "cancel":
        aim.learn(outcome)
    ending = await ending_of(app, PromiseId(id), 30)
    loaded = await (await store_of(app)).load(PromiseId(id))
    assert loaded
    if verb == "cancel":
        timer, told = loaded.entries[Number("1")], loaded.entries.get(CANCEL)
        # The workflow gets both in the order of the journal, and the first decides how it ends.
        was_told = told is not None and (timer.state is not State.RESOLVED or told.stamp < timer.stamp)
        assert said == ("canceling" if told else "already"), id
        assert ending.state is (State.CANCELED if was_told else State.RESOLVED), id
        outcome = "controlled" if was_told else "fired"
        aim.learn(outcome)
    else:
        timer = loaded.entries[Number("2")]
        assert (ending.state, timer.state) == (State.RESOLVED, State.RESOLVED), id
    if outcome == "fired":
        assert timer.stamp >= due_ms, id
    elif verb == "reschedule":
        assert timer.stamp > due_ms, id


async def _act(app: Durasleep, id: str, verb: str) -> str:
    """The answer to the caller."""
    if verb == "wake":
        return (await app.wake(id)).word
    if verb == "cancel":
        return (await app.cancel(id)).word
    try:
        return (await app.reschedule(id, MOVE_S)).word
    except NotAllowed:  # it runs, so the timer had fired
        return "already"
