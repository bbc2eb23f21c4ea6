"""What in a namespace waits for a person, or for a worker that is not there; in words, with the command that mends it.

Each fact is one plan that answers what there is to say of it, and nothing if all is well. It reads a bounded number of
members; only the names of the queues are found by a scan.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from durasleep import telemetry
from durasleep.errors import DurasleepError
from durasleep.store import reads, search
from durasleep.store.commands import Command, pairs, to_text
from durasleep.store.doctor import Diagnosis, Level
from durasleep.store.keys import DEFAULT, Keyspace
from durasleep.store.reads import Plan, value_of
from durasleep.store.search import Found

LOOKED_MAX = 1_000  # members of one set: beyond it people need no better count
OVERDUE_MS = 10_000  # what is due is settled within a second, or within three where its firer has just died
GONE_MS = 10_000  # the work of a dead worker has been taken over by then

Fact = Callable[[Keyspace, int], Plan[list[Diagnosis]]]
"""What there is to say, given the server's time in ms."""


def look(keys: Keyspace) -> Plan[list[Diagnosis]]:
    """All facts, in the order in which they are to be mended; one that cannot be read is said so."""
    now_ms = yield from reads.now_ms(keys)
    found: list[Diagnosis] = []
    for fact in FACTS:
        try:
            found += yield from fact(keys, now_ms)
        except DurasleepError as error:
            found.append(Diagnosis(Level.WARNING, "work", f"not all can be seen: {error}"))
    return found or [Diagnosis(Level.GOOD, "work", "nothing waits for a person, or for a worker that is not there")]


def halted(keys: Keyspace, now_ms: int) -> Plan[list[Diagnosis]]:
    """Executions that go on when a person says so."""
    [total, rows] = yield [Command([b"ZCARD", keys.halted.encode()], int), _members(keys.halted)]
    names: list[tuple[str, int]] = value_of(rows)
    executions = [(name, at_ms) for name, at_ms in names if not search.is_aside(name)]
    count = value_of(total) - len(names) + len(executions)
    if not executions:
        return []
    oldest, at_ms = executions[0]
    since = f"the oldest is {oldest}, for {_duration(now_ms - at_ms)}"
    return [
        Diagnosis(
            Level.WARNING,
            "halted",
            f"{_count(count, 'execution is halted and waits', 'executions are halted and wait')} for a person; {since}",
            "durasleep ls --status halted says why; once that is mended: durasleep resume ID, or all of them: "
            "durasleep resume --status halted --yes",
        )
    ]


def put_aside(keys: Keyspace, _now_ms: int) -> Plan[list[Diagnosis]]:
    """Names of what could not be served."""
    [rows] = yield [_members(keys.halted)]
    count = sum(search.is_aside(name) for name, _ in value_of(rows))
    if not count:
        return []
    text = f"{_count(count, 'name was', 'names were')} put aside, for what has them is broken"
    return [Diagnosis(Level.WARNING, "broken data", text, "durasleep fsck says what is wrong with each")]


def unserved(keys: Keyspace, _now_ms: int) -> Plan[list[Diagnosis]]:
    """Queues with work and no living worker to do it."""
    found = Found()
    queues = (yield from search.queues(keys, None, found))[:LOOKED_MAX]
    lengths = (yield [Command([b"XLEN", keys.queue(queue).encode()], int) for queue in queues]) if queues else []
    waiting = {queue: length for queue, length in zip(queues, lengths, strict=True) if length and _is_known(length)}
    alive = yield from _alive(keys, {queue.partition("/")[0] for queue in waiting})
    said: list[Diagnosis] = []
    for queue, count in waiting.items():
        group, _, name = queue.partition("/")
        if any(not name or worker == name for worker in alive[group]):
            continue
        who = f"worker {name!r} of group {group!r}, which is not alive" if name else f"group {group!r}: no worker of it"
        text = f"{_count(count, 'execution waits', 'executions wait')} for {who}{'' if name else ' is alive'}"
        said.append(Diagnosis(Level.WARNING, "workers", text, _start(group, name)))
    if not found.is_all:
        said.append(Diagnosis(Level.WARNING, "workers", "there are too many keys to see whether all queues are served"))
    return said


def gone(keys: Keyspace, now_ms: int) -> Plan[list[Diagnosis]]:
    """Workers that have ended without a word and were not taken over."""
    [rows] = yield [_members(keys.workers)]
    beats: list[tuple[str, int]] = value_of(rows)
    old = [(name, at_ms) for name, at_ms in beats if now_ms - at_ms > GONE_MS]
    if not old:
        return []
    signs = yield [_is_there(keys, name) for name, _ in old]
    dead = [one for one, is_there in zip(old, signs, strict=True) if is_there == 0]
    if not dead:
        return []
    groups = yield from _groups_of(keys, {name for name, _ in dead})
    oldest, at_ms = dead[0]
    text = (
        f"{_count(len(dead), 'worker has', 'workers have')} ended without a word and nobody has taken over; the first "
        f"was {oldest.partition('/')[0]}, {_duration(now_ms - at_ms)} ago: timers may be late by a second"
    )
    start = ", ".join(_start(group) for group in groups) or _start(DEFAULT["queue"])
    return [Diagnosis(Level.WARNING, "workers", text, f"a worker of the same group takes over: {start}")]


def overdue(keys: Keyspace, now_ms: int) -> Plan[list[Diagnosis]]:
    """Schedules and timers whose time has passed."""
    until = b"%d" % (now_ms - OVERDUE_MS)
    [rows, beats] = yield [_members(keys.timers, until), _members(keys.workers)]
    due: list[tuple[str, int]] = [(name, due_ms) for name, due_ms in value_of(rows) if name]
    if not due:
        return []
    workers: list[tuple[str, int]] = value_of(beats)
    is_served = any(now_ms - at_ms <= GONE_MS for _, at_ms in workers)
    advice = "the log of a worker says why" if is_served else f"no worker is alive: {_start(DEFAULT['queue'])}"
    schedules = [(name.removesuffix("~cron"), due_ms) for name, due_ms in due if name.endswith("~cron")]
    others = [one for one in due if not one[0].endswith("~cron")]
    said: list[Diagnosis] = []
    for kind, late in (("schedule", schedules), ("timer", others)):
        if late:
            name, due_ms = late[0]
            least = "at least " if len(due) == LOOKED_MAX else ""
            count = _count(len(late), f"{kind} is", f"{kind}s are")
            text = f"{least}{count} overdue; the oldest, {name}, for {_duration(now_ms - due_ms)}"
            said.append(Diagnosis(Level.WARNING, f"{kind}s", text, advice))
    return said


FACTS: tuple[Fact, ...] = (halted, put_aside, unserved, gone, overdue)


# -- reading


def _members(key: str, until: bytes = b"+inf") -> Command[list[tuple[str, int]]]:
    """The first of a sorted set, lowest scores first, which are times in ms."""
    command = [b"ZRANGEBYSCORE", key.encode(), b"-inf", until, b"WITHSCORES", b"LIMIT", b"0", b"%d" % LOOKED_MAX]
    return Command(command, lambda flat: [(to_text(name), int(float(score))) for name, score in pairs(flat)])


def _is_there(keys: Keyspace, consumer: str) -> Command[int]:
    """Whether a worker shows itself: its key expires soon after its last beat."""
    return Command([b"EXISTS", keys.worker(consumer).encode()], int)


def _is_known(answer: object) -> bool:
    return not isinstance(answer, DurasleepError)


def _alive(keys: Keyspace, groups: set[str]) -> Plan[dict[str, set[str]]]:
    """The names of the living workers of each group."""
    alive: dict[str, set[str]] = {}
    for group, consumers in (yield from _consumers(keys, groups)).items():
        signs: list[Any] = (yield [_is_there(keys, name) for name in consumers]) if consumers else []
        alive[group] = {name.partition("/")[0] for name, sign in zip(consumers, signs, strict=True) if sign == 1}
    return alive


def _groups_of(keys: Keyspace, consumers: set[str]) -> Plan[list[str]]:
    """The groups some consumers are of, as far as there is a trace of that."""
    queues = yield from search.queues(keys, None, Found())
    found = yield from _consumers(keys, {queue.partition("/")[0] for queue in queues[:LOOKED_MAX]})
    return [group for group, names in found.items() if consumers & set(names)]


def _consumers(keys: Keyspace, groups: set[str]) -> Plan[dict[str, list[str]]]:
    names = sorted(groups)
    answers = (yield [reads.read_consumers(keys, group) for group in names]) if names else []
    found = zip(names, answers, strict=True)  # of a stream that nobody ever read there is no answer
    return {group: [] if isinstance(answer, DurasleepError) else answer[:LOOKED_MAX] for group, answer in found}


# -- saying


def _start(group: str, name: str = "") -> str:
    options = [] if group == DEFAULT["queue"] else ["--group", group]
    options += ["--name", name] if name else []
    return shlex.join(["durasleep", "worker", *options])


def _duration(ms: int) -> str:
    return telemetry.describe_ms(max(0, ms))


def _count(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
