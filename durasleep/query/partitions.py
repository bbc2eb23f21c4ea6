"""What is in each partition of a namespace, with no I/O: a plan of bounded reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from durasleep.errors import DurasleepError
from durasleep.protocol import server, sorted_sets, streams
from durasleep.protocol.command import Plan, unwrap
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.query import search
from durasleep.query.search import SearchPage

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
    timers: int
    """How many timers and deadlines it has, and so nearly how many sleepers."""
    queues: dict[str, int]
    """For each queue that is not empty, how many executions wait there for a worker, or run."""
    halted: int
    """Executions that wait for a person, and quarantined names."""
    workers: list[str]
    """Names of the workers that have sent a heartbeat there lately."""


def summarize(keyspaces: Keyspaces, where: Sequence[tuple[str, str]]) -> Plan[list[PartitionSummary]]:
    """A summary of each partition, in their order; ``where`` has the node of each, and that to which it is moving."""
    queues = yield from search.queues(keyspaces, None, SearchPage())
    lengths = (yield [streams.count_entries(keys.queue(queue)) for keys, queue in queues]) if queues else []
    queued: list[dict[str, int]] = [{} for _ in keyspaces]
    for (keys, queue), length in zip(queues, lengths, strict=True):
        if not isinstance(length, DurasleepError) and length:
            queued[keys.partition][queue] = length
    timers = yield [sorted_sets.count_members(keys.timers) for keys in keyspaces]
    halted = yield [sorted_sets.count_members(keys.halted) for keys in keyspaces]
    found: list[PartitionSummary] = []
    for keys, timer_count, halted_count in zip(keyspaces, timers, halted, strict=True):
        now_ms = yield from server.now_ms(keys)
        [beats] = yield [sorted_sets.list_members(keys.workers, count=1000)]
        alive = {name.partition("/")[0] for name, at_ms in unwrap(beats) if now_ms - at_ms <= _GONE_MS}
        found.append(
            PartitionSummary(
                keys.partition,
                keys.tag[1:-2],
                keys.slot,
                *where[keys.partition],
                unwrap(timer_count),
                queued[keys.partition],
                unwrap(halted_count),
                sorted(alive),
            )
        )
    return found
