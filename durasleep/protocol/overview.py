"""What one partition has, in numbers, by one script; and the counters of endings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from durasleep.protocol import script
from durasleep.protocol.command import Command, key_list, pairs, to_number, to_text
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.sorted_sets import Members

HALTED_MAX = 1_000  # names that are looked at for broken data
DUE_MAX = 10_000  # timers that are counted as due soon
WORKERS_MAX = 1_000  # the youngest heartbeats
DUE_SOON_MS = 30_000


class BeatingWorker(msgspec.Struct, frozen=True):
    """A worker, as it reported with its last heartbeat in a partition."""

    consumer: str
    beat_ms: int
    group: str
    info: str
    knows: str
    between_ms: int
    functions: str
    lost_threads: int
    slots: int | None
    blocked_ms: int
    is_http: bool
    """Whether this is a lease of a worker over HTTP, or such a worker that waits."""


class RawQueue(msgspec.Struct, frozen=True):
    """A queue with entries."""

    name: str
    length: int
    pending: int
    """So many of them are with workers."""
    first_ms: int | None
    """Since when the first of the others waits; None if there is none."""
    held: dict[str, int]
    """How many each consumer has."""


class RawLimit(msgspec.Struct, frozen=True):
    """A limit in one partition."""

    name: str
    total: int | None
    paused_ms: int | None
    in_use: int
    parked: int
    keys: int


class RawOverview(msgspec.Struct, frozen=True):
    """What one partition has."""

    now_ms: int
    workers: list[BeatingWorker]
    queues: list[RawQueue]
    pauses: list[tuple[str, int, str]]
    """Groups that are paused: since when, and by whom."""
    limits: list[RawLimit]
    timers: int
    due_soon: int
    next_timers: Members
    schedules: int
    next_schedules: Members
    halted: int
    first_halted: Members
    may_be_broken: list[str]
    """Names in the halted set, among the first, that may stand for broken data."""
    is_clock_held: bool


def read_overview(keys: Keyspace, names: Iterable[str]) -> Command[RawOverview]:
    """What a partition has. Groups and queues without a living worker are looked at if they are among these names."""
    lua = script.load("overview", keys.movable_clock)
    shared = lua.shared_args(
        workers_max=str(WORKERS_MAX), halted_max=str(HALTED_MAX), timers_max=str(DUE_MAX), soon_ms=str(DUE_SOON_MS)
    )
    return Command(script.evalsha(lua, key_list(keys), [*shared, *names]), _parse, lua)


def _parse(answer: list[Any]) -> RawOverview:
    now, workers, queues, pauses, limits, timers, soon, next_timers, count, next_schedules, *rest = answer
    halted, first_halted, broken, held = rest
    return RawOverview(
        now_ms=int(now),
        workers=[_worker(*row) for row in workers],
        queues=[_queue(*row) for row in queues],
        pauses=[(to_text(name), int(since), to_text(by)) for name, since, by in pauses if since.isdigit()],
        limits=[_limit(*row) for row in limits],
        timers=timers,
        due_soon=soon,
        next_timers=_members(next_timers),
        schedules=count,
        next_schedules=_members(next_schedules),
        halted=halted,
        first_halted=_members(first_halted),
        may_be_broken=[to_text(name) for name in broken],
        is_clock_held=held == b"1",
    )


def _members(flat: list[bytes]) -> Members:
    return [(to_text(name), int(float(score))) for name, score in pairs(flat)]


def _worker(name: bytes, beat: bytes, *fields: bytes) -> BeatingWorker:
    group, info, knows, between, functions, lost, slots, blocked, http = fields
    return BeatingWorker(
        consumer=to_text(name),
        beat_ms=int(beat),
        group=to_text(group),
        info=to_text(info),
        knows=to_text(knows),
        between_ms=to_number(between),
        functions=to_text(functions),
        lost_threads=to_number(lost),
        slots=int(slots) if slots else None,
        blocked_ms=to_number(blocked),
        is_http=http == b"1",
    )


def _queue(name: bytes, length: int, pending: int, first: bytes, held: list[bytes]) -> RawQueue:
    return RawQueue(
        name=to_text(name),
        length=length,
        pending=pending,
        first_ms=int(first.partition(b"-")[0]) if first else None,
        held={to_text(consumer): int(count) for consumer, count in pairs(held)},
    )


def _limit(name: bytes, total: bytes, paused: bytes, in_use: int, parked: bytes, keys: int) -> RawLimit:
    return RawLimit(
        name=to_text(name),
        total=int(total) if total else None,
        paused_ms=int(paused) if paused.isdigit() else None,
        in_use=in_use,
        parked=int(parked),
        keys=keys,
    )


def read_minutes(keys: Keyspace, first: int, last: int) -> Command[dict[int, dict[str, int]]]:
    """The counters of some minutes since 1970, by minute: function, a tab, and the code of a state or ``ms``."""
    lua = script.load("stats", keys.movable_clock)
    shared = lua.shared_args(first=str(first), last=str(last))

    def parse(answer: list[tuple[bytes, list[bytes]]]) -> dict[int, dict[str, int]]:
        return {
            int(minute): {to_text(name): int(value) for name, value in pairs(flat) if value.isdigit()}
            for minute, flat in answer
        }

    return Command(script.evalsha(lua, key_list(keys), shared), parse, lua)
