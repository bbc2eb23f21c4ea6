"""Settles due timers, and moves executions to the streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from durasleep.model import State
from durasleep.protocol import script
from durasleep.protocol.command import Command, key_list, pairs, state_of, to_text
from durasleep.protocol.foreign import Question, Tell, parse_question, parse_tell
from durasleep.protocol.keys import Keyspace

SCHEDULES_MAX = 256  # that one firing answers, beside the timers: a third of a millisecond


@dataclass(frozen=True, slots=True)
class Fired:
    """The result of ``fire``."""

    server_us: int
    due: int
    next_due_ms: int | None
    last_wake: bytes
    stale: int
    schedules: list[str]
    quarantined: list[str]
    closing: int
    newer: int
    """Due timers that only a newer version knows: they stay for that version."""
    asks: list[Question]
    """To be asked of other partitions."""
    tells: list[Tell]
    """To be told to other partitions."""
    has_more_schedules: bool
    """Whether more schedules may be due than were asked for."""
    oldest_due_ms: float | None = None
    """When the oldest of the timers that were settled was due; None if there was none."""
    ended: list[tuple[str, State, int]] = field(default_factory=list[tuple[str, State, int]])
    """How many executions these timers have ended: function, state and count."""


def sum_of(many: Sequence[Fired]) -> Fired:
    """What was fired in several partitions: the sums of what is counted, and the earliest next due time."""
    return replace(
        many[0],
        due=sum([one.due for one in many]),
        next_due_ms=min([one.next_due_ms for one in many if one.next_due_ms is not None], default=None),
        stale=sum([one.stale for one in many]),
        schedules=[name for one in many for name in one.schedules],
        quarantined=[name for one in many for name in one.quarantined],
        closing=sum([one.closing for one in many]),
        newer=sum([one.newer for one in many]),
        has_more_schedules=any(one.has_more_schedules for one in many),
        oldest_due_ms=min([one.oldest_due_ms for one in many if one.oldest_due_ms is not None], default=None),
        ended=[ending for one in many for ending in one.ended],
    )


def _parse_fired(answer: list[Any]) -> Fired:
    seconds, micros, due, next_due, last_wake, stale, crons, quarantined, closing, newer, asks, tells, *rest = answer
    has_more, oldest, ended = rest
    return Fired(
        server_us=int(seconds) * 1_000_000 + int(micros),
        due=int(due),
        next_due_ms=int(next_due) if next_due else None,
        last_wake=last_wake,
        stale=int(stale),
        schedules=[to_text(name) for name in crons],
        quarantined=[to_text(name) for name in quarantined],
        closing=int(closing),
        newer=int(newer),
        asks=[parse_question(ask) for ask in asks],
        tells=[parse_tell(tell) for tell in tells],
        has_more_schedules=bool(has_more),
        oldest_due_ms=float(oldest) if oldest else None,
        ended=[_parse_ended(field, count) for field, count in pairs(ended)],
    )


def _parse_ended(name: bytes, count: int) -> tuple[str, State, int]:
    function, _, state = name.rpartition(b"\t")
    return to_text(function), state_of(state), int(count)


def fire(
    keys: Keyspace,
    *,
    limit: int,
    latest_ms: int | None = None,
    resend_ms: int = 1000,
    schedules_max: int = SCHEDULES_MAX,
) -> Command[Fired]:
    """Settle at most ``limit`` timers that are due; none if the server's clock shows more than ``latest_ms``.

    At most ``schedules_max`` due schedules are answered; older versions keep theirs among the timers. What is to be
    asked of other partitions, or told to them, is due again after ``resend_ms``.
    """
    lua = script.load("fire", keys.movable_clock)
    shared = lua.shared_args(
        limit=str(limit),
        latest="" if latest_ms is None else str(latest_ms),
        resend_ms=str(resend_ms),
        schedules_max=str(schedules_max),
    )
    return Command(script.evalsha(lua, key_list(keys), shared), _parse_fired, lua)
