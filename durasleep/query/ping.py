"""Whether a worker is alive, with no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from durasleep.errors import DurasleepError
from durasleep.protocol import membership, server, sorted_sets
from durasleep.protocol.command import Plan
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.keyspaces import Keyspaces

FRESH_S = 3.0  # as long as a worker is ready without an answer to its heartbeats
BEATS_MAX = 3  # but at least so many of its heartbeats


@dataclass(frozen=True, slots=True)
class LastHeartbeat:
    """The last heartbeat of a worker, in any partition."""

    age_s: float
    """How long ago that was, by the server's clock."""
    every_s: float
    """The time between two of its heartbeats."""

    @property
    def is_fresh(self) -> bool:
        """Whether the worker is alive, as far as heartbeats can show."""
        return self.age_s <= max(FRESH_S, BEATS_MAX * self.every_s)


def last_heartbeat(keyspaces: Keyspaces, name: str) -> Plan[LastHeartbeat | None]:
    """That of the worker with this name; None if there is none."""
    found: LastHeartbeat | None = None
    for keys in keyspaces:
        one = yield from _in_partition(keys, name)
        if one is not None and (found is None or one.age_s < found.age_s):
            found = one
        if found is not None and found.is_fresh:
            break
    return found


def _in_partition(keys: Keyspace, name: str) -> Plan[LastHeartbeat | None]:
    now_ms = yield from server.now_ms(keys)
    [members] = yield [sorted_sets.list_members(keys.workers)]
    if isinstance(members, DurasleepError):
        raise members
    ours = _youngest(members, f"{name}/")
    if ours is None:
        return None
    consumer, at_ms = ours
    [beat_ms] = yield [membership.read_beat_ms(keys, consumer)]
    every_ms = 1000 if isinstance(beat_ms, DurasleepError) or not beat_ms else beat_ms
    return LastHeartbeat(max(0, now_ms - at_ms) / 1000, every_ms / 1000)


def _youngest(members: Sequence[tuple[str, int]], prefix: str) -> tuple[str, int] | None:
    """A worker that was started anew may have left an older one of its name."""
    return max([one for one in members if one[0].startswith(prefix)], key=lambda one: one[1], default=None)
