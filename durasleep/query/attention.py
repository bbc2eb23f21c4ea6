"""What in a namespace waits for a person, or for a missing worker; in words, with the command that helps.

Each check is one plan that returns its findings, and none if all is well. It reads a bounded number of members; only
the names of the queues are found by a scan.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

from durasleep import humanize
from durasleep.errors import DurasleepError
from durasleep.model import PromiseId, State, group_of, worker_of
from durasleep.protocol import channels, journal, membership, resonate, server, sorted_sets, streams
from durasleep.protocol.command import Call, Command, Plan, pairs, to_text, unwrap
from durasleep.protocol.commit import NOT_KNOWN
from durasleep.protocol.journal import PromiseRecord
from durasleep.protocol.keys import DEFAULT, LIMIT, NEAR, Keyspace
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.query import groups, limits, search
from durasleep.query.doctor import Diagnosis, Level
from durasleep.query.search import SearchPage

_SCHEDULE = "schedule:"
NAMED_MAX = 5  # schedules, a line each
_FAILED_MS = 24 * 3_600_000  # older failures are no news
_ENDINGS_MAX = 100  # executions of one kind, looked at one by one
LOOKED_MAX = 1_000  # members of one set: beyond it people need no better count
_DEFERRED_MS = 60_000  # an execution without a worker is offered again within `Settings.defer_s_max`
_OVERDUE_MS = 10_000  # a due timer settles within a second, or within three if its firer has just died
_UNTAKEN_MS = 60_000  # a message that somebody polls for is taken at once
_LEFT_MS = 6_000  # what a gateway takes it carries, or it is taken again after 5 s
_UNREAD_MS = 70_000  # or up to a minute later if its codec cannot read it; what is damaged, an hour later
_NEAR_FULL = 0.8  # of a bound
_GONE_MS = 10_000  # the work of a dead worker has been taken over by then

Fact = Callable[[Keyspaces, int], Plan[list[Diagnosis]]]
"""The findings of one check, given the server's time in ms."""


def collect(keyspaces: Keyspaces) -> Plan[list[Diagnosis]]:
    """All findings, in the order in which to fix them; a check that fails is a finding itself."""
    now_ms = 0
    for keys in keyspaces:  # any of those that can be asked; with none of them there is nothing to find
        now_ms = yield from server.now_ms(keys)
        break
    found: list[Diagnosis] = []
    for fact in _FACTS:
        try:
            found += yield from fact(keyspaces, now_ms)
        except DurasleepError as error:
            found.append(Diagnosis(Level.WARNING, "work", f"some of this cannot be read: {error}"))
    return found or [Diagnosis(Level.GOOD, "work", "nothing waits for a person, or for a worker that is not there")]


def held_clock(keyspaces: Keyspaces, _now_ms: int) -> Plan[list[Diagnosis]]:
    """Workers that do not accept the server's clock, so that no timer fires."""
    answers: list[Any] = yield [server.read_number(keys.clock_held) for keys in keyspaces]
    if not any(isinstance(ms, int) and ms for ms in answers):
        return []
    text = "NO TIMER FIRES: the server's clock is further ahead than the workers can explain"
    advice = "look at the server's clock (redis-cli time); if it is right: durasleep namespace release-clock"
    return [Diagnosis(Level.DANGER, "timers", text, advice)]


def halted(keyspaces: Keyspaces, now_ms: int) -> Plan[list[Diagnosis]]:
    """Halted executions, which wait for a person."""
    names = yield from _members([keys.halted for keys in keyspaces])
    totals = yield [sorted_sets.count_members(keys.halted) for keys in keyspaces]
    executions = [(name, at_ms) for name, at_ms in names if not search.is_quarantined(name)]
    count = sum([unwrap(total) for total in totals]) - len(names) + len(executions)
    if not executions:
        return []
    oldest, at_ms = executions[0]
    since = f"the oldest is {oldest}, for {_duration(now_ms - at_ms)}"
    return [
        Diagnosis(
            Level.WARNING,
            "halted",
            f"{_count(count, 'execution is halted and waits', 'executions are halted and wait')} for a person; {since}",
            "durasleep ls --status halted says why; when the cause is fixed: durasleep resume ID, or all of them: "
            "durasleep resume --status halted --yes",
        )
    ]


def failed(keyspaces: Keyspaces, now_ms: int) -> Plan[list[Diagnosis]]:
    """Executions that have failed within a day, and have not been retried."""
    since = b"%d" % (now_ms - _FAILED_MS)
    pages = yield [streams.list_latest(keys.failed.encode(), since=since, count=_ENDINGS_MAX) for keys in keyspaces]
    rows = sorted((row for page in pages for row in unwrap(page)), key=lambda row: streams.instant_of(row[0]))
    ids: dict[str, None] = {}
    for _, fields in reversed(rows):
        named = [(name, to_text(value)) for name, value in pairs(fields)]
        ids.update((value, None) for name, value in reversed(named) if name == b"i")
    latest = [PromiseId(id) for id in list(ids)[:_ENDINGS_MAX]]
    records: list[Any] = (yield [_outline(keyspaces, id) for id in latest]) if latest else []
    left = [one for one in records if isinstance(one, PromiseRecord) and one.state in (State.REJECTED, State.TIMEDOUT)]
    if not left:
        return []
    least = "at least " if len(ids) > _ENDINGS_MAX else ""
    count = _count(len(left), "execution has failed", "executions have failed")
    ago = _duration(now_ms - left[0].settled_ms)
    return [
        Diagnosis(
            Level.WARNING,
            "failed",
            f"{least}{count} within a day; the latest is {left[0].id}, {ago} ago",
            "durasleep ls --status failed says why; when the cause is fixed: durasleep retry ID, or all of them: "
            "durasleep retry --status failed --yes",
        )
    ]


def quarantined(keyspaces: Keyspaces, _now_ms: int) -> Plan[list[Diagnosis]]:
    """Quarantined names; for schedules also what to do."""
    members = yield from _members([keys.halted for keys in keyspaces])
    names = [name for name, _ in members if search.is_quarantined(name)]
    schedules = [name.removeprefix(_SCHEDULE) for name in names if name.startswith(_SCHEDULE)]
    said: list[Diagnosis] = []
    for one in schedules[:NAMED_MAX]:
        name, _, why = one.partition(": ")
        text = f"schedule {name} is due, and no worker can read it: {why}"
        advice = f"write it again with app.schedule({name!r}, ...), or remove it with app.unschedule({name!r})"
        said.append(Diagnosis(Level.WARNING, "schedules", text, advice))
    if (count := len(schedules) - NAMED_MAX) > 0:
        said.append(
            Diagnosis(Level.WARNING, "schedules", f"and {count} more are quarantined", "durasleep fsck names them")
        )
    if count := len(names) - len(schedules):
        text = f"{_count(count, 'name was', 'names were')} quarantined, because of broken data"
        said.append(Diagnosis(Level.WARNING, "broken data", text, "durasleep fsck says what is wrong with each"))
    return said


def lost_threads(keyspaces: Keyspaces, now_ms: int) -> Plan[list[Diagnosis]]:
    """Workers with threads that run functions nobody waits for any more."""
    beats = yield from _beats(keyspaces)
    alive = {name: keys for name, at_ms, keys in beats if now_ms - at_ms <= _GONE_MS}
    ask = [membership.read_lost_threads(keys, name) for name, keys in alive.items()]
    counts: list[Any] = (yield ask) if ask else []
    return [
        Diagnosis(
            Level.WARNING,
            "threads",
            f"worker {name.partition('/')[0]} has lost {_count(count, 'thread', 'threads')} to functions that took too "
            "long or were canceled, and do not return: it runs so many fewer functions at a time",
            "its log names them; give them timeouts of their own, and restart the worker",
        )
        for name, count in zip(alive, counts, strict=True)
        if isinstance(count, int) and count
    ]


def blocked_loops(keyspaces: Keyspaces, now_ms: int) -> Plan[list[Diagnosis]]:
    """Workers whose event loop is blocked: they are alive, and do nothing."""
    alive = {name: keys for name, at_ms, keys in (yield from _beats(keyspaces)) if now_ms - at_ms <= _GONE_MS}
    ask = [membership.read_blocked_ms(keys, name) for name, keys in alive.items()]
    answers: list[Any] = (yield ask) if ask else []
    return [
        Diagnosis(
            Level.WARNING,
            "workers",
            f"worker {name.partition('/')[0]} is alive, but its event loop has been blocked for {_duration(ms)}: what "
            "it holds stands still, and it takes nothing new",
            "its log says where, after five seconds; if it does not come back, kill it: others take over",
        )
        for name, ms in zip(alive, answers, strict=True)
        if isinstance(ms, int) and ms
    ]


def newer(keyspaces: Keyspaces, now_ms: int) -> Plan[list[Diagnosis]]:
    """Timers that only a newer version knows."""
    due = yield from _members([keys.timers for keys in keyspaces], now_ms - _OVERDUE_MS)
    names = [name for name, _ in due if _is_newer(name)]
    if not names:
        return []
    text = f"{_count(len(names), 'timer is', 'timers are')} due that only a newer version knows, such as {names[0]}"
    advice = "start workers of that version: workers of this version leave these timers alone"
    return [Diagnosis(Level.WARNING, "timers", text, advice)]


def _unserved(keyspaces: Keyspaces, _now_ms: int) -> Plan[list[Diagnosis]]:
    """Queues with work and without a living worker."""
    found = SearchPage()
    queues = (yield from search.queues(keyspaces, None, found))[:LOOKED_MAX]
    lengths = (yield [streams.count_entries(keys.queue(queue)) for keys, queue in queues]) if queues else []
    waiting = {
        (keys, queue): length
        for (keys, queue), length in zip(queues, lengths, strict=True)
        if _is_known(length) and length
    }
    alive = yield from _alive({(keys, group_of(queue)) for keys, queue in waiting})
    unserved: dict[tuple[str, str], dict[int, int]] = {}
    for (keys, queue), length in waiting.items():
        group, name = group_of(queue), worker_of(queue) or ""
        if not any(not name or worker == name for worker in alive[keys, group]):
            counts = unserved.setdefault((group, name), {})
            counts[keys.partition] = counts.get(keys.partition, 0) + length
    said: list[Diagnosis] = []
    for (group, name), lengths_in in unserved.items():
        where = "" if len(keyspaces) == 1 else f" in {_partitions(lengths_in)}"
        who = f"worker {name!r} of group {group!r}, which is not alive" if name else f"group {group!r}: no worker of it"
        count = _count(sum(lengths_in.values()), "execution waits", "executions wait")
        text = f"{count}{where} for {who}{'' if name else ' serves them' if where else ' is alive'}"
        said.append(Diagnosis(Level.WARNING, "workers", text, _start(group, name)))
    if not found.is_all:
        said.append(Diagnosis(Level.WARNING, "workers", "there are too many keys to see whether all queues are served"))
    return said


def paused(keyspaces: Keyspaces, now_ms: int) -> Plan[list[Diagnosis]]:
    """Groups that are paused."""
    said: list[Diagnosis] = []
    if not (yield from groups.paused_names(keyspaces)):
        return said
    for one in (yield from groups.summarize(keyspaces)):
        if one.paused_since_ms is not None:
            since = f"group {one.name!r} was paused {_duration(now_ms - one.paused_since_ms)} ago by {one.paused_by}"
            count = _count(one.queued, "execution waits there or runs", "executions wait there or run")
            advice = f"{shlex.join(['durasleep', 'group', 'resume', one.name])} lets its workers go on"
            said.append(Diagnosis(Level.WARNING, "groups", f"{since}; {count}", advice))
            if one.unaware:
                text = f"{', '.join(one.unaware)} of group {one.name!r}: of an earlier version, which knows no pause"
                said.append(Diagnosis(Level.WARNING, "groups", text, "stop these workers, or replace them"))
    return said


def paused_limits(keyspaces: Keyspaces, now_ms: int) -> Plan[list[Diagnosis]]:
    """Limits that are paused while executions wait."""
    said: list[Diagnosis] = []
    for one in (yield from limits.list_limits(keyspaces)):
        if one.paused_at_ms is not None and one.parked:
            count = _count(one.parked, "execution waits", "executions wait")
            text = f"limit {one.name!r} was paused {_duration(now_ms - one.paused_at_ms)} ago; {count}"
            advice = f"{shlex.join(['durasleep', 'limit', 'resume', one.name])} lets them begin"
            said.append(Diagnosis(Level.WARNING, "limits", text, advice))
    return said


def mailboxes(keyspaces: Keyspaces, _now_ms: int) -> Plan[list[Diagnosis]]:
    """Executions that read their messages too slowly: soon they take no more."""
    found = SearchPage()
    named = {id: keys for keys, id in (yield from search.named_keys(keyspaces, NEAR["mail"], found))}
    looked_at = list(named.items())[:LOOKED_MAX]
    boxes: list[Any] = (yield [channels.read_mailbox(keys, id) for id, keys in looked_at]) if looked_at else []
    near = [
        (box, id)
        for (id, _), box in zip(looked_at, boxes, strict=True)
        if isinstance(box, channels.Mailbox)
        and (box.messages >= _NEAR_FULL * LIMIT["mailbox_max"] or box.bytes >= _NEAR_FULL * LIMIT["mailbox_bytes_max"])
    ]
    said: list[Diagnosis] = []
    if near:
        fullest, id = max(near, key=lambda one: (one[0].messages, one[0].bytes, one[1]))
        count = _count(
            len(near), "mailbox is nearly full, and then refuses", "mailboxes are nearly full, and then refuse"
        )
        text = f"{count} messages: {id} has {fullest.messages:,} unread ones"
        advice = f"{shlex.join(['durasleep', 'get', id])} says on which channels, and what the execution does meanwhile"
        said.append(Diagnosis(Level.WARNING, "mailboxes", text, advice))
    if not found.is_all or len(named) > LOOKED_MAX:
        text = f"there are too many mailboxes to look at all: {len(looked_at):,} were"
        said.append(Diagnosis(Level.GOOD, "mailboxes", text))
    return said


def unknown(keyspaces: Keyspaces, now_ms: int) -> Plan[list[Diagnosis]]:
    """Executions whose function no worker of their group has: they are tried again at least each minute."""
    due = yield from _members([keys.timers for keys in keyspaces], now_ms + _DEFERRED_MS)
    deferred = [name.removesuffix("~retry") for name, _ in due if name.endswith("~retry")]
    ids = [PromiseId(id) for id in deferred[:_ENDINGS_MAX]]
    records: list[Any] = (yield [_outline(keyspaces, id) for id in ids]) if ids else []
    found: dict[tuple[str, str], int] = {}
    for record in records:
        if isinstance(record, PromiseRecord) and (record.reason or "").startswith(NOT_KNOWN):
            what = (record.function, group_of(record.queue))
            found[what] = found.get(what, 0) + 1
    least = "at least " if len(deferred) > _ENDINGS_MAX else ""
    return [
        Diagnosis(
            Level.WARNING,
            "functions",
            f"{least}{_count(count, 'execution waits', 'executions wait')} for a worker of group {group!r} "
            f"that has the function {function!r}",
            f"if the name is right: start a worker with a module that has it ({_start(group)}), or let the calls name "
            "the group that has it, options(target=...)",
        )
        for (function, group), count in found.items()
    ]


def gone(keyspaces: Keyspaces, now_ms: int) -> Plan[list[Diagnosis]]:
    """Workers that have died, and whose work nobody has taken over."""
    old = {name: (at_ms, keys) for name, at_ms, keys in (yield from _beats(keyspaces)) if now_ms - at_ms > _GONE_MS}
    if not old:
        return []
    signs = yield [_is_there(keys, name) for name, (_, keys) in old.items()]
    dead = [name for name, is_there in zip(old, signs, strict=True) if is_there == 0]
    if not dead:
        return []
    groups = yield from _groups_of(keyspaces, set(dead))
    oldest = dead[0]
    at_ms, _ = old[oldest]
    text = (
        f"{_count(len(dead), 'worker has', 'workers have')} died and no other worker has taken over; the first "
        f"was {oldest.partition('/')[0]}, {_duration(now_ms - at_ms)} ago: timers may be late by a second"
    )
    start = ", ".join(_start(group) for group in groups) or _start(DEFAULT["queue"])
    return [Diagnosis(Level.WARNING, "workers", text, f"a worker of the same group takes over: {start}")]


def overdue(keyspaces: Keyspaces, now_ms: int) -> Plan[list[Diagnosis]]:
    """Schedules and timers that are overdue."""
    rows = yield from _members([keys.timers for keys in keyspaces], now_ms - _OVERDUE_MS)
    due = [(name, due_ms) for name, due_ms in rows if name and not _is_newer(name)]
    scheduled = yield from _members([keys.schedules for keys in keyspaces], now_ms - _OVERDUE_MS)
    due += [(f"{name}~cron", due_ms) for name, due_ms in scheduled]
    if not due:
        return []
    is_served = any(now_ms - at_ms <= _GONE_MS for _, at_ms, _ in (yield from _beats(keyspaces)))
    advice = "the log of a worker says why" if is_served else f"no worker is alive: {_start(DEFAULT['queue'])}"
    schedules = sorted(
        [(name.removesuffix("~cron"), due_ms) for name, due_ms in due if name.endswith("~cron")], key=itemgetter(1)
    )
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


def untaken(keyspaces: Keyspaces, now_ms: int) -> Plan[list[Diagnosis]]:
    """Messages for workers of other languages, or for a gateway, that nobody takes."""
    found = SearchPage()
    named = yield from search.named_keys(keyspaces, "r:queue:", found)
    every = sorted({(address, keys.partition): keys for keys, address in named}.items())
    queues = every[:LOOKED_MAX]
    until = b"%d" % (now_ms - _UNTAKEN_MS)
    ask = [sorted_sets.count_between(f"{keys.resonate}queue:{name}", b"-inf", until) for (name, _), keys in queues]
    counts: list[Any] = (yield ask) if ask else []
    unread, damaged = yield from _put_off([keys for (name, _), keys in queues if name == resonate.OURS], now_ms)
    waiting: dict[str, int] = {}
    for ((name, _), _), count in zip(queues, counts, strict=True):
        if _is_known(count) and count:
            waiting[name] = waiting.get(name, 0) + count
    said: list[Diagnosis] = []
    for name, count in sorted(waiting.items(), key=itemgetter(1), reverse=True)[:NAMED_MAX]:
        if name == resonate.OURS:
            text = f"{_count(count, 'call', 'calls')} to or from another language: no gateway carries them"
            advice = "durasleep serve"
        else:
            text = f"{_count(count, 'task has', 'tasks have')} waited for a worker at {name} for more than a minute"
            advice = "start such a worker, or more of them, or a gateway for them: durasleep serve"
        said.append(Diagnosis(Level.WARNING, "other languages", text, advice))
    if unread:
        text = f"{_count(unread, 'call', 'calls')} to or from another language: no gateway can read the values"
        said.append(Diagnosis(Level.WARNING, "other languages", text, "durasleep serve MODULE, with the application"))
    if damaged:
        text = f"{_count(damaged, 'call has', 'calls have')} to tell something, but the data are damaged"
        said.append(Diagnosis(Level.WARNING, "other languages", text, "durasleep fsck"))
    if not found.is_all or len(every) > LOOKED_MAX or len(waiting) > NAMED_MAX:
        text = "more addresses have messages than are named here, or there are too many keys to see all"
        said.append(Diagnosis(Level.WARNING, "other languages", text))
    return said


def _put_off(partitions: Sequence[Keyspace], now_ms: int) -> Plan[tuple[int, int]]:
    """How many messages for a gateway were put off because it cannot read their values, or the promises themselves."""
    left, unread = b"%d" % (now_ms + _LEFT_MS), b"%d" % (now_ms + _UNREAD_MS)
    queues = [f"{keys.resonate}queue:{resonate.OURS}" for keys in partitions]
    ask = [sorted_sets.count_between(key, *span) for key in queues for span in ((left, unread), (unread, b"+inf"))]
    counts: list[Any] = (yield ask) if ask else []
    known = [count if _is_known(count) else 0 for count in counts]
    return sum(known[::2]), sum(known[1::2])


_FACTS: tuple[Fact, ...] = (
    held_clock,
    halted,
    failed,
    quarantined,
    paused,
    paused_limits,
    _unserved,
    untaken,
    mailboxes,
    unknown,
    gone,
    lost_threads,
    blocked_loops,
    overdue,
    newer,
)


# -- reading


def _members(sets: Sequence[str], until_ms: int | None = None) -> Plan[list[tuple[str, int]]]:
    """The first members of some sorted sets, lowest scores first; the scores are times in ms."""
    until = b"+inf" if until_ms is None else b"%d" % until_ms
    pages = yield [sorted_sets.list_members(key, until=until, count=LOOKED_MAX) for key in sets]
    return sorted((one for page in pages for one in unwrap(page)), key=itemgetter(1))[:LOOKED_MAX]


def _beats(keyspaces: Keyspaces) -> Plan[list[tuple[str, int, Keyspace]]]:
    """The last heartbeats of all workers, in each partition that they serve, the oldest first."""
    pages = yield [sorted_sets.list_members(keys.workers, count=LOOKED_MAX) for keys in keyspaces]
    found = [(name, at_ms, keys) for keys, page in zip(keyspaces, pages, strict=True) for name, at_ms in unwrap(page)]
    return sorted(found, key=itemgetter(1))


def _outline(keyspaces: Keyspaces, id: PromiseId) -> Call:
    return journal.read_record(keyspaces.of(id), id, outline=True)


def _is_newer(timer: str) -> bool:
    _, mark, what = timer.rpartition("~")
    return mark != "" and not search.is_known_timer(what)


def _is_there(keys: Keyspace, consumer: str) -> Command[bool]:
    """Whether the key of a worker exists: it expires soon after the last heartbeat."""
    return server.exists(keys.worker(consumer))


def _is_known(answer: object) -> bool:
    return not isinstance(answer, DurasleepError)


def _alive(places: set[tuple[Keyspace, str]]) -> Plan[dict[tuple[Keyspace, str], set[str]]]:
    """The names of the living workers of a group in a partition, for several of both."""
    alive: dict[tuple[Keyspace, str], set[str]] = {place: set() for place in places}
    asked = list(places)
    answers: list[Any] = (yield [streams.read_consumers(keys, group) for keys, group in asked]) if asked else []
    consumers = [
        (place, name)
        for place, answer in zip(asked, answers, strict=True)
        if _is_known(answer)  # a stream that nobody has ever read has no answer
        for name in answer[:LOOKED_MAX]
    ]
    signs: list[Any] = (yield [_is_there(place[0], name) for place, name in consumers]) if consumers else []
    for (place, name), sign in zip(consumers, signs, strict=True):
        if sign is True:
            alive[place].add(name.partition("/")[0])
    return alive


def _groups_of(keyspaces: Keyspaces, consumers: set[str]) -> Plan[list[str]]:
    """The groups of some consumers, if their names are still found."""
    queues = yield from search.queues(keyspaces, None, SearchPage())
    found = yield from _consumers(keyspaces, {group_of(queue) for _, queue in queues[:LOOKED_MAX]})
    return [group for group, names in found.items() if consumers & set(names)]


def _consumers(keyspaces: Keyspaces, groups: set[str]) -> Plan[dict[str, dict[str, Keyspace]]]:
    """The consumers of each group, and a partition in which each is one."""
    found: dict[str, dict[str, Keyspace]] = {group: {} for group in sorted(groups)}
    for group, consumers in found.items():
        answers = yield [streams.read_consumers(keys, group) for keys in keyspaces]
        for keys, answer in zip(keyspaces, answers, strict=True):
            if not isinstance(answer, DurasleepError):  # a stream that nobody has ever read has no answer
                consumers.update(dict.fromkeys(answer[:LOOKED_MAX], keys))
    return found


# -- saying


def _start(group: str, name: str = "") -> str:
    options = [] if group == DEFAULT["queue"] else ["--group", group]
    options += ["--name", name] if name else []
    return shlex.join(["durasleep", "worker", *options])


def _partitions(numbers: Iterable[int]) -> str:
    named = sorted(numbers)
    return f"partition{'s' * (len(named) > 1)} {', '.join(map(str, named))}"


def _duration(ms: int) -> str:
    return humanize.describe_ms(max(0, ms))


def _count(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
