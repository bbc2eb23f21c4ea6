"""The server's clock is changed: nothing fires early by a clock that cannot be right, or twice, and nothing is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from durasleep import Durasleep
from durasleep.client.client import store_of
from durasleep.settings import DEFAULTS
from durasleep.transport import server_clock as clock_module
from durasleep.transport.server_clock import Clock
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import sleeping_workflow
from tests.service.workers import eventually, serving, until

pytestmark = pytest.mark.long

HOUR_S = 3600
MOVED = replace(DEFAULTS, movable_clock=True)


@pytest.fixture
async def moved_app(new_app: NewApp, real_server: Server) -> AsyncIterator[Durasleep]:
    """An application whose server's clock can be set."""
    app = new_app(settings=MOVED)
    yield app
    store = await store_of(app)
    await real_server.client().delete(*(keys.clock for keys in store.keyspaces))


async def set_clock(app: Durasleep, server: Server, by_s: float) -> None:
    """Set the server's clock forward, or back."""
    store = await store_of(app)
    for keys in store.keyspaces:
        await server.client().incrby(keys.clock, round(by_s * 1000))


async def test_a_clock_set_back_delays_and_neither_loses_nor_repeats(moved_app: Durasleep, real_server: Server) -> None:
    app = moved_app
    async with serving(app):
        before = await app.rpc("before", sleeping_workflow, 1)
        await until(app, "before", "suspended")
        await set_clock(app, real_server, -HOUR_S)
        after = await app.rpc("after", sleeping_workflow, 1)
        assert await after == "Slept for 1 seconds"
        assert not await before.done()
        await set_clock(app, real_server, HOUR_S)
        assert await before == "Slept for 1 seconds"
        assert await app.timers() == []


async def test_a_clock_far_ahead_fires_nothing_until_it_comes_back(
    moved_app: Durasleep, real_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    app = moved_app
    async with serving(app):
        handle = await app.rpc("s", sleeping_workflow, HOUR_S)
        soon = await app.rpc("soon", sleeping_workflow, 1)
        await until(app, "s", "suspended")
        await until(app, "soon", "suspended")
        await set_clock(app, real_server, 2 * HOUR_S)
        await eventually(lambda: "NO TIMER FIRES" in caplog.text, "the worker to say that it holds back")
        assert not await handle.done()
        assert not await soon.done()
        await set_clock(app, real_server, -2 * HOUR_S)
        assert await soon == "Slept for 1 seconds"
        assert "is accepted again" in caplog.text
        assert not await handle.done()
        await app.cancel("s", force=True)


async def test_a_person_releases_a_clock_that_is_right_and_new_workers_wait_for_that_too(
    moved_app: Durasleep, new_app: NewApp, real_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    app = moved_app
    async with serving(app):
        handle = await app.rpc("s", sleeping_workflow, HOUR_S)
        await until(app, "s", "suspended")
        await set_clock(app, real_server, 2 * HOUR_S)
        await eventually(lambda: "NO TIMER FIRES" in caplog.text, "the worker to say that it holds back")
    caplog.clear()
    async with serving(new_app(settings=MOVED)):
        await eventually(lambda: "NO TIMER FIRES" in caplog.text, "the next worker to hold back as well")
        assert not await handle.done()
        await app.release_clock()
        assert await handle == f"Slept for {HOUR_S} seconds"
        assert "was released by hand" in caplog.text


# -- accepted clocks


class Clocks:
    """Clocks that a test can change: the server's, and two of this machine."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.mono_us = 1_000_000
        self.server_us = 10**15
        self.wall_us = 10**15
        self.slept_us = 0
        patch.setattr(clock_module, "monotonic_us", lambda: self.mono_us)
        patch.setattr(clock_module, "wall_us_now", lambda: self.wall_us)
        patch.setattr(clock_module, "_slept_us", lambda: self.slept_us)
        self.clock = Clock(60)
        self.observe()

    def pass_s(self, seconds: float, *, slept: bool = False) -> None:
        us = round(seconds * 1e6)
        self.server_us += us
        self.wall_us += us
        if slept:
            self.slept_us += us
        else:
            self.mono_us += us

    def observe(self) -> None:
        self.clock.observe(self.server_us, self.mono_us - 500, self.mono_us)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def test_a_long_silence_is_no_jump(clocks: Clocks) -> None:
    clocks.pass_s(24 * HOUR_S)
    clocks.observe()
    assert clocks.clock.ahead_s == 0
    assert clocks.clock.latest_ms is not None
    assert clocks.clock.latest_ms - clocks.server_us / 1000 == pytest.approx(60_000, abs=5000)


def test_a_machine_that_has_slept_accepts_the_server(clocks: Clocks) -> None:
    clocks.pass_s(8 * HOUR_S, slept=True)
    assert clocks.clock.latest_ms is not None
    assert clocks.clock.latest_ms > clocks.server_us // 1000
    clocks.observe()
    assert clocks.clock.ahead_s == 0
    assert abs(clocks.clock.now_ms() - clocks.server_us // 1000) <= 1


def test_a_server_set_ahead_is_not_accepted_and_one_that_was_put_right_is(clocks: Clocks) -> None:
    clocks.server_us += 2 * HOUR_S * 1_000_000
    clocks.observe()
    assert clocks.clock.ahead_s == pytest.approx(2 * HOUR_S, abs=1)
    clocks.wall_us = clocks.server_us  # somebody has changed both: proves nothing
    clocks.observe()
    assert clocks.clock.ahead_s > 0

    clocks.clock.accept_next()
    clocks.server_us -= 2 * HOUR_S * 1_000_000
    clocks.observe()
    assert clocks.clock.ahead_s == 0
    clocks.server_us += 2 * HOUR_S * 1_000_000  # the time of our own wall clock, which nobody has changed
    clocks.observe()
    assert clocks.clock.ahead_s == 0


def test_others_are_accepted_before_the_server(clocks: Clocks) -> None:
    clock = Clock(60)
    clock.seed(clocks.server_us // 1000 - int(timedelta(hours=2).total_seconds() * 1000))
    clocks.wall_us -= 2 * HOUR_S * 1_000_000
    clock.seed(clocks.wall_us // 1000)
    clock.observe(clocks.server_us, clocks.mono_us, clocks.mono_us)
    assert clock.ahead_s == pytest.approx(2 * HOUR_S, abs=1)


def test_without_a_bound_everything_is_accepted() -> None:
    clock = Clock()
    clock.observe(10**15, 0, 0)
    clock.observe(2 * 10**15, 1, 1)
    assert clock.ahead_s == 0
    assert clock.latest_ms is None
