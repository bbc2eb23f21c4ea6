"""How a namespace does at this moment, in plain numbers, with no I/O: for gauges, dashboards and people.

One script reads each partition, so that an overview costs about as many commands as there are partitions, however much
they hold. Workers name their groups. Groups and queues without a worker are found among all keys: some pages of them at
each look, so that a client that looks again and again pays little (see ``Finder``).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from durasleep.errors import DurasleepError
from durasleep.model import PRIORITIES, group_of, priority_of, worker_of
from durasleep.protocol import groups as pauses
from durasleep.protocol import overview, server
from durasleep.protocol.command import Plan, to_text
from durasleep.protocol.keys import LIMIT, Keyspace
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.protocol.overview import BeatingWorker, RawOverview, RawQueue
from durasleep.protocol.slots import Location
from durasleep.query import search

_GONE_MS = 10_000  # without a heartbeat for so long, a worker is dead
_SCAN_COUNT = 5_000  # keys in one step of a scan: one to four milliseconds of Redis
_FIRST_STEPS = 200  # of the first look: a million keys
_STEPS = 2  # of each further look: some milliseconds of Redis
_AGAIN_MS = 30_000  # after the end of a round; then the next one begins
_NAMES_MAX = 1_000  # groups and queues without a worker


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """A worker that is alive, and what it does."""

    name: str
    """Its name."""
    group: str
    """The group that it serves."""
    process: str
    """Host and process id, as ``host:pid``."""
    running: int
    """Executions that it holds now; sleepers are no load."""
    slots: int | None
    """How many it runs at a time; None if it does not say: it is of an earlier version, or it speaks
    HTTP and asks for one after the other."""
    beat_ms: int
    """Its last heartbeat, in ms since 1970."""
    partitions: list[int]
    """The partitions that it serves."""
    lost_threads: int
    """Threads that run a function nobody waits for any more."""
    is_leaving: bool
    """Whether it takes no more executions, because it was told to stop."""
    knows_pause: bool
    """Whether it follows the pause of its group: one of an earlier version does not."""
    blocked_s: float = 0.0
    """For how long its event loop has been blocked, if for two seconds or more: meanwhile it runs nothing."""


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """What waits for a group with one priority, or runs."""

    priority: int
    """From 1, which comes first, to 5."""
    queued: int = 0
    """Executions that wait for a worker."""
    running: int = 0
    """Executions that workers hold."""
    oldest_queued_s: float = 0.0
    """For how many seconds the first of those that wait does so; 0 if none waits."""


@dataclass(frozen=True, slots=True)
class GroupLoad:
    """A group: what waits for it, and who serves it."""

    name: str
    """Its name."""
    queued: int
    """Executions that wait for a worker."""
    running: int
    """Executions that workers hold."""
    oldest_queued_s: float
    """For how many seconds the one that has waited longest does so; 0 if none waits."""
    levels: list[QueueLoad]
    """The same by priority, from 1 to 5. What waits for one certain worker counts as priority 3."""
    queued_for_one: int
    """How many of the queued ones wait for one certain worker."""
    workers: list[WorkerLoad]
    """Its workers that are alive, by name."""
    slots: int
    """How many executions these run at a time together, as far as they say."""
    paused_since_ms: int | None
    """Since when it is paused, in ms since 1970; None if it is not."""
    paused_by: str | None
    """Who has paused it."""


@dataclass(frozen=True, slots=True)
class LimitLoad:
    """A limit, and what waits at its gate."""

    name: str
    """Its name."""
    in_use: int
    """Executions that hold a slot."""
    total: int | None
    """So many may hold one together; None for any number."""
    parked: int
    """Executions that wait."""
    keys: int
    """For how many keys some wait."""
    paused_since_ms: int | None
    """Since when it is paused, in ms since 1970; None if it is not."""


@dataclass(frozen=True, slots=True)
class PartitionLoad:
    """What one partition has."""

    number: int
    """From 0."""
    node: str
    """The node that serves it, as host and port; empty outside a cluster."""
    is_asked: bool
    """Whether it could be asked. If not, its numbers are 0: its slot is moving, or its node does not answer."""
    sleepers: int = 0
    """Timers and deadlines."""
    queued: int = 0
    """Executions that wait for a worker."""
    running: int = 0
    """Executions that workers hold."""
    parked: int = 0
    """Executions that wait at the gate of a limit."""
    halted: int = 0
    """Executions that wait for a person."""
    workers: int = 0
    """Workers that are alive and serve it."""
    next_due_ms: int | None = None
    """When its next timer or schedule is due, in ms since 1970; None if there is none."""
    overdue_s: float = 0.0
    """For how many seconds the most overdue timer or schedule is due; 0 if none is."""


@dataclass(frozen=True, slots=True)
class Overview:
    """How a namespace does at this moment."""

    at_ms: int
    """When, by the server's clock, in ms since 1970."""
    groups: list[GroupLoad]
    """Groups with workers or work, and those that are paused; by name."""
    limits: list[LimitLoad]
    """Limits, by name."""
    queued: int
    """Executions that wait for a worker, in all groups."""
    running: int
    """Executions that workers hold."""
    parked: int
    """Executions that wait at the gate of a limit."""
    sleepers: int
    """Timers and deadlines, and so nearly the number of sleeping executions."""
    due_soon: int
    """How many of them are due within 30 seconds, or overdue; of each partition at most 10,000 are counted."""
    schedules: int
    """How many schedules there are, also those that are paused."""
    next_due_ms: int | None
    """When the next timer or schedule is due, in ms since 1970; it may be overdue. None if there is none."""
    overdue_s: float
    """For how many seconds the most overdue timer or schedule is due; 0 if none is."""
    halted: int
    """Executions that wait for a person."""
    halted_since_ms: int | None
    """Since when the first of them does, in ms since 1970; None if there is none."""
    quarantined: int
    """Names that were quarantined because of broken data; those among the first 1,000 of each partition."""
    is_clock_held: bool
    """Whether workers hold back timers, because the server's clock jumped ahead; see ``release_clock``."""
    partitions: list[PartitionLoad]
    """Each partition, by number."""
    is_all: bool
    """Whether all partitions were asked, and all keys looked at for groups that have no worker. Soon after the start
    of a client with more than a million keys, they are not.
    """

    @property
    def workers(self) -> list[WorkerLoad]:
        """The workers of all groups, by group and name."""
        return [worker for group in self.groups for worker in group.workers]


class Finder:
    """Finds groups and queues that no worker names: among all keys, some pages at each look. A client has one."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._found: set[str] = set()
        self._nodes: list[Keyspace] | None = None
        self._cursor = b"0"
        self._ended_ms: int | None = None
        self._turn = threading.Lock()
        """Held by the look that goes on with the round: looks may come from several threads."""

    @property
    def is_all(self) -> bool:
        """Whether it has been round once."""
        return self._ended_ms is not None

    @property
    def names(self) -> list[str]:
        """Names of groups, and of queues that only one worker reads; groups first."""
        names = self._known | self._found
        return sorted(names, key=lambda name: ("/" in name, name))[:_NAMES_MAX]

    def advance(self, keyspaces: Keyspaces, now_ms: int) -> Plan[None]:
        """Go on with the round, or begin a new one if it is time."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            yield from self._go_on(keyspaces, now_ms)
        finally:
            self._turn.release()

    def _go_on(self, keyspaces: Keyspaces, now_ms: int) -> Plan[None]:
        steps = _STEPS if self.is_all else _FIRST_STEPS
        if self._nodes is None:
            if self._ended_ms is not None and abs(now_ms - self._ended_ms) < _AGAIN_MS:
                return
            self._nodes, self._cursor = [part[0] for part in keyspaces.by_node()], b"0"
        for _ in range(steps):
            if not self._nodes:
                break
            yield from self._read_page(keyspaces, self._nodes[0])
            if self._cursor == b"0":
                del self._nodes[0]
        if not self._nodes:
            self._known, self._found, self._nodes, self._ended_ms = self._found, set(), None, now_ms

    def _read_page(self, keyspaces: Keyspaces, at: Keyspace) -> Plan[None]:
        pattern = keyspaces.pattern("[gq][ru][oe]u[pe]:*")  # group: and queue:
        [page] = yield [server.scan(pattern, self._cursor, count=_SCAN_COUNT).at(at.slot)]
        if isinstance(page, DurasleepError):
            self._cursor = b"0"  # its node is silent now: the next round asks it again
            return
        self._cursor, keys = page
        for key in keys:
            if (ours := keyspaces.parse(key)) is not None:
                kind, _, name = to_text(ours[1]).partition(":")
                if kind in ("group", "queue"):
                    self._found.add(name.partition("!")[0])


def read(keyspaces: Keyspaces, where: Sequence[Location], finder: Finder) -> Plan[Overview]:
    """An overview; of the partitions that rest ``where`` they are."""
    resting = keyspaces.without({number for number, place in enumerate(where) if not place.rests})
    now_ms = yield from _now(resting)
    yield from finder.advance(resting, now_ms)
    calls = [overview.read_overview(keys, finder.names) for keys in resting]
    answers = (yield calls) if calls else []
    found = {
        keys.partition: answer
        for keys, answer in zip(resting, answers, strict=True)
        if not isinstance(answer, DurasleepError)
    }
    if answers and not found:
        raise answers[0]
    rows = [_partition(number, place, found.get(number)) for number, place in enumerate(where)]
    parts = list(found.values())
    first_halted = [at_ms for part in parts for _, at_ms in part.first_halted]
    groups, limits = _groups(found), _limits(parts)
    return Overview(
        at_ms=max((part.now_ms for part in parts), default=now_ms),
        groups=groups,
        limits=limits,
        queued=sum(group.queued for group in groups),
        running=sum(group.running for group in groups),
        parked=sum(limit.parked for limit in limits),
        sleepers=sum(row.sleepers for row in rows),
        due_soon=sum(part.due_soon for part in parts),
        schedules=sum(part.schedules for part in parts),
        next_due_ms=min((row.next_due_ms for row in rows if row.next_due_ms is not None), default=None),
        overdue_s=max((row.overdue_s for row in rows), default=0.0),
        halted=sum(row.halted for row in rows),
        halted_since_ms=min(first_halted, default=None) if any(row.halted for row in rows) else None,
        quarantined=sum(len(_quarantined(part)) for part in parts),
        is_clock_held=any(part.is_clock_held for part in parts),
        partitions=rows,
        is_all=finder.is_all and len(found) == len(where),
    )


def _now(keyspaces: Keyspaces) -> Plan[int]:
    """The clock of any of them; 0 if there is none."""
    for keys in keyspaces:
        return (yield from server.now_ms(keys))
    return 0


def _quarantined(part: RawOverview) -> list[str]:
    return [name for name in part.may_be_broken if search.is_quarantined(name)]


def _partition(number: int, place: Location, part: RawOverview | None) -> PartitionLoad:
    if part is None:
        return PartitionLoad(number, place.node, is_asked=False)
    dues = [due_ms for _, due_ms in (*part.next_timers, *part.next_schedules)]
    # What is sent between partitions stands among the timers: it may be late, but it is nothing that people wait for.
    items = [due_ms for member, due_ms in part.next_timers if not search.is_message(member)]
    items += [due_ms for _, due_ms in part.next_schedules]
    return PartitionLoad(
        number=number,
        node=place.node,
        is_asked=True,
        sleepers=part.timers,
        queued=sum(queue.length - queue.pending for queue in part.queues),
        running=sum(queue.pending for queue in part.queues),
        parked=sum(limit.parked for limit in part.limits),
        halted=part.halted - len(_quarantined(part)),
        workers=len(_alive(part)),
        next_due_ms=min(items, default=None),
        overdue_s=max(0, part.now_ms - min(dues)) / 1000 if dues else 0.0,
    )


def _alive(part: RawOverview) -> list[BeatingWorker]:
    """In both directions: the server's clock may have been set back."""
    return [
        worker
        for worker in part.workers
        if abs(part.now_ms - worker.beat_ms) <= max(_GONE_MS, LIMIT["beats_missed"] * worker.between_ms)
    ]


def _groups(parts: dict[int, RawOverview]) -> list[GroupLoad]:
    names = {worker.group for part in parts.values() for worker in _alive(part)}
    names |= {group_of(queue.name) for part in parts.values() for queue in part.queues}
    names |= {name for part in parts.values() for name, *_ in part.pauses}
    return [_group(name, parts) for name in sorted(names)]


def _group(name: str, parts: dict[int, RawOverview]) -> GroupLoad:
    queues = [(part, queue) for part in parts.values() for queue in part.queues if group_of(queue.name) == name]
    levels = [_level(priority, queues) for priority in PRIORITIES]
    workers = _workers(name, parts)
    paused = [(since_ms, by) for part in parts.values() for group, since_ms, by in part.pauses if group == name]
    since_ms, by = min(paused) if paused else (None, None)
    return GroupLoad(
        name=name,
        queued=sum(level.queued for level in levels),
        running=sum(level.running for level in levels),
        oldest_queued_s=max(level.oldest_queued_s for level in levels),
        levels=levels,
        queued_for_one=sum(queue.length - queue.pending for _, queue in queues if worker_of(queue.name)),
        workers=workers,
        slots=sum(worker.slots or 0 for worker in workers),
        paused_since_ms=since_ms,
        paused_by=by,
    )


def _level(priority: int, queues: Iterable[tuple[RawOverview, RawQueue]]) -> QueueLoad:
    ours = [(part, queue) for part, queue in queues if priority_of(queue.name) == priority]
    waits = [part.now_ms - queue.first_ms for part, queue in ours if queue.first_ms is not None]
    return QueueLoad(
        priority,
        queued=sum(queue.length - queue.pending for _, queue in ours),
        running=sum(queue.pending for _, queue in ours),
        oldest_queued_s=max(0, *waits) / 1000 if waits else 0.0,
    )


def _workers(group: str, parts: dict[int, RawOverview]) -> list[WorkerLoad]:
    """Two processes of one name are two workers; of those over HTTP only the name is known."""
    found: dict[str, WorkerLoad] = {}
    for consumer, number, worker, running in _seen(group, parts):
        name = consumer.partition("/")[0]
        known_as = name if worker.is_http else consumer
        before = found.get(known_as)
        if before is None:
            found[known_as] = WorkerLoad(
                name=name,
                group=group,
                process=worker.info,
                running=running,
                slots=worker.slots,
                beat_ms=worker.beat_ms,
                partitions=[number],
                lost_threads=worker.lost_threads,
                is_leaving=not (worker.functions or worker.is_http),
                knows_pause=pauses.PAUSE in worker.knows.split(),
                blocked_s=worker.blocked_ms / 1000,
            )
        else:
            found[known_as] = replace(
                before,
                running=before.running + running,
                beat_ms=max(before.beat_ms, worker.beat_ms),
                blocked_s=max(before.blocked_s, worker.blocked_ms / 1000),
                partitions=sorted({*before.partitions, number}),
                is_leaving=before.is_leaving and not worker.functions,  # it leaves one partition, and serves others
            )
    return sorted(found.values(), key=lambda worker: (worker.name, worker.process))


def _seen(group: str, parts: dict[int, RawOverview]) -> Iterator[tuple[str, int, BeatingWorker, int]]:
    """The living workers of a group in each partition, and how many executions each holds there."""
    for number, part in sorted(parts.items()):
        held: dict[str, int] = {}
        for queue in part.queues:
            for consumer, count in queue.held.items():
                held[consumer] = held.get(consumer, 0) + count
        for worker in _alive(part):
            if worker.group == group:
                yield worker.consumer, number, worker, held.get(worker.consumer, 0)


def _limits(parts: Iterable[RawOverview]) -> list[LimitLoad]:
    found: dict[str, LimitLoad] = {}
    for part in parts:
        for limit in part.limits:
            one = found.get(limit.name) or LimitLoad(limit.name, 0, None, 0, 0, None)
            paused = [at_ms for at_ms in (one.paused_since_ms, limit.paused_ms) if at_ms is not None]
            found[limit.name] = LimitLoad(
                name=limit.name,
                in_use=one.in_use + limit.in_use,
                total=one.total if limit.total is None else limit.total + (one.total or 0),
                parked=one.parked + limit.parked,
                keys=one.keys + limit.keys,
                paused_since_ms=min(paused, default=None),
            )
    return [found[name] for name in sorted(found)]
