"""The stored journal of an execution replays without a difference: at every moment of its life, and after its end."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from durasleep import Durasleep, testing
from durasleep.client.client import Handle
from durasleep.errors import DurasleepError
from durasleep.model import CANCEL, State
from durasleep.testing import Env
from tests.laws import shapes
from tests.laws.shapes import SHAPE_IDS, SHAPES, Shape

MOMENTS_MAX = 40  # of one life: more would show nothing new


def answer_late(_: float, value: Any) -> Any:
    """Stands for a step that takes long."""
    return value


def fail_late(_: float, text: str) -> None:
    raise ValueError(text)


def ship(parcel: int) -> int:
    """The child of these workflows."""
    return parcel


@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
async def test_a_journal_replays_at_every_moment(shape: Shape) -> None:
    app = Durasleep()
    app.workflow(shape.fn)
    app.task(ship)
    async with testing.env(app, debug=False) as env:
        env.mock(shapes.slowly, answer_late)
        env.mock(shapes.fail_slowly, fail_late)
        began = await env.now()
        handle = await env.start(shape.fn, *shape.args, id="x")
        outside = sorted((began + timedelta(milliseconds=ms), number) for number, (ms, _, _) in shape.script.items())
        for _ in range(MOMENTS_MAX):
            due = await env.run_until_idle()
            if (await app.describe("x")).status == "halted":
                assert shape.fn is shapes.stuck
                return
            await env.replay("x")
            if await handle.done() or not (due or outside):
                break
            await go_on(env, handle, due, outside, shape)
        if not await handle.done():
            await handle.cancel()
            await env.run_until_idle()
            await env.replay("x")


async def go_on(
    env: Env, handle: Handle[Any], due: datetime | None, outside: list[tuple[datetime, str]], shape: Shape
) -> None:
    """Move to the next due time, or the next event from outside."""
    if not outside or (due is not None and due < outside[0][0]):
        assert due is not None
        await skip_to(env, due)
        return
    instant, number = outside.pop(0)
    await skip_to(env, instant)
    if number == CANCEL:
        await handle.cancel()
        return
    _, state, value = shape.script[number]
    try:
        await settle(env.app, f"{handle.id}~{number}", state, value)
    except DurasleepError:
        return  # here it is not a promise, or not asked for yet


async def skip_to(env: Env, instant: datetime) -> None:
    await env.skip(max(instant - await env.now(), timedelta()))  # it may have passed already


async def settle(app: Durasleep, id: str, state: State, value: Any) -> None:
    match state:
        case State.RESOLVED:
            await app.promises.resolve(id, value)
        case State.REJECTED:
            await app.promises.reject(id, value)
        case _:
            await app.promises.cancel(id)
