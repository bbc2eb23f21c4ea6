"""How much work the clock will soon make for each group, with no I/O: plans of bounded reads.

A queue is empty while all its executions sleep, and stays so while no worker is there to fire their timers. Whoever
starts workers when there is work must therefore look at the timers, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from durasleep.errors import DurasleepError, StoreUnavailable
from durasleep.model import Kind, Place, PromiseId, group_of
from durasleep.protocol import journal, schedules, server, sorted_sets
from durasleep.protocol.command import Plan
from durasleep.protocol.journal import PromiseRecord
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.protocol.schedules import Schedule

SOON_MS = 30_000
LOOKED_MAX = 2_000  # timers whose executions are looked at, in all partitions together: a tenth of a second
LOOKED_MIN = 50  # of one partition
SCHEDULES_MAX = 100  # of one partition
_WAITING = (Place.SUSPENDED, Place.DELAYED)
_NO_WORK = ("timeout", "ask", "tell", "mail", "gate", "gates", "replaced", "cron")
"""The part after the ``~`` of timers that wake no execution; a schedule of an earlier version is in both sets."""


@dataclass(frozen=True, slots=True)
class DueSoon:
    """What is due within 30 seconds, or overdue."""

    groups: dict[str, int]
    """How many executions wake or begin then, by group; of those timers that were looked at."""
    looked_at: int
    """How many timers that is. If more are due, they are taken to be alike."""

    def of(self, group: str, due: int) -> int:
        """For a group, if so many timers are due in all; rounded up, and at least 1 if not all were looked at, so that
        little work is not overlooked.
        """
        count = self.groups.get(group, 0)
        return count if due <= self.looked_at else max(1, -(-count * due // max(self.looked_at, 1)))


def count(keyspaces: Keyspaces) -> Plan[DueSoon]:
    """The executions that are due soon. Partitions that do not answer are left out."""
    until = b"%d" % ((yield from _now(keyspaces)) + SOON_MS)
    each = max(LOOKED_MAX // max(len(keyspaces), 1), LOOKED_MIN)
    timers = yield from _names([(keys, keys.timers) for keys in keyspaces], until, each)
    scheduled = yield from _names([(keys, keys.schedules) for keys in keyspaces], until, SCHEDULES_MAX)
    waiting = list(dict.fromkeys([(keys, id) for keys, timer in timers if (id := _woken_by(timer)) is not None]))
    records = (yield [journal.read_record(keys, id, outline=True) for keys, id in waiting]) if waiting else []
    read = [schedules.read_schedule(keys, name) for keys, name in scheduled]
    starting = (yield read) if read else []
    groups = Counter(group_of(one.queue) for one in records if isinstance(one, PromiseRecord) and _waits(one))
    groups.update(group_of(one.queue) for one in starting if isinstance(one, Schedule) and one.paused_ms is None)
    return DueSoon(dict(groups), len(timers))


def _now(keyspaces: Keyspaces) -> Plan[int]:
    """The clock of any node: those of others may differ by less than it matters here. StoreUnavailable if none
    answers.
    """
    problem: DurasleepError = StoreUnavailable("no partition answers")
    for keys in keyspaces:
        try:
            return (yield from server.now_ms(keys))
        except DurasleepError as error:
            problem = error
    raise problem


def _names(sets: Sequence[tuple[Keyspace, str]], until: bytes, count: int) -> Plan[list[tuple[Keyspace, str]]]:
    """The members of some sorted sets that are due, at most ``count`` of each."""
    calls = [sorted_sets.list_members(name, until=until, count=count) for _, name in sets]
    answers = (yield calls) if calls else []
    return [
        (keys, member)
        for (keys, _), members in zip(sets, answers, strict=True)
        if not isinstance(members, DurasleepError)
        for member, _ in members
    ]


def _woken_by(timer: str) -> PromiseId | None:
    id, _, what = timer.rpartition("~")
    return PromiseId(id) if id and what not in _NO_WORK else None


def _waits(record: PromiseRecord) -> bool:
    """What is queued, or runs, is counted as that."""
    return record.kind is Kind.EXECUTION and record.place in _WAITING
