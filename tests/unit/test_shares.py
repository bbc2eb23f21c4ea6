"""The shares of the partitions: none is left alone, all are even, and little changes when a worker comes or goes."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durasleep.protocol.partitions import PARTITIONS_MAX
from durasleep.settings import DEFAULTS
from durasleep.worker.shares import (
    CALM_MAX,
    GAP_S,
    GONE_S,
    LIVE_S,
    MUSTER_S,
    STRUCK_MAX,
    WORKERS_MIN,
    Share,
    shares_of,
    size_of,
)

K = DEFAULTS.partition_workers_min

partition_counts = st.integers(1, PARTITIONS_MAX)
names = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=20)


def groups(least: int, most: int) -> st.SearchStrategy[set[str]]:
    return st.sets(names, min_size=least, max_size=most)


def members(count: int, life: int) -> list[str]:
    return [f"worker-{number}/{life}" for number in range(count)]


def workers_of(shares: dict[str, frozenset[int]]) -> Counter[int]:
    """How many workers each partition has."""
    return Counter(partition for share in shares.values() for partition in share)


# -- who serves what


@given(groups(1, 40), partition_counts, st.integers(1, 20))
def test_each_partition_is_served_and_each_worker_serves(workers: set[str], partitions: int, workers_min: int) -> None:
    size = size_of(len(workers), partitions, workers_min)
    shares = shares_of(workers, partitions, size)
    assert shares.keys() == workers
    counts = workers_of(shares)
    assert counts.keys() == set(range(partitions))
    assert min(counts.values()) >= min(WORKERS_MIN, len(workers))
    assert all(shares.values())
    assert max(counts.values()) <= max(WORKERS_MIN, math.ceil(len(workers) * size / partitions))


@given(groups(1, K), partition_counts)
def test_few_workers_serve_everything(workers: set[str], partitions: int) -> None:
    shares = shares_of(workers, partitions, size_of(len(workers), partitions, K))
    assert set(shares.values()) == {frozenset(range(partitions))}


@pytest.mark.long
@given(st.integers(K + 1, 256), st.integers(0, 1000))
def test_with_many_workers_each_partition_has_nearly_as_many_as_the_settings_say(count: int, life: int) -> None:
    shares = shares_of(members(count, life), PARTITIONS_MAX, size_of(count, PARTITIONS_MAX, K))
    assert set(workers_of(shares).values()) <= set(range(13, 20))


def test_where_the_numbers_leave_a_partition_to_few_others_help() -> None:
    shares = shares_of(members(22, 24), PARTITIONS_MAX, size_of(22, PARTITIONS_MAX, K))
    assert set(workers_of(shares).values()) <= set(range(13, 20))
    assert max(map(len, shares.values())) > size_of(22, PARTITIONS_MAX, K)


@given(groups(2, 40), partition_counts, st.integers(1, 20))
def test_all_compute_the_same_in_whatever_order_they_hear_of_one_another(
    workers: set[str], partitions: int, workers_min: int
) -> None:
    size = size_of(len(workers), partitions, workers_min)
    assert shares_of(sorted(workers), partitions, size) == shares_of(sorted(workers, reverse=True), partitions, size)


@pytest.mark.parametrize(("count", "partitions"), [(20, 16), (40, 16), (40, 64), (100, 256)])
def test_little_changes_when_a_worker_goes(count: int, partitions: int) -> None:
    """Of what all others serve, an eighth at most, in the mean."""
    size = size_of(count, partitions, K)
    moved = 0
    for life in range(10):
        workers = members(count, life)
        before, after = (shares_of(some, partitions, size) for some in (workers, workers[:-1]))
        moved += sum(len(before[worker] ^ after[worker]) for worker in workers[:-1])
    assert moved / 10 <= count * size / 8


# -- who is live


class Clocked:
    """The share of ``me``, which musters when it is told to; the times of the others are those of the server."""

    def __init__(self, partitions: int = 8, *, workers_min: int = 1, shrink_s: float = 0.0) -> None:
        self.share = Share("me", partitions, workers_min=workers_min, shrink_s=shrink_s)
        self.partitions = partitions
        self.workers_min = workers_min
        self.at = 1000.0
        self.scores: dict[str, int] = {}

    def muster(self, *alive: str, after_s: float = MUSTER_S) -> frozenset[int]:
        self.at += after_s
        self.scores |= dict.fromkeys((*alive, "me"), round(self.at * 1000))
        return self.share.note(self.scores, self.at)

    def of(self, *live: str) -> frozenset[int]:
        """The share among these and me."""
        workers = {*live, "me"}
        return shares_of(workers, self.partitions, size_of(len(workers), self.partitions, self.workers_min))["me"]


def test_whose_muster_does_not_change_is_not_live() -> None:
    me = Clocked()
    assert me.muster("a", "b") == me.of("a", "b")
    for _ in range(round(LIVE_S / MUSTER_S) - 1):
        assert me.muster("a") == me.of("a", "b")
    assert me.muster("a") == me.of("a")
    assert me.muster("a", "b") == me.of("a", "b")


def test_who_begins_does_not_count_those_that_are_gone() -> None:
    me = Clocked()
    me.scores["gone"] = round(1000 * (me.at + MUSTER_S - LIVE_S))
    assert me.muster("a") == me.of("a")
    assert me.muster("a") == me.of("a")
    assert me.muster("a", "gone") == me.of("a", "gone")


def test_who_was_away_judges_nobody_by_it() -> None:
    me = Clocked()
    me.muster("a", "b", "c")
    me.muster("a", "b")
    me.muster("a", "b")
    assert me.muster("a", "b") == me.of("a", "b"), "c is not live"
    away_s = GAP_S * MUSTER_S + 100
    assert me.muster("a", after_s=away_s) == me.of("a", "b")
    assert me.muster("a") == me.of("a", "b")
    assert me.muster("a") == me.of("a", "b")
    assert me.muster("a") == me.of("a")


def test_a_clock_that_is_set_back_is_a_sign_of_life() -> None:
    me = Clocked()
    me.muster("a")
    for turn in range(10):
        me.scores["a"] = 5000 - turn
        assert me.muster() == me.of("a")


def test_who_is_gone_for_long_is_struck() -> None:
    me = Clocked()
    me.muster("a", "gone")
    score = me.scores["gone"]
    while me.at < 1000 + MUSTER_S + GONE_S:
        assert me.share.gone() == {}
        me.muster("a")
    assert me.share.gone() == {"gone": score}
    del me.scores["gone"]
    me.muster("a")
    assert me.share.gone() == {}


def test_not_too_many_are_struck_at_once() -> None:
    me = Clocked()
    me.scores = {f"gone-{number}": 0 for number in range(STRUCK_MAX + 1)}
    me.muster()
    me.muster(after_s=GONE_S)
    assert len(me.share.gone()) == STRUCK_MAX


def test_in_a_large_group_everything_takes_longer() -> None:
    me = Clocked()
    others = [f"other-{number}" for number in range(3 * CALM_MAX - 1)]
    assert me.share.muster_s == MUSTER_S
    me.muster(*others)
    assert me.share.muster_s == 3 * MUSTER_S
    for _ in range(2):
        assert me.muster(*others[1:], after_s=3 * MUSTER_S) == me.of(*others)
    assert me.muster(*others[1:], after_s=3 * MUSTER_S) == me.of(*others[1:])


# -- how much each serves


def test_a_smaller_share_waits_and_a_larger_one_does_not() -> None:
    me = Clocked(partitions=8, shrink_s=30.0)
    assert len(me.muster()) == 8
    others = ["a", "b", "c"]
    for _ in range(30):
        assert len(me.muster(*others)) == 8
    share = me.muster(*others)
    assert share == me.of(*others)
    assert len(share) < 8
    for _ in range(round(LIVE_S / MUSTER_S)):
        share = me.muster()
    assert len(share) == 8


def test_of_the_smaller_sizes_meanwhile_the_largest_counts() -> None:
    me = Clocked(partitions=8, shrink_s=10.0)
    me.muster()
    me.muster("a", "b")
    assert me.share._size == 8  # pyright: ignore[reportPrivateUsage]
    for _ in range(9):
        me.muster("a", "b", "c", "d", "e", "f", "g")
    assert me.share._size == 8  # pyright: ignore[reportPrivateUsage]
    me.muster("a", "b", "c", "d", "e", "f", "g")
    assert me.share._size == 3  # pyright: ignore[reportPrivateUsage]
