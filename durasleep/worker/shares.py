"""Which partitions a worker serves: each member of its group computes it by itself; there is no election, and no I/O.

The idea is rendezvous hashing. Each pair of a worker and a partition has a number that everybody computes alike, and
the pairs with the lowest numbers are taken. Two limits balance it: so many partitions for each worker, and so many
workers for each partition. If a worker comes or goes, most pairs stay as they are.

Two workers may see the members differently for some seconds. So a share only says what a worker wants to serve; it
leaves a partition when it has seen another worker there that stays, see ``Servings``.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

from durasleep.protocol.partitions import PARTITIONS_MAX

MUSTER_S = 1.0  # between two musters of a worker
LIVE_S = 3.0  # a member whose muster is older is not live
GAP_S = 1.5  # after a longer time between two musters of our own, nobody is judged by what we have missed
GONE_S = 60.0  # a member whose muster is older is struck
CALM_MAX = (
    100  # members; with more, there is as much more time between their musters, so that the server has no more work
)
STRUCK_MAX = 100  # members in one muster
WORKERS_MIN = 2  # of each partition, if the group has so many
EVEN_PART_MIN = 0.8  # of the mean number of workers: a partition with fewer gets some beyond the size of their shares
_CACHED_MAX = 1024  # workers whose numbers are remembered; a kilobyte each


def size_of(workers: int, partitions: int, workers_min: int) -> int:
    """How many partitions each of so many workers serves, so that each partition has about ``workers_min`` of them.

    Up to ``workers_min`` workers serve everything: the children of one workflow are in one partition, and must not be
    left to a few of them.
    """
    return min(partitions, max(1, math.ceil(workers_min * partitions / workers)))


def shares_of(workers: Collection[str], partitions: int, size: int) -> dict[str, frozenset[int]]:
    """The partitions that each worker serves, if each serves ``size`` of them."""
    names = sorted(workers)
    if size == partitions:
        return dict.fromkeys(names, frozenset(range(partitions)))
    # One integer for each pair, its number first: a list of tuples takes three times as long to sort.
    order = sorted(
        (number * len(names) + index) * partitions + partition
        for index, name in enumerate(names)
        for partition, number in enumerate(_numbers(name)[:partitions])
    )
    pairs = [(pair // partitions % len(names), pair % partitions) for pair in order]
    taken: list[list[int]] = [[] for _ in names]
    counts = [0] * partitions
    even = len(names) * size / partitions
    for limit in (math.floor(even), math.ceil(even)):
        left: list[tuple[int, int]] = []
        for index, partition in pairs:
            if len(taken[index]) < size and counts[partition] < limit:
                taken[index].append(partition)
                counts[partition] += 1
            else:
                left.append((index, partition))
        pairs = left
    least = max(WORKERS_MIN, math.ceil(EVEN_PART_MIN * even))
    for index, partition in pairs:
        if counts[partition] < least:
            taken[index].append(partition)
            counts[partition] += 1
    return dict(zip(names, map(frozenset, taken), strict=True))


@lru_cache(maxsize=_CACHED_MAX)
def _numbers(worker: str) -> tuple[int, ...]:
    """The number of a worker with each partition that there may be."""
    return struct.unpack(f">{PARTITIONS_MAX}I", hashlib.shake_128(worker.encode()).digest(4 * PARTITIONS_MAX))


@dataclass(slots=True)
class _Seen:
    score: int
    since: float
    """When we first saw this score, by our own clock."""


class Share:
    """The share of one worker, by what it has seen of the members of its group."""

    def __init__(self, worker: str, partitions: int, *, workers_min: int, shrink_s: float) -> None:
        self._worker = worker
        self._partitions = partitions
        self._workers_min = workers_min
        self._shrink_s = shrink_s
        self._seen: dict[str, _Seen] = {}
        self._last_at = -math.inf
        self._slowness = 1.0
        self._size = 0
        self._smaller = 0
        """The largest size below ``_size`` that was computed since ``_smaller_since``; 0 if none was."""
        self._smaller_since = 0.0
        self._computed_for: tuple[set[str], int] = set(), 0
        self._share = frozenset[int]()

    @property
    def muster_s(self) -> float:
        """The time until the next muster."""
        return MUSTER_S * self._slowness

    def gone(self) -> dict[str, int]:
        """Members that have not mustered for long, and their scores, to be struck."""
        since = self._last_at - max(GONE_S, 2 * LIVE_S * self._slowness)
        gone = [(name, seen.score) for name, seen in self._seen.items() if seen.since <= since]
        return dict(gone[:STRUCK_MAX])

    def note(self, scores: Mapping[str, int], at: float) -> frozenset[int]:
        """The share, after a muster that was answered at ``at``, by our own clock, with the members and their scores.

        A score is the time of a muster by the server's clock. That clock may jump, so it counts only whether a score
        has changed; and for the first answer, how far it is behind our own.
        """
        is_first, last_at, self._last_at = not self._seen, self._last_at, at
        was_away = at - last_at > GAP_S * self._slowness
        live = self._live(last_at)
        self._slowness = max(1.0, len(scores) / CALM_MAX)
        live_s = LIVE_S * self._slowness
        own = scores.get(self._worker, 0)
        for name, score in scores.items():
            seen = self._seen.get(name)
            if seen is None or seen.score != score:
                is_old = is_first and own - score >= 1000 * live_s
                self._seen[name] = _Seen(score, at - live_s if is_old else at)
            elif was_away and name in live:
                seen.since = at
        for name in self._seen.keys() - scores.keys():
            del self._seen[name]
        live = self._live(at)
        size = self._settle(len(live), at)
        if (live, size) != self._computed_for:
            self._computed_for = live, size
            self._share = shares_of(live, self._partitions, size)[self._worker]
        return self._share

    def _live(self, at: float) -> set[str]:
        """The members that are live; we are."""
        since = at - LIVE_S * self._slowness
        return {self._worker, *[name for name, seen in self._seen.items() if seen.since > since]}

    def _settle(self, workers: int, at: float) -> int:
        """The size that counts. A larger one counts at once, a smaller one when it has lasted: during a deployment,
        workers come and go.
        """
        size = size_of(workers, self._partitions, self._workers_min)
        if size >= self._size:
            self._size, self._smaller = size, 0
            return size
        if not self._smaller:
            self._smaller_since = at
        self._smaller = max(self._smaller, size)
        if at - self._smaller_since >= self._shrink_s:
            self._size, self._smaller = self._smaller, 0
        return self._size
