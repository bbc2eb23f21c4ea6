"""What is in each partition of a namespace, with no I/O: a plan of bounded reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from durasleep.errors import DurasleepError
from durasleep.protocol import server, sorted_sets, streams
from durasleep.protocol.command import Plan, unwrap
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.protocol.slots import Location
from durasleep.query import search
from durasleep.query.search import SearchPage

_WORKERS_MAX = 1_000  # shown of a partition
_GONE_MS = 10_000  # without a heartbeat for so long, a worker is dead


@dataclass(frozen=True, slots=True)
class PartitionSummary:
    """What one partition has."""

    number: int
    """From 0."""
    tag: str
    """The hash tag of its keys."""
    slot: int
    """The hash slot of that tag, which decides its node in a Redis Cluster."""
    node: str
    """The node that serves it, as host and port; empty outside a cluster."""
    moving_to: str
    """The node to which its slot is moving now, so that its calls wait; else empty."""
    answers: bool
    """Whether its node answers; without one, its executions wait until the node is back, or a replica takes over."""
    queues: dict[str, int] | None = None
    """For each queue that is not empty, how many executions wait there for a worker, or run. None while its slot is
    moving or its node does not answer, and the same holds for what follows.
    """
    timers: int | None = None
    """How many timers and deadlines it has, and so nearly how many sleepers."""
    halted: int | None = None
    """Executions that wait for a person, and quarantined names."""
    workers: list[str] | None = None
    """Names of the workers that have sent a heartbeat there lately."""


def summarize(keyspaces: Keyspaces, where: Sequence[Location]) -> Plan[list[PartitionSummary]]:
    """A summary of each partition, in their order. Those that do not rest ``where`` they are, are not asked."""
    resting = keyspaces.without({number for number, place in enumerate(where) if not place.rests})
    queues = yield from search.queues(resting, None, SearchPage())
    lengths = (yield [streams.count_entries(keys.queue(queue)) for keys, queue in queues]) if queues else []
    queued: list[dict[str, int]] = [{} for _ in where]
    for (keys, queue), length in zip(queues, lengths, strict=True):
        if not isinstance(length, DurasleepError) and length:
            queued[keys.partition][queue] = length
    found: list[PartitionSummary] = []
    for keys in keyspaces:
        place = where[keys.partition]
        summary = PartitionSummary(
            keys.partition,
            keys.tag[1:-2],
            keys.slot,
            place.node,
            place.moving_to,
            place.answers,
        )
        if place.rests:
            summary = replace((yield from _counted(summary, keys)), queues=queued[keys.partition])
        found.append(summary)
    return found


def _counted(summary: PartitionSummary, keys: Keyspace) -> Plan[PartitionSummary]:
    now_ms = yield from server.now_ms(keys)
    timers, halted, beats = yield [
        sorted_sets.count_members(keys.timers),
        sorted_sets.count_members(keys.halted),
        sorted_sets.list_members(keys.workers, count=_WORKERS_MAX),
    ]
    alive = {name.partition("/")[0] for name, at_ms in unwrap(beats) if now_ms - at_ms <= _GONE_MS}
    return replace(summary, timers=unwrap(timers), halted=unwrap(halted), workers=sorted(alive))
