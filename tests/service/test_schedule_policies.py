"""Schedules with workers: executions that would overlap, times that were missed, and what code declares."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durasleep import Durasleep, UsageError
from durasleep.client.client import store_of
from durasleep.errors import DefinitionError
from durasleep.protocol.keys import S
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.workers import eventually, serving


@dataclass
class Shift:
    """A task that takes longer than its schedule waits, and what became of it."""

    takes_s: float = 1.3
    begun: Counter[str] = field(default_factory=Counter[str])
    ended: list[str] = field(default_factory=list[str])
    inside: int = 0
    inside_max: int = 0

    def add_to(self, app: Durasleep) -> Any:
        from durasleep import current

        @app.task
        async def work() -> None:
            id = current().id
            self.begun[id] += 1
            self.inside += 1
            self.inside_max = max(self.inside_max, self.inside)
            try:
                await asyncio.sleep(self.takes_s)
                self.ended.append(id)
            finally:
                self.inside -= 1

        return work


@pytest.mark.long
@pytest.mark.parametrize("overlap", ["skip", "queue", "queue_all", "allow", "cancel"])
async def test_each_policy_for_executions_that_would_overlap(app: Durasleep, overlap: Any) -> None:
    shift = Shift()
    work = shift.add_to(app)
    async with serving(app):
        await app.schedules.put("shift", work, every="1s", overlap=overlap)
        await eventually(lambda: len(shift.begun) >= 3, "three to begin")
        made = await app.schedules.pause("shift")
        await eventually(lambda: shift.inside == 0, "all to end")
    assert set(shift.begun.values()) == {1}, "each time started once"
    times = [datetime.fromisoformat(id.partition("@")[2]) for id in shift.begun]
    assert times == sorted(times)
    gaps = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(times)]
    match overlap:
        case "allow":
            assert shift.inside_max > 1
            assert gaps[0] == 1
        case "skip":
            assert shift.inside_max == 1
            assert gaps[0] >= 2, "the time between them was skipped"
            assert made.waiting == []
        case "cancel":
            assert shift.inside_max == 1
            assert gaps[0] == 1
            assert times[0] not in [datetime.fromisoformat(id.partition("@")[2]) for id in shift.ended]
        case _:
            assert shift.inside_max == 1
            assert gaps[0] == 1, "it waited"
    await app.schedules.delete("shift")
    assert (await app.fsck()).is_clean


async def test_what_waits_begins_as_soon_as_the_one_before_ends(app: Durasleep) -> None:
    """Nobody asks again and again, and the next time is far away."""
    shift = Shift(takes_s=0.3)
    work = shift.add_to(app)
    await app.schedules.put("back", work, cron="0 0 * * *", overlap="queue_all", end=datetime.now(UTC))
    async with serving(app):
        first = datetime(2024, 5, 1, tzinfo=UTC)
        ids = await app.schedules.backfill("back", first, first + timedelta(days=5))
        began = asyncio.get_running_loop().time()
        await eventually(lambda: len(shift.ended) == 6, "all to end")
        assert asyncio.get_running_loop().time() - began < 6 * (0.3 + 0.5)
    assert shift.ended == ids
    assert shift.inside_max == 1
    await app.schedules.delete("back")


@pytest.mark.parametrize(("catch_up", "count"), [("last", 1), ("first", 1), ("all", 90), ("none", 1)])
async def test_after_an_outage_times_are_made_up_for(
    app: Durasleep, real_server: Server, catch_up: Any, count: int
) -> None:
    """It was due an hour and a half ago, and no worker ran."""
    shift = Shift(takes_s=0)
    work = shift.add_to(app)
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    missed = [now - timedelta(minutes=minute) for minute in range(89, -1, -1)]
    await app.schedules.put(
        "m", work, cron="* * * * *", overlap="allow", catch_up=catch_up, end=now + timedelta(hours=1)
    )
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keys("m")
    due_ms = round(missed[0].timestamp() * 1000)
    client.hset(keys.schedule("m"), S["due"], due_ms)
    client.zadd(keys.schedules, {"m": due_ms})
    async with serving(app):
        await eventually(lambda: len(shift.ended) >= count, "what was missed to be made up for")
        await app.schedules.pause("m")
    ids = [f"m@{at.isoformat()}" for at in missed]
    expected = {"last": ids[-1:], "none": ids[-1:], "first": ids[:1], "all": ids}[catch_up]
    later = {f"m@{(now + timedelta(minutes=minute)).isoformat()}" for minute in (1, 2)}  # the minute may have ended
    assert set(expected[: len(expected) - 2]) <= set(shift.begun)
    assert set(shift.begun) <= {*expected, *later, *(ids[-1:] if catch_up != "first" else [])}
    assert set(shift.begun.values()) == {1}
    await app.schedules.delete("m")


async def test_two_workers_start_no_time_twice(app: Durasleep, new_app: NewApp) -> None:
    shift = Shift(takes_s=0)
    work = shift.add_to(app)
    others = [new_app() for _ in range(2)]
    for other in others:
        shift.add_to(other)
    for number in range(20):
        await app.schedules.put(f"s{number}", work, every="1s", overlap=("allow", "queue")[number % 2])
    async with serving(app, "a"), serving(others[0], "b"), serving(others[1], "c"):
        await eventually(lambda: len(shift.ended) >= 60, "three rounds to end")
    assert set(shift.begun.values()) == {1}
    for number in range(20):
        await app.schedules.delete(f"s{number}")


async def test_a_limited_schedule_ends_by_itself(app: Durasleep) -> None:
    shift = Shift(takes_s=0)
    work = shift.add_to(app)
    async with serving(app):
        await app.schedules.put("twice", work, every="1s", remaining=2)
        await eventually(lambda: len(shift.ended) == 2, "both to end")
        found = await app.schedules.get("twice")
        assert (found.remaining, found.next) == (0, [])
        again = await app.schedules.put("twice", work, every="1s", remaining=2)
        assert again.next == [], "put again as it was, it stays at its end"
    await app.schedules.delete("twice")


# -- what code declares


async def test_workers_put_the_schedules_of_their_code(app: Durasleep, new_app: NewApp) -> None:
    def declare(one: Durasleep, note: str) -> None:
        @one.cron("0 3 * * *", zone="Europe/Berlin", note=note)
        @one.task
        async def above() -> None: ...

        @one.workflow(name="other name")
        @one.cron(every="1h", name="below", args=[4], overlap="queue")
        async def below(ctx: Any, number: int) -> None: ...

    declare(app, "first")
    async with serving(app):
        above, below = await app.schedules.ls()
        assert (above.name, above.function, above.cron, above.zone) == (
            "above",
            "above",
            ["0 3 * * *"],
            "Europe/Berlin",
        )
        assert (below.name, below.function, below.every_ms, below.overlap) == (
            "below",
            "other name",
            3_600_000,
            "queue",
        )
    await app.schedules.pause("above")
    second = new_app()
    declare(second, "second")
    async with serving(second):
        again = await app.schedules.get("above")
    assert again.note == "second"
    assert again.paused_at_ms, "redeclaring drops nothing"
    for name in ("above", "below"):
        await app.schedules.delete(name)


async def test_a_deploy_that_declares_a_schedule_again_loses_no_overdue_time(
    app: Durasleep, new_app: NewApp, real_server: Server
) -> None:
    shift = Shift(takes_s=0)
    due = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=30)
    line = f"{due.minute} * * * *"
    await app.schedules.put("work", "work", cron=line)
    client: Any = real_server.sync_client()
    client.hset((await store_of(app)).keys("work").schedule("work"), S["due"], round(due.timestamp() * 1000))
    second = new_app()
    second.cron(line)(shift.add_to(second))
    async with serving(second):
        await eventually(
            lambda: shift.ended == [f"work@{due.isoformat()}"], "the time that was missed to be made up for"
        )
    await app.schedules.delete("work")


def test_what_cannot_be_declared_is_said() -> None:
    app = Durasleep("redis://localhost:1")

    async def plain() -> None: ...

    app.cron("* * * * *")(plain)
    with pytest.raises(DefinitionError, match="neither a workflow nor a task"):
        app.worker()
    app.task(plain)
    app.worker()
    app.cron("* * * * *", name="plain")(plain)
    with pytest.raises(DefinitionError, match="two schedules have the name 'plain'"):
        app.worker()
    with pytest.raises(UsageError, match="'x' is not a cron line"):
        app.cron("x")
    with pytest.raises(UsageError, match="overlap 'x'"):
        app.cron("* * * * *", overlap="x")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="schedule name 'a b'"):
        app.cron("* * * * *", name="a b")
    other = Durasleep("redis://localhost:1")
    other.cron("* * * * *")(other.task(name="a name with spaces")(needs_nothing))
    with pytest.raises(DefinitionError, match=r"give @app\.cron a name="):
        other.worker()
    last = Durasleep("redis://localhost:1")
    last.cron("* * * * *")(last.task(needs_number))
    with pytest.raises(UsageError, match="number"):
        last.worker()


async def needs_nothing() -> None: ...


async def needs_number(number: int) -> None: ...
