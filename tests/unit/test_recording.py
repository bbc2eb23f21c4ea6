"""Recordings: a journal in a file, and how today's code replays it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from durasleep.errors import UsageError
from durasleep.model import CANCEL, Entry, Kind, Number, Recording, State
from durasleep.runtime import recording
from durasleep.runtime.context import Context
from durasleep.runtime.definition import Registry
from durasleep.runtime.outcome import Rejected, Resolved
from durasleep.runtime.recording import Verdict
from durasleep.settings import Settings
from tests.unit.runtime_world import CODEC, WorkflowFn, World


def pay(cents: int) -> str:
    return f"paid {cents}"


async def paying(ctx: Context, cents: int) -> str:
    receipt = await ctx.run(pay, cents)
    await ctx.sleep(60)
    answer = await ctx.promise(name="approval")
    return f"{receipt} {answer}"


async def paying_twice(ctx: Context, cents: int) -> str:
    receipt = await ctx.run(pay, cents)
    await ctx.run(pay, cents)
    answer = await ctx.promise(name="approval")
    return f"{receipt} {answer}"


async def saying_more(ctx: Context, cents: int) -> str:
    return await paying(ctx, cents) + "!"


async def failing(ctx: Context, cents: int) -> str:
    await paying(ctx, cents)
    raise ValueError(f"{cents} too much")


TRAITS: dict[str, Any] = {"priority": 1, "labels": {"plan": "pro"}}


def recorded(world: World) -> Recording:
    state, value = State.PENDING, b""
    match world.progress.outcome if world.progress else None:
        case Resolved(payload):
            state, value = State.RESOLVED, payload
        case Rejected(payload=payload):
            state, value = State.REJECTED, payload
        case _:
            pass
    return Recording(
        id=world.info.id,
        function="paying",
        group=world.info.group,
        state=state,
        incarnation=world.info.incarnation,
        created_ms=world.info.created_ms,
        begun_ms=world.info.created_ms,
        base=world.base,
        args=world.args,
        value=value,
        unseen=frozenset(),
        entries=tuple(world.journal.values()),
    )


def suspended(fn: WorkflowFn = paying) -> Recording:
    world = World(fn, 250)
    world.activate()
    world.step_time()
    world.activate()
    return recorded(world)


def finished(fn: WorkflowFn = paying) -> Recording:
    world = World(fn, 250, script={"3": (90_000, State.RESOLVED, "yes")})
    world.play()
    return recorded(world)


def checked(one: Recording, fn: Any, version: int = 1) -> Verdict:
    async def copy(ctx: Context, cents: int) -> str:  # a function can be registered once
        return await fn(ctx, cents)

    registry = Registry()
    registry.workflow(copy, "paying", version)
    return recording.check(one, registry, CODEC, Settings())


def test_the_code_it_was_recorded_with_goes_the_same_way() -> None:
    verdict = checked(suspended(), paying)
    assert verdict.ok
    assert "in paying" in verdict.text
    assert checked(finished(), paying) == Verdict("order-1", "paying", True, "resolved: 'paid 250 yes'")
    assert checked(finished(failing), failing).text == "rejected: ValueError: 250 too much"


async def by_plan(ctx: Context, cents: int) -> None:
    if ctx.info.labels["plan"] == "pro" and ctx.info.priority == 1:
        await ctx.sleep(1)
    await ctx.promise(name=ctx.info.labels["plan"])


def test_the_code_sees_the_labels_and_the_priority_it_had() -> None:
    world = World(by_plan, 250)
    world.info = msgspec.structs.replace(world.info, **TRAITS)
    world.activate()
    seen = replace(recorded(world), **TRAITS)
    assert checked(seen, by_plan).ok
    assert not checked(replace(seen, labels={"plan": "free"}), by_plan).ok


def test_other_code_is_told_where_it_leaves_the_way() -> None:
    for one in (suspended(), finished()):
        verdict = checked(one, paying_twice)
        assert not verdict.ok
        assert "- 2      timer" in verdict.text
        assert "+ 2      step        'pay'" in verdict.text


def test_another_ending_is_a_difference_once_it_has_ended() -> None:
    assert checked(suspended(), saying_more).ok
    verdict = checked(finished(), saying_more)
    assert (verdict.ok, verdict.text) == (
        False,
        "it ended differently:\n  - resolved: 'paid 250 yes'\n  + resolved: 'paid 250 yes!'",
    )
    assert "still waiting" in checked(replace(finished(), entries=()), saying_more).text


def test_a_function_or_version_that_is_gone_is_said() -> None:
    async def other(ctx: Context, cents: int) -> None: ...

    registry = Registry()
    registry.workflow(other)
    verdict = recording.check(suspended(), registry, CODEC, Settings())
    assert (verdict.ok, verdict.text) == (False, "the function 'paying' is not here")
    mark = Entry(Number("0.1"), Kind.VERSION, State.RESOLVED, "2")
    second = replace(suspended(), entries=(*suspended().entries, mark))
    verdict = checked(second, paying)
    assert (verdict.ok, verdict.text) == (False, "version 2 of the function 'paying' is not here")


def test_what_was_ended_from_outside_and_what_never_ran_has_no_way_to_differ() -> None:
    for state in (State.CANCELED, State.TIMEDOUT):
        assert checked(replace(suspended(), state=state), paying).ok
    fresh = replace(suspended(), entries=())
    assert checked(fresh, paying).ok
    cancel = Entry(CANCEL, Kind.CANCEL, State.RESOLVED, "", 2_000_000_000_000)
    assert checked(replace(suspended(), entries=(*suspended().entries, cancel)), paying).text == "canceled"

    def task(cents: int) -> None: ...

    registry = Registry()
    registry.task(task, "paying")
    assert recording.check(fresh, registry, CODEC, Settings()).ok


def test_no_step_is_run() -> None:
    def never(cents: int) -> str:
        raise AssertionError(cents)

    never.__qualname__ = "pay"

    async def calling(ctx: Context, cents: int) -> str:
        return await ctx.run(never, cents)

    assert checked(replace(suspended(), entries=()), calling).ok


def test_a_line_of_a_file_is_the_recording_again() -> None:
    for one in (
        suspended(),
        finished(),
        replace(suspended(), unseen=frozenset({"2", "1.1"}), base=7),
        replace(suspended(), **TRAITS),
    ):
        line = recording.dumps(one)
        assert "\n" not in line
        assert recording.loads(line) == one


@pytest.mark.parametrize(
    "wrong",
    [
        {"durasleep": 99},
        {"entries": ["entry"]},
        {"entries": 7},
        {"state": "sleepy"},
        {"args": "no base64"},
        {"id": 7},
        {"value": None},
        {"labels": {"A": "1"}},
        {"labels": "team"},
    ],
)
def test_what_is_no_recording_is_refused(wrong: dict[str, Any]) -> None:
    document = json.loads(recording.dumps(suspended()))
    for line in (json.dumps(document | wrong), "not JSON", "[]", "{}"):
        with pytest.raises(UsageError, match="recording"):
            recording.loads(line)
