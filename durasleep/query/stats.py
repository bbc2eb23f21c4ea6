"""How many executions have ended, minute by minute, with no I/O. The scripts count them as they end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from durasleep.errors import DurasleepError, UsageError
from durasleep.model import Duration, State, duration_ms
from durasleep.protocol import overview, server
from durasleep.protocol.command import Plan
from durasleep.protocol.keys import STATE
from durasleep.protocol.keyspaces import Keyspaces

MINUTE_MS = 60_000
KEPT_MINUTES = 26 * 60
OTHER = "(other)"
"""The name under which functions are counted together that had no room in their minute. Each has 256 counters: one for
each way in which a function has ended, and one for its time.
"""
_TOGETHER = 60  # minutes read by one script: at most some thirty thousand values
_OPEN_MS = 120_000  # the counters of an earlier minute do not change any more: the clocks of nodes may differ a little
_VALID_MS = 60_000  # what was read of it is read again after this: somebody may have restored a backup

_STATE_OF = {code: state.value for state, code in STATE.items()}


@dataclass(frozen=True, slots=True)
class FunctionStats:
    """How the executions of one function have ended."""

    name: str
    """The function; ``(other)`` for all that had no room in their minute, see ``OTHER``."""
    resolved: int = 0
    """How many returned a value."""
    rejected: int = 0
    """How many raised an error."""
    timedout: int = 0
    """How many had reached their deadline."""
    canceled: int = 0
    """How many were canceled."""
    ms: int = 0
    """How long all of them together took, from their creation to their end, in ms; sleeps count."""

    @property
    def ended(self) -> int:
        """How many have ended, in any way."""
        return self.resolved + self.rejected + self.timedout + self.canceled

    @property
    def failed(self) -> int:
        """How many were rejected or timed out."""
        return self.rejected + self.timedout

    @property
    def mean_ms(self) -> float:
        """How long one took on average, in ms; 0 if none has ended."""
        return self.ms / self.ended if self.ended else 0.0


@dataclass(frozen=True, slots=True)
class MinuteStats:
    """One minute."""

    at_ms: int
    """When it began, by the server's clock, in ms since 1970."""
    resolved: int
    """How many executions returned a value."""
    rejected: int
    """How many raised an error."""
    timedout: int
    """How many had reached their deadline."""
    canceled: int
    """How many were canceled."""
    functions: list[FunctionStats]
    """The same by function; by name."""

    @property
    def ended(self) -> int:
        """How many have ended, in any way."""
        return self.resolved + self.rejected + self.timedout + self.canceled

    @property
    def failed(self) -> int:
        """How many were rejected or timed out."""
        return self.rejected + self.timedout


@dataclass(frozen=True, slots=True)
class Stats:
    """How executions have ended in some time: roots and children alike."""

    at_ms: int
    """Now, by the server's clock, in ms since 1970: the last minute is not over."""
    minutes: list[MinuteStats]
    """Each minute, also those in which nothing has ended; the earliest first."""
    functions: list[FunctionStats]
    """All of these minutes together, by function; the one with most endings first."""
    total: FunctionStats
    """All functions together; its name is empty."""
    is_all: bool
    """Whether all partitions were asked: not those that are moving to another node, or whose node does not answer."""


class Minutes:
    """Minutes that were read before, so that a client that asks again and again reads only the last ones."""

    def __init__(self) -> None:
        self._read: dict[int, tuple[int, MinuteStats]] = {}

    def get(self, minute: int, now_ms: int) -> MinuteStats | None:
        """What was read of a minute, if that is still valid."""
        read_ms, found = self._read.get(minute, (0, None))
        return found if 0 <= now_ms - read_ms < _VALID_MS else None

    def keep(self, minute: int, now_ms: int, found: MinuteStats) -> None:
        """Keep a minute that is over."""
        if now_ms - minute * MINUTE_MS < _OPEN_MS:
            return
        while len(self._read) >= KEPT_MINUTES:
            self._read.pop(next(iter(self._read)), None)
        self._read.pop(minute, None)
        self._read[minute] = (now_ms, found)


def read(keyspaces: Keyspaces, since: Duration | datetime, known: Minutes, *, is_whole: bool) -> Plan[Stats]:
    """The counters since an instant, of all partitions together; ``is_whole`` if these are all that there are."""
    now_ms = 0
    for keys in keyspaces:
        now_ms = yield from server.now_ms(keys)
        break
    last = now_ms // MINUTE_MS
    first = max(_since_ms(since, now_ms) // MINUTE_MS, last - KEPT_MINUTES + 1)
    found = {minute: known.get(minute, now_ms) for minute in range(first, last + 1)}
    for part in _runs([minute for minute, one in found.items() if one is None]):
        calls = [overview.read_minutes(keys, part[0], part[-1]) for keys in keyspaces]
        answers = (yield calls) if calls else []
        counters = [answer for answer in answers if not isinstance(answer, DurasleepError)]
        is_whole = is_whole and len(counters) == len(answers)
        for minute in part:
            one = found[minute] = _minute(minute, [counter.get(minute, {}) for counter in counters])
            if is_whole:
                known.keep(minute, now_ms, one)
    minutes = [one for one in found.values() if one is not None]
    functions = sum_of(function for minute in minutes for function in minute.functions)
    functions.sort(key=lambda one: (-one.ended, one.name))
    return Stats(now_ms, minutes, functions, _added("", functions), is_whole)


def _runs(minutes: Sequence[int]) -> list[list[int]]:
    """Minutes without gaps, so many as are read together."""
    runs: list[list[int]] = []
    for minute in minutes:
        if runs and runs[-1][-1] == minute - 1 and len(runs[-1]) < _TOGETHER:
            runs[-1].append(minute)
        else:
            runs.append([minute])
    return runs


def _since_ms(since: Duration | datetime, now_ms: int) -> int:
    if isinstance(since, datetime):
        if since.utcoffset() is None:
            raise UsageError(f"since {since.isoformat()}: the datetime has no time zone")
        return min(now_ms, max(0, round(since.timestamp() * 1000)))
    return max(0, now_ms - duration_ms(since, "since"))


def _minute(minute: int, counters: Iterable[dict[str, int]]) -> MinuteStats:
    counts: dict[str, dict[str, int]] = {}
    for of_partition in counters:
        for field, count in of_partition.items():
            function, _, what = field.rpartition("\t")
            name = _STATE_OF.get(what, what)
            if name in FIELDS:
                of_function = counts.setdefault(OTHER if function == "\tother" else function, {})
                of_function[name] = of_function.get(name, 0) + count
    functions = [FunctionStats(name, **counts[name]) for name in sorted(counts)]
    total = _added("", functions)
    return MinuteStats(
        at_ms=minute * MINUTE_MS,
        resolved=total.resolved,
        rejected=total.rejected,
        timedout=total.timedout,
        canceled=total.canceled,
        functions=functions,
    )


FIELDS = (State.RESOLVED.value, State.REJECTED.value, State.TIMEDOUT.value, State.CANCELED.value, "ms")
"""What is counted of each function."""


def sum_of(parts: Iterable[FunctionStats]) -> list[FunctionStats]:
    """The same by function, each once, by name."""
    found: dict[str, list[FunctionStats]] = {}
    for one in parts:
        found.setdefault(one.name, []).append(one)
    return [_added(name, found[name]) for name in sorted(found)]


def _added(name: str, parts: Sequence[FunctionStats]) -> FunctionStats:
    return FunctionStats(
        name,
        resolved=sum(one.resolved for one in parts),
        rejected=sum(one.rejected for one in parts),
        timedout=sum(one.timedout for one in parts),
        canceled=sum(one.canceled for one in parts),
        ms=sum(one.ms for one in parts),
    )
