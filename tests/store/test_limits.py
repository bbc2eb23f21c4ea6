"""Limits: who may be queued, who is parked, and in which order the parked ones begin."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from durasleep.errors import CorruptData, LimitFull, NotAllowed, NotFound, UsageError
from durasleep.model import CommitAction, Due, Number, PromiseId, StartChild, StartTimer, State, levels_of
from durasleep.protocol import limits, membership
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import L
from durasleep.protocol.limits import declared_text
from durasleep.query import fsck
from durasleep.settings import DEFAULTS
from durasleep.traits import Traits
from harness.servers import FAKE, Server
from tests.store.driver import OTHER, WORKER, Driver

pytestmark = pytest.mark.one_partition("the limits are declared in one partition")

RUNS = int(os.environ.get("DURASLEEP_LIMIT_RUNS", "2"))
NOW_MS = 1_700_000_000_000
ACTIONS = ("force", "cancel", "wake", "halt", "resume")


class Limited(Driver):
    """A namespace whose clock stands still until a test moves it, with limited functions."""

    now_ms = NOW_MS

    async def declare(
        self, name: str = "L", *, functions: tuple[str, ...] = ("f",), keyed: bool = False, **numbers: Any
    ) -> None:
        await self.number(name, **numbers)
        declared = declared_text(name, None, None, needs_key=keyed)
        for function in functions:
            await self.store.call(limits.declare_function(self.keys, function, declared))
        await self.fire_all()

    async def number(self, name: str = "L", **numbers: Any) -> None:
        fields = {L[field]: str(value) for field, value in numbers.items()}
        await self.store.call(limits.declare_limit(self.keys, name, fields))

    async def move(self, ms: int) -> None:
        self.now_ms += ms
        await self.redis.set(self.keys.clock, f"={self.now_ms}")

    async def ask(
        self, id: str, key: str = "", *, priority: int | None = None, weight: str = "", **options: Any
    ) -> str:
        """Where the execution is then."""
        traits = Traits(priority, key, weight).words()
        created = await self.create(id, traits=traits, **options)
        return "" if created.place is None else created.place.value

    async def end(self, *ids: str) -> None:
        leases = {lease.id: lease for lease in await self.take_any()}
        for id in ids:
            await self.commit(leases[PromiseId(id)], CommitAction.RESOLVE)

    async def take_any(self, *, consumer: str = WORKER) -> list[Lease]:
        """All leases that a worker holds, with those that it reads now."""
        for queue in levels_of("workers"):
            await self.read(1000, consumer=consumer, queue=queue)
        found: list[Lease] = []
        for queue in levels_of("workers"):
            stream = self.keys.queue(queue)
            for row in await self.redis.xpending_range(stream, "workers", "-", "+", 1000, consumer):
                for entry, fields in await self.redis.xrange(stream, row["message_id"], row["message_id"]):
                    found.append(self.lease(fields[b"i"].decode(), entry.decode(), int(fields[b"e"]), queue=queue))
        return found

    async def begun(self) -> list[str]:
        """What is queued or runs, in the order of the streams."""
        return [id for queue in levels_of("workers") for id in await self.queued(queue)]

    async def left_of(self, name: str = "L") -> list[str]:
        """The keys of a limit, but for its numbers and its rates."""
        start = f"{self.keys.limit(name)}:"
        found = [key.decode().removeprefix(start) async for key in self.redis.scan_iter(match=f"{start}*")]
        return [rest for rest in found if not rest.startswith("rate:")]


@pytest.fixture
async def limited(server: Server, namespace: str) -> AsyncIterator[Limited]:
    driver = Limited(server.client(), namespace, replace(DEFAULTS, movable_clock=True))
    async with driver.store.opened():
        await driver.move(0)
        yield driver
        await driver.redis.delete(driver.keys.clock)


async def test_of_a_key_no_more_run_than_its_limit_says(limited: Limited) -> None:
    await limited.declare(per_key=2, keyed=True)
    places = [await limited.ask(f"a{n}", "a") for n in range(4)] + [await limited.ask("b0", "b")]
    assert places == ["queued", "queued", "parked", "parked", "queued"]
    await limited.end("a0")
    assert await limited.begun() == ["a1", "b0", "a2"]


async def test_all_together_are_no_more_than_the_total(limited: Limited) -> None:
    await limited.declare(total=2)
    assert [await limited.ask(f"e{n}") for n in range(4)] == ["queued", "queued", "parked", "parked"]
    await limited.end("e1", "e0")
    assert await limited.begun() == ["e2", "e3"]


async def test_one_of_b_behind_a_thousand_of_a_is_among_the_first_five(limited: Limited) -> None:
    await limited.declare(total=2, keyed=True)
    for n in range(100):
        await limited.ask(f"a{n}", "a")
    await limited.ask("b", "b")
    order = list(await limited.begun())
    while "b" not in order:
        await limited.end(*(await limited.begun())[:1])
        order += [id for id in await limited.begun() if id not in order]
    assert order.index("b") < 5


async def test_a_heavier_key_has_more_turns(limited: Limited) -> None:
    await limited.declare(total=1, keyed=True)
    for n in range(30):
        await limited.ask(f"a{n}", "a", weight="3")
        await limited.ask(f"b{n}", "b")
    order: list[str] = []
    for _ in range(20):
        [id] = await limited.begun()
        order.append(id[0])
        await limited.end(id)
    assert Counter(order)["a"] in (14, 15, 16)


async def test_a_key_that_may_run_once_takes_its_turn_behind_the_others(limited: Limited) -> None:
    """Its turn is kept while its own slot is in use."""
    await limited.declare(per_key=1, total=1, keyed=True)
    for n in range(4):
        for key in "abc":
            await limited.ask(f"{key}{n}", key)
    order: list[str] = []
    for _ in range(12):
        [id] = await limited.begun()
        order.append(id[0])
        await limited.end(id)
    for at in range(1, 12):
        counts = Counter(order[:at])
        assert max(counts[key] for key in "abc") - min(counts[key] for key in "abc") <= 2, order


async def test_a_rate_lets_one_after_the_other_begin(limited: Limited) -> None:
    await limited.declare(rate=2, window=1000, burst=1)
    assert [await limited.ask(f"e{n}") for n in range(3)] == ["queued", "parked", "parked"]
    for ms, count in ((499, 1), (1, 2), (499, 2), (1, 3)):
        await limited.move(ms)
        await limited.fire_all()
        assert len(await limited.begun()) == count


async def test_who_wakes_up_goes_first_and_needs_no_token(limited: Limited) -> None:
    await limited.declare(total=1, rate=100, window=1000)
    await limited.ask("sleeper")
    [lease] = await limited.take_any()
    await limited.commit(lease, CommitAction.SUSPEND, StartTimer(Number("1"), "", Due("+5000")))
    assert await limited.left_of() == [], "a sleeper holds no slot"
    await limited.move(1000)
    await limited.ask("long")
    await limited.ask("later")
    await limited.move(5000)
    await limited.fire_all()
    assert (await limited.record("sleeper")).place == "parked"
    await limited.end("long")
    assert await limited.begun() == ["sleeper"]


@pytest.mark.parametrize("total", [{}, {"total": 1}])
async def test_who_wakes_up_does_not_wait_for_the_token_of_those_behind_it(
    limited: Limited, total: dict[str, Any]
) -> None:
    await limited.declare(rate=1, window=3_600_000, **total)
    await limited.ask("sleeper")
    [lease] = await limited.take_any()
    await limited.commit(lease, CommitAction.SUSPEND, StartTimer(Number("1"), "", Due("+10")))
    assert await limited.ask("later") == "parked"
    await limited.move(10)
    await limited.fire_all()
    await limited.end("sleeper")
    assert await limited.begun() == []
    await limited.move(3_600_000)
    await limited.fire_all()
    await limited.end("later")
    assert await limited.left_of() == []


async def test_who_wakes_up_takes_its_turn_though_the_others_of_its_key_have_no_token(limited: Limited) -> None:
    await limited.declare(total=1, rate=1, window=3_600_000, keyed=True)
    await limited.ask("sleeper", "a")
    [lease] = await limited.take_any()
    await limited.commit(lease, CommitAction.SUSPEND, StartTimer(Number("1"), "", Due("+10")))
    assert await limited.ask("later", "a") == "parked"
    assert await limited.ask("other", "b") == "queued"
    await limited.move(10)
    await limited.fire_all()
    await limited.end("other")
    await limited.fire_all()
    assert await limited.begun() == ["sleeper"]


async def test_with_a_hold_for_life_a_sleeper_keeps_its_slot(limited: Limited) -> None:
    await limited.declare(total=1, hold="l")
    await limited.ask("sleeper")
    [lease] = await limited.take_any()
    await limited.commit(lease, CommitAction.SUSPEND, StartTimer(Number("1"), "", Due("+5000")))
    assert await limited.ask("later") == "parked"
    await limited.move(6000)
    await limited.fire_all()
    assert await limited.begun() == ["sleeper"]
    await limited.end("sleeper")
    assert await limited.begun() == ["later"]


async def test_the_first_priority_of_a_key_goes_first(limited: Limited) -> None:
    await limited.declare(total=1)
    for id, priority in (("now", 3), ("five", 5), ("three", 3), ("one", 1)):
        await limited.ask(id, priority=priority)
    order: list[str] = []
    for _ in range(4):
        [id] = await limited.begun()
        order.append(id)
        await limited.end(id)
    assert order == ["now", "one", "three", "five"]


async def test_a_dead_worker_leaks_no_slot(limited: Limited) -> None:
    await limited.declare(total=1)
    await limited.ask("first")
    await limited.ask("second")
    await limited.beat()
    [_lease] = await limited.take_any()
    await limited.reclaim()
    assert await limited.begun() == ["first"]
    [again] = await limited.take_any(consumer=OTHER)
    await limited.commit(again, CommitAction.RESOLVE, consumer=OTHER)
    assert await limited.begun() == ["second"]


async def test_paused_nothing_begins_and_resumed_all_that_may(limited: Limited) -> None:
    await limited.declare(total=2)
    await limited.store.call(limits.change_limit(limited.keys, "L", "pause"))
    assert [await limited.ask(f"e{n}") for n in range(3)] == ["parked"] * 3
    await limited.store.call(limits.change_limit(limited.keys, "L", "resume"))
    await limited.fire_all()
    assert await limited.begun() == ["e0", "e1"]


async def test_numbers_by_hand_hold_until_they_are_reset(limited: Limited) -> None:
    await limited.declare(total=1)
    for n in range(5):
        await limited.ask(f"e{n}")
    await limited.store.call(limits.set_limit(limited.keys, "L", {L["total"]: "3"}))
    await limited.fire_all()
    assert len(await limited.begun()) == 3
    await limited.number(total=2)
    await limited.fire_all()
    await limited.end("e0")
    assert len(await limited.begun()) == 3, "the code does not change what a person has set"
    await limited.store.call(limits.change_limit(limited.keys, "L", "reset"))
    await limited.fire_all()
    await limited.end("e1", "e2", "e3")
    assert len(await limited.begun()) == 1


@pytest.mark.parametrize("total", [{}, {"total": 5}])
async def test_a_rate_that_a_person_gives_up_keeps_nobody_waiting(limited: Limited, total: dict[str, Any]) -> None:
    await limited.declare(rate=1, window=3_600_000, **total)
    assert [await limited.ask(f"e{n}") for n in range(3)] == ["queued", "parked", "parked"]
    await limited.store.call(limits.set_limit(limited.keys, "L", {L["rate"]: ""}))
    await limited.fire_all()
    assert await limited.begun() == ["e0", "e1", "e2"]
    assert await limited.timers() == {}


async def test_a_rate_that_becomes_faster_is_faster_at_once(limited: Limited) -> None:
    """Also if the clock is set back: nobody waits longer for a token than the rate says."""
    await limited.declare(rate=1, window=3_600_000)
    assert [await limited.ask(f"e{n}") for n in range(3)] == ["queued", "parked", "parked"]
    await limited.number(rate=1, window=1_000)
    await limited.fire_all()
    for count in (2, 3):
        await limited.move(1_000)
        await limited.fire_all()
        assert len(await limited.begun()) == count
    await limited.move(-3_600_000)
    assert await limited.ask("e3") == "parked"
    await limited.move(1_000)
    await limited.fire_all()
    assert len(await limited.begun()) == 4


async def test_a_key_does_not_pay_later_for_turns_that_nobody_wanted(limited: Limited) -> None:
    """As long as there is no total, the keys take no turns."""
    await limited.declare(per_key=1, keyed=True)
    for n in range(12):
        await limited.ask(f"a{n}", "a")
    for n in range(8):
        await limited.end(f"a{n}")
    await limited.number(per_key=1, total=1)
    for n in range(3):
        await limited.ask(f"b{n}", "b")
    order: list[str] = []
    for _ in range(7):
        await limited.fire_all()
        [id] = await limited.begun()
        order.append(id[0])
        await limited.end(id)
    assert "bbb" not in "".join(order), order


async def test_there_is_nothing_to_change_of_a_limit_that_is_not_there(limited: Limited) -> None:
    with pytest.raises(NotFound, match="there is no limit nil"):
        await limited.store.call(limits.change_limit(limited.keys, "nil", "pause"))


async def test_only_a_limit_that_nothing_uses_is_deleted(limited: Limited) -> None:
    await limited.declare(total=1)
    await limited.ask("runs")
    await limited.ask("waits")
    for left in ("runs", "waits"):
        with pytest.raises(NotAllowed, match="limit L is in use"):
            await limited.store.call(limits.change_limit(limited.keys, "L", "delete"))
        await limited.end(left)
        await limited.fire_all()
    await limited.store.call(limits.change_limit(limited.keys, "L", "delete"))
    assert not await limited.redis.exists(limited.keys.limit("L"))
    assert await limited.store.call(limits.read_declared(limited.keys, ["work"])) == {"work": ""}
    assert await limited.ask("free") == "queued"


@pytest.mark.parametrize("part", ["", ":gate", ":held", ":waiting"])
async def test_a_key_that_is_not_ours_is_named_and_nothing_is_written(limited: Limited, part: str) -> None:
    await limited.declare(total=1)
    key = limited.keys.limit("L") + part
    await limited.redis.delete(key)
    await limited.redis.set(key, "not ours")
    with pytest.raises(CorruptData, match=f"{re.escape(key)} holds a string"):
        await limited.ask("a")
    assert not await limited.redis.exists(limited.keys.promise("a"))
    await limited.redis.delete(key)


async def test_what_is_canceled_while_parked_leaves_nothing(limited: Limited) -> None:
    await limited.declare(per_key=1, keyed=True)
    await limited.ask("runs", "a")
    await limited.ask("waits", "a")
    assert (await limited.control("cancel", "waits")).word == "canceled"
    await limited.end("runs")
    assert await limited.left_of() == []


@pytest.mark.parametrize(("overflow", "places"), [("refuse", ["queued", "parked"]), ("drop", ["queued", "parked"])])
async def test_where_nothing_more_may_wait_it_is_refused_or_dropped(
    limited: Limited, overflow: str, places: list[str]
) -> None:
    await limited.declare(total=1, parked_max=1, overflow=overflow)
    assert [await limited.ask(f"e{n}") for n in range(2)] == places
    if overflow == "refuse":
        with pytest.raises(LimitFull, match="limit L has no room for another one to wait: e2 was not started"):
            await limited.ask("e2")
    else:
        assert (await limited.create("e2")).disposition == "dropped"
    assert not await limited.redis.exists(limited.keys.promise("e2"))


async def test_a_newer_one_replaces_the_oldest_that_waits(limited: Limited) -> None:
    await limited.declare(total=1, parked_max=1, overflow="replace")
    for n in range(4):
        await limited.ask(f"e{n}")
    await limited.fire_all()
    states = [(await limited.record(f"e{n}")).state for n in range(4)]
    assert states == [State.PENDING, State.CANCELED, State.CANCELED, State.PENDING]
    await limited.end("e0")
    assert await limited.begun() == ["e3"]


async def test_who_waits_again_is_not_ended_for_one_that_it_has_made_room_for(limited: Limited) -> None:
    """It was retried before the firer came to end it."""
    await limited.declare(total=1, parked_max=1, overflow="replace")
    for n in range(3):
        await limited.ask(f"e{n}")
    assert (await limited.control("force", "e1")).word == "canceled"
    assert (await limited.control("retry", "e1")).word == "retrying"
    await limited.fire_all()
    assert (await limited.record("e1")).place == "parked"
    await limited.end("e0")
    assert await limited.begun() == ["e2"]


async def test_a_limit_by_key_refuses_a_call_without_one(limited: Limited) -> None:
    await limited.declare(per_key=1, keyed=True)
    with pytest.raises(UsageError, match="counts by key: give a key"):
        await limited.ask("e")


async def test_a_child_that_may_not_be_made_is_told_so(limited: Limited) -> None:
    await limited.declare(total=1, functions=("g",), parked_max=1, keyed=True)
    lease = await limited.start("parent")
    key = Traits(key="a").words()
    children = [StartChild(Number(str(n)), "g", b"", None, None, None, traits=key) for n in (1, 2, 3)]
    await limited.commit(lease, CommitAction.CONTINUE, *children, StartChild(Number("4"), "g", b"", None, None, None))
    entries = [await limited.entry("parent", str(n)) for n in (1, 2, 3, 4)]
    assert [(entry.state, entry.payload) for entry in entries] == [
        (State.PENDING, b""),
        (State.PENDING, b""),
        (State.REJECTED, b"F"),
        (State.REJECTED, b"K"),
    ]


# -- any way through it


@dataclass
class Run:
    """Random moves of callers, workers and people, with the laws looked at after each."""

    limited: Limited
    chance: random.Random
    numbers: dict[str, Any] = field(default_factory=dict[str, Any])
    has_changed: bool = False
    made: int = 0
    live: dict[str, str] = field(default_factory=dict[str, str])
    """Pending executions, and their keys."""

    async def begin(self) -> None:
        chance = self.chance
        if chance.random() < 0.7:
            self.numbers["per_key"] = chance.choice([1, 2, 3])
        if chance.random() < 0.5:
            self.numbers["total"] = chance.choice([1, 2, 5])
        if chance.random() < 0.4 or not self.numbers:
            self.numbers |= {"rate": chance.choice([1, 2, 5]), "window": 1000, "burst": chance.choice([1, 2, 3])}
        if chance.random() < 0.4:
            self.numbers["hold"] = "l"
        if chance.random() < 0.3:
            self.numbers |= {
                "parked_max": chance.choice([0, 1, 3]),
                "overflow": chance.choice(["refuse", "drop", "replace"]),
            }
        await self.limited.declare(keyed=True, **self.numbers)
        self.keys = [f"t{n}" for n in range(chance.choice([1, 3, 10]))]

    async def step(self) -> None:
        limited, chance = self.limited, self.chance
        match chance.choices(["make", "work", "move", "change", "control", "die"], [40, 35, 12, 2, 8, 3])[0]:
            case "make":
                for _ in range(chance.choice([1, 1, 5])):
                    id, key = f"e{self.made}", chance.choice(self.keys)
                    self.made += 1
                    start = Due("+300") if chance.random() < 0.1 else None
                    try:
                        await limited.ask(id, key, priority=chance.choice([1, 3, 3, 5]), start=start)
                    except LimitFull:
                        continue
                    if await limited.redis.exists(limited.keys.promise(id)):
                        self.live[id] = key
            case "work":
                for lease in chance.sample(held, min(3, len(held))) if (held := await limited.take_any()) else []:
                    await self.work(lease)
            case "move":
                await limited.move(chance.choice([1, 50, 200, 1000]))
            case "change":
                await self.change()
            case "control" if self.live:
                id, action = chance.choice(sorted(self.live)), chance.choice(ACTIONS)
                record = await limited.record(id)
                is_unfit = record.place is None or (action == "wake" and record.place == "halted")
                if not is_unfit:
                    await limited.control(action, id)
            case "die":
                await limited.beat()
                for queue in membership.queues_to_reclaim("workers", WORKER)[1:]:
                    await limited.reclaim(queue=queue)
            case _:
                pass
        if chance.random() < 0.5:
            await limited.fire_all()

    async def work(self, lease: Any) -> None:
        match self.chance.choices(["resolve", "suspend", "retry", "again"], [60, 20, 15, 5])[0]:
            case "resolve":
                await self.limited.commit(lease, CommitAction.RESOLVE)
            case "suspend":
                loaded = await self.limited.load(lease.id)
                number = str(1 + max((int(one) for one in loaded.entries), default=0))
                seen = max(loaded.entries.values(), key=lambda one: one.stamp, default=None)
                timer = StartTimer(Number(number), "", Due("+100"))
                await self.limited.commit(lease, CommitAction.SUSPEND, timer, seen=seen)
            case "retry":
                await self.limited.commit(lease, CommitAction.RETRY, due="+50")
            case _:
                await self.limited.commit(lease, CommitAction.CONTINUE_AS_NEW, due=str(self.made + 1000))

    async def change(self) -> None:
        limited, what = self.limited, self.chance.choice(["per_key", "total", "pause", "resume", "reset"])
        if what in ("per_key", "total"):
            if what not in self.numbers:
                return
            self.has_changed = True
            value = self.chance.choice([1, 2, 4, 6])
            await limited.store.call(limits.set_limit(limited.keys, "L", {L[what]: str(value)}))
        else:
            self.has_changed = self.has_changed or what == "reset"
            await limited.store.call(limits.change_limit(limited.keys, "L", cast("limits.Change", what)))

    async def look(self) -> None:
        """The counters say what is true, and no limit is broken."""
        limited = self.limited
        inside, parked = Counter[str](), Counter[str]()
        held = await limited.redis.hgetall(f"{limited.keys.limit('L')}:held")
        for id, key in list(self.live.items()):
            record = await limited.record(id)
            if record.state is not State.PENDING:
                del self.live[id]
                assert id.encode() not in held
                continue
            is_parked = await limited.redis.zscore(f"{limited.keys.limit('L')}:parked:{key}", id) is not None
            if record.place == "parked":
                parked[key] += 1
                assert is_parked or f"{id}~replaced" in await limited.timers()
            else:
                assert not is_parked
            is_inside = record.place == "queued" or (self.numbers.get("hold") == "l" and id.encode() in held)
            assert (id.encode() in held) == is_inside, (id, record.place)
            inside[key] += is_inside
        gate = await limited.redis.hgetall(f"{limited.keys.limit('L')}:gate")
        for key in self.keys:
            assert int(gate.get(b"=" + key.encode(), 0)) == inside[key]
        if not self.has_changed:
            assert max(inside.values(), default=0) <= self.numbers.get("per_key", 1e9)
            assert inside.total() <= self.numbers.get("total", 1e9)

    async def rest(self) -> None:
        """When all that is due has fired, no key has parked work, room and no timer."""
        limited = self.limited
        await limited.fire_all()
        name = limited.keys.limit("L")
        numbers = {name.decode(): value.decode() for name, value in (await limited.redis.hgetall(name)).items()}
        if L["paused"] in numbers:
            return
        gate, used = await limited.redis.hgetall(f"{name}:gate"), await limited.redis.hlen(f"{name}:held")
        report = await limited.store.run(fsck.fsck(limited.store.keyspaces))
        assert report.is_clean, report.findings
        timers = await limited.timers()
        for key in [one.decode() for one in await limited.redis.zrange(f"{name}:waiting", 0, -1)]:
            has_room = int(gate.get(b"=" + key.encode(), 0)) < int(numbers.get(L["per_key"], 10**9))
            is_open = used < int(numbers.get(L["total"], 10**9))
            assert not (has_room and is_open) or f"L/{key}~gate" in timers, (key, numbers, used)

    async def end(self) -> None:
        """Everything comes to its end, and leaves nothing."""
        limited = self.limited
        await limited.store.call(limits.change_limit(limited.keys, "L", "resume"))
        for _ in range(3000):
            await limited.fire_all()
            for lease in await limited.take_any():
                await limited.commit(lease, CommitAction.RESOLVE)
            for id in await limited.halted():
                await limited.control("resume", id)
            await self.look()
            if not self.live:
                break
            await limited.move(100)
        assert not self.live
        assert await limited.left_of() == []
        assert await limited.timers() == {}


@pytest.mark.parametrize("seed", range(RUNS))
async def test_on_any_way_no_limit_is_broken_nothing_is_stuck_and_nothing_is_left(
    limited: Limited, server: Server, seed: int
) -> None:
    run = Run(limited, random.Random(seed))
    await run.begin()
    for _ in range(15 if server.kind == FAKE else 60):  # fakeredis takes a hundred times as long
        await run.step()
        await run.look()
        if run.chance.random() < 0.3:
            await run.rest()
    await run.end()
