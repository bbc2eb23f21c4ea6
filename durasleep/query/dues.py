"""How many timers, deadlines and schedules fall due in some spans of time, with no I/O: a plan of bounded reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from durasleep.protocol import sorted_sets
from durasleep.protocol.command import Call, Plan, unwrap
from durasleep.protocol.keyspaces import Keyspaces

COMMANDS_MAX = 2_000  # for one answer; with very many partitions the spans are longer instead


@dataclass(frozen=True, slots=True)
class DueSpan:
    """A span of time, and how much is due in it."""

    begin_ms: int
    """Its first instant, in ms since 1970."""
    end_ms: int
    """The first instant after it."""
    count: int
    """Timers, deadlines, delayed starts and schedules that are due in it."""


def spans_max(keyspaces: Keyspaces) -> int:
    """How many spans may be asked for at a time; at least 3."""
    return max(3, COMMANDS_MAX // (2 * max(1, len(keyspaces))))


def count(keyspaces: Keyspaces, edges: Sequence[int]) -> Plan[list[DueSpan]]:
    """The spans between these instants, in ms since 1970."""
    spans = list(pairwise(edges))
    counted = [key for keys in keyspaces for key in (keys.timers, keys.schedules)]
    calls: list[Call] = [
        sorted_sets.count_between(key, b"%d" % begin_ms, b"(%d" % end_ms)
        for begin_ms, end_ms in spans
        for key in counted
    ]
    answers = (yield calls) if calls else []
    each = len(calls) // max(1, len(spans))
    return [
        DueSpan(begin_ms, end_ms, sum([int(unwrap(answer)) for answer in answers[at * each : (at + 1) * each]]))
        for at, (begin_ms, end_ms) in enumerate(spans)
    ]
