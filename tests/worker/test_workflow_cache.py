"""Workflows kept between two wake-ups: the latest, in bounds, and only for the dispatch that follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest

from durasleep.model import PromiseId
from durasleep.settings import DEFAULTS, Settings
from durasleep.worker.execution import workflow_cache
from durasleep.worker.execution.execution_log import ExecutionLog
from durasleep.worker.execution.workflow_cache import ENTRY_BYTES, WorkflowCache
from tests.worker.clock import HeldClock

KEEPING = replace(DEFAULTS, always_suspend=False)
A, B, C = PromiseId("a"), PromiseId("b"), PromiseId("c")
LOG = ExecutionLog("a", ())


@dataclass(eq=False)
class Asleep:
    """What the cache asks of an activation."""

    size: int = 32
    payload_bytes: int = 0


class Cache:
    """One that notes what it puts away; sizes are counted in bytes."""

    def __init__(self, settings: Settings) -> None:
        self.closed: list[Any] = []
        self.kept = WorkflowCache(settings, self.closed.append)

    def put(self, id: PromiseId, activation: Asleep, *, epoch: int = 1) -> bool:
        sleeper: Any = activation
        return self.kept.put(id, sleeper, LOG, epoch=epoch, incarnation=7)


@pytest.fixture
def cache() -> Cache:
    return Cache(KEEPING)


def test_one_is_taken_once_under_the_next_dispatch(cache: Cache) -> None:
    asleep = Asleep()
    assert cache.put(A, asleep, epoch=3)
    assert A in cache.kept
    assert B not in cache.kept
    assert cache.kept.take(B, 4) is None
    kept = cache.kept.take(A, 4)
    assert kept
    assert (kept.activation, kept.log, kept.incarnation) == (asleep, LOG, 7)
    assert A not in cache.kept
    assert cache.kept.take(A, 4) is None
    assert cache.closed == []


@pytest.mark.parametrize("epoch", [2, 3, 5])
def test_one_that_somebody_else_has_had_since_is_closed(cache: Cache, epoch: int) -> None:
    asleep = Asleep()
    cache.put(A, asleep, epoch=3)
    assert cache.kept.take(A, epoch) is None
    assert cache.closed == [asleep]
    assert A not in cache.kept


@pytest.mark.parametrize(("entries", "is_kept"), [(31, False), (32, True)])
def test_a_short_journal_is_not_worth_it(cache: Cache, entries: int, is_kept: bool) -> None:
    assert cache.put(A, Asleep(entries)) is is_kept
    assert (A in cache.kept) is is_kept
    assert cache.closed == [], "whoever has it puts it away"


def test_where_every_await_suspends_none_is_kept() -> None:
    assert not Cache(replace(DEFAULTS, always_suspend=True)).put(A, Asleep())


def test_so_many_are_kept_the_latest() -> None:
    cache = Cache(replace(KEEPING, kept_max=2))
    first = Asleep()
    for id, asleep in ((A, first), (B, Asleep()), (C, Asleep())):
        assert cache.put(id, asleep)
    assert cache.closed == [first]
    assert [id in cache.kept for id in (A, B, C)] == [False, True, True]


SIZE = 1000 + 32 * ENTRY_BYTES


def test_they_take_so_much_memory_at_most() -> None:
    """By what their entries carry, and half a kilobyte for each."""
    assert ENTRY_BYTES == 500
    cache = Cache(replace(KEEPING, kept_bytes_max=2 * SIZE))
    one, two, three = Asleep(payload_bytes=1000), Asleep(payload_bytes=1000), Asleep()
    assert cache.put(A, one)
    assert cache.put(B, two)
    assert cache.closed == []
    assert cache.put(C, three)
    assert cache.closed == [one]


def test_one_that_is_too_large_by_itself_is_not_kept_and_displaces_none() -> None:
    cache = Cache(replace(KEEPING, kept_bytes_max=SIZE))
    assert cache.put(A, Asleep(payload_bytes=1000))
    assert not cache.put(B, Asleep(payload_bytes=1001))
    assert A in cache.kept
    assert cache.closed == []


@pytest.mark.parametrize("how", ["take", "drop", "drop_all", "drop_old", "put again"])
def test_what_is_gone_makes_room(how: str) -> None:
    cache = Cache(replace(KEEPING, kept_bytes_max=2 * SIZE))
    old = Asleep(payload_bytes=1000)
    assert cache.put(A, old)
    match how:
        case "take":
            assert cache.kept.take(A, 2)
        case "drop":
            cache.kept.drop(A)
        case "drop_all":
            cache.kept.drop_all()
        case "drop_old":
            cache.kept.drop_old(float("inf"))
        case _:
            assert cache.put(A, Asleep(payload_bytes=1000))
    assert cache.closed == ([] if how == "take" else [old])
    if how != "put again":
        assert cache.put(A, Asleep(payload_bytes=1000))
    assert cache.put(B, Asleep(payload_bytes=1000))
    assert cache.closed == ([] if how == "take" else [old]), "both have room"


def test_it_is_kept_for_so_long(hold_clock: Callable[[ModuleType], HeldClock]) -> None:
    clock, cache = hold_clock(workflow_cache), Cache(KEEPING)
    one, two = Asleep(), Asleep()
    cache.put(A, one)
    clock.move(1)
    cache.put(B, two)
    until = clock.now_s - 1 + DEFAULTS.kept_s
    for now, closed in ((until - 0.001, []), (until, [one]), (until + 0.999, [one]), (until + 1, [one, two])):
        cache.kept.drop_old(now)
        assert cache.closed == closed


def test_those_of_a_partition_that_is_left_are_closed(cache: Cache) -> None:
    asleep = [Asleep(), Asleep(), Asleep()]
    for id, one in zip((A, B, C), asleep, strict=True):
        cache.put(id, one)
    cache.kept.drop_where(lambda one: one in (A, C))
    assert cache.closed == [asleep[0], asleep[2]]
    assert B in cache.kept


def test_all_of_them_are_closed(cache: Cache) -> None:
    asleep = [Asleep(), Asleep()]
    for id, one in zip((A, B), asleep, strict=True):
        cache.put(id, one)
    cache.kept.drop_all()
    assert cache.closed == asleep
    assert A not in cache.kept
