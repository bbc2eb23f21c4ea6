"""What is in each partition of a namespace, with no I/O: a plan of bounded reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from durasleep.errors import DurasleepError
from durasleep.protocol import server, sorted_sets, streams
from durasleep.protocol.command import Plan, unwrap
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.keyspaces import Keyspaces
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
    queues: dict[str, int]
    """For each queue that is not empty, how many executions wait there for a worker, or run."""
    timers: int | None = None
    """How many timers and deadlines it has, and so nearly how many sleepers. None while its slot is moving, and the
    same holds for what follows.
    """
    halted: int | None = None
    """Executions that wait for a person, and quarantined names."""
    workers: list[str] | None = None
    """Names of the workers that have sent a heartbeat there lately."""


def summarize(keyspaces: Keyspaces, where: Sequence[tuple[str, str]]) -> Plan[list[PartitionSummary]]:
    """A summary of each partition, in their order; ``where`` has the node of each, and that to which it is moving.

    One that is moving is not asked: it would answer only when it has arrived.
    """
    resting = keyspaces.without({number for number, (_, moving_to) in enumerate(where) if moving_to})
    queues = yield from search.queues(resting, None, SearchPage())
    lengths = (yield [streams.count_entries(keys.queue(queue)) for keys, queue in queues]) if queues else []
    queued: list[dict[str, int]] = [{} for _ in where]
    for (keys, queue), length in zip(queues, lengths, strict=True):
        if not isinstance(length, DurasleepError) and length:
            queued[keys.partition][queue] = length
    found: list[PartitionSummary] = []
    for keys in keyspaces:
        node, moving_to = where[keys.partition]
        summary = PartitionSummary(keys.partition, keys.tag[1:-2], keys.slot, node, moving_to, queued[keys.partition])
        found.append(summary if moving_to else (yield from _counted(summary, keys)))
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
