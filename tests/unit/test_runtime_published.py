"""``ctx.publish``: a map that each replay builds again, and one op in front of all others when it has changed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durasleep import Context
from durasleep.codec.published import decode_run
from durasleep.errors import CorruptData
from durasleep.model import Number, Op, Publish, StartTimer
from durasleep.runtime.outcome import Continued, Halted, Resolved
from durasleep.settings import DEFAULTS
from durasleep.transport.batching import split_ops
from tests.unit.runtime_world import CODEC, World


def shown(payload: bytes) -> dict[str, Any]:
    return decode_run(CODEC, payload)[1] if payload else {}


async def telling(ctx: Context, times: int = 4) -> int:
    log: list[int] = []
    ctx.publish(log=log)
    for n in range(times):
        await asyncio.gather(ctx.sleep(1), ctx.sleep(2))
        log.append(n)
        if n % 2:
            ctx.publish(log=log, n=n)
        else:
            ctx.publish(**{f"even {n}": True})
    ctx.publish(status="ended")
    return times


@pytest.mark.parametrize("keep", [True, False])
def test_whatever_dies_the_same_is_seen_at_the_end(keep: bool) -> None:
    world = World(telling, keep=keep)
    world.play()
    expected = {"log": [0, 1, 2, 3], "even 0": True, "n": 3, "even 2": True, "status": "ended"}
    assert shown(world.published) == expected
    for cut in world.cuts:
        cut.play()
        assert shown(cut.published) == expected


def test_it_is_the_first_op_and_one_only() -> None:
    async def steps(ctx: Context) -> None:
        sleeps = [ctx.sleep(n) for n in range(1, 4)]
        ctx.publish(a=1)
        sleeps.append(ctx.sleep(9))
        ctx.publish(b=2)
        await asyncio.gather(*sleeps)

    world = World(steps)
    progress = world.activate()
    ops = progress.ops
    assert isinstance(ops[0], Publish)
    assert shown(ops[0].payload) == {"a": 1, "b": 2}
    assert [type(op) for op in ops[1:]] == [StartTimer] * 4
    first, *_ = split_ops([Publish(b"x"), *[StartTimer(Number(str(n)), "", "+1") for n in range(9000)]], DEFAULTS)  # type: ignore[arg-type]
    assert isinstance(first[0], Publish)
    world.close()


def test_it_is_never_the_last_entry_that_was_asked_for() -> None:
    world = World(telling)
    world.activate()
    activation = world.activation
    assert activation is not None
    timer = StartTimer(Number("3"), "", "+1")  # type: ignore[arg-type]
    cases: list[tuple[tuple[Op, ...], str]] = [
        ((Publish(b"x"),), ""),
        ((Publish(b"x"), timer), "3"),
        ((Publish(b"x"), Publish(b"y", "3")), "3"),
        ((timer, Publish(b"y", "3")), "3"),
        ((), "3"),
    ]
    for ops, expected in cases:
        activation.note_committed(ops)
        assert activation.last_op_number == expected
    world.close()


def test_a_replay_asks_for_nothing_that_was_published_before() -> None:
    world = World(telling)
    world.activate()
    world.close()
    world.step_time()
    world.step_time()
    progress = world.activate()
    assert [op for op in progress.ops if isinstance(op, Publish)] != []
    world.close()
    again = world.new_activation()
    progress = again.start(list(world.journal.values()), unseen=())
    assert [op for op in progress.ops if isinstance(op, Publish)] == []
    assert again.close().leaked == ()


def test_it_comes_with_every_end_but_not_with_a_new_run() -> None:
    async def ending(ctx: Context, how: str) -> str:
        ctx.publish(how=how)
        match how:
            case "return":
                return how
            case "raise":
                raise ValueError(how)
            case "new run":
                ctx.continue_as_new("return")
            case _:
                await asyncio.get_running_loop().create_future()
        return ""

    for how, kind in (("return", Resolved), ("raise", None), ("new run", Continued), ("hang", Halted)):
        world = World(ending, how)
        progress = world.activate()
        assert kind is None or isinstance(progress.outcome, kind)
        assert shown(world.published) == ({} if how == "new run" else {"how": how})
        world.close()


def test_an_eviction_publishes_nothing() -> None:
    async def tidy(ctx: Context) -> None:
        try:
            await ctx.promise()
        finally:
            ctx.publish(status="tidied up")

    world = World(tidy)
    world.activate()
    world.close()
    assert world.published == b""


def test_other_data_is_refused() -> None:
    wrong: list[Any] = [None, 1, [], [1], ["a", {}], [1, 2]]
    for value in wrong:
        with pytest.raises(CorruptData):
            decode_run(CODEC, CODEC.encode(value, "nothing"))
