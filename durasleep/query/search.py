"""Lists of executions and due items, with no I/O: plans of bounded reads.

No index is kept for executions. They are found in the halted set, the streams and the timers. An execution that waits
only for a promise without a timeout is in none of these. It is found last, among the keys themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from durasleep import humanize
from durasleep.codec import Codec
from durasleep.deprecation import warn_renamed
from durasleep.errors import CorruptData, DurasleepError, NotAllowed, NotFound, UsageError
from durasleep.model import (
    DUE_MS_MAX,
    PRIORITY,
    Entry,
    Kind,
    PromiseId,
    State,
    group_of,
    levels_of,
    owner_of,
    priority_of,
    worker_of,
)
from durasleep.protocol import groups, indexes, journal, promises, schedules, server, sorted_sets, streams
from durasleep.protocol.command import Call, Command, Plan, to_text, unwrap
from durasleep.protocol.journal import PromiseRecord
from durasleep.protocol.keys import LIMIT, NEAR, Keyspace
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.protocol.script import to_bytes
from durasleep.query.result import error_text
from durasleep.query.status import holders, status_of
from durasleep.query.statuses import ENDED, FOUND_MAX, PENDING_STATUSES, STATUSES, TIMERS_MAX
from durasleep.traits import check_labels, read_labels

LOOKED_MAX = 50_000  # promises looked at for one answer, so that a search ends after a few seconds
PAGE = 1_000  # ids in one read, heads in one round trip
SCAN_COUNT = 5_000  # keys in one step of a scan: a millisecond of Redis
MESSAGES_PASSED_MAX = 100_000  # among the timers of a partition, to find those that people ask for
STEPS_MAX = 500  # pages for one answer: half a million timers, or two million keys of any owner
FAILURES_MAX = 100  # the latest: there is a search for more
SHOWN_MAX = 10  # names in a sentence
_VALUES_TOGETHER = 100  # errors read in one round trip: most have some kilobytes

_QUARANTINED = ("timers:", "closing:", "promise:", "queue:", "schedule:")
"""How names in the halted set begin that stand for broken data and not for an execution; and what they stand for."""

_TIMERS = ("cron", "timeout", "start", "retry")
"""The part after the ``~`` of a timer that is not an entry of a journal."""
_MESSAGES = ("ask", "tell", "gate", "gates", "replaced")
"""The same of a timer that only brings a message to another partition."""

_ENDINGS = tuple(f"~{what}" for what in _MESSAGES)

_WILD = re.compile(r"[*?\[\]\\^]")  # what SCAN does not take as it stands

_Cursor = bytes | None
_Ids = list[tuple[str, int | None]]
_Page = tuple[_Ids, _Cursor]
_Source = Callable[[bytes, int], Command[_Page]]
"""About so many ids with their due times from a cursor on, b"" at first; and the next cursor, None at the end."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One execution in a list; instants in ms since 1970, None for never."""

    id: str
    """Its id."""
    func: str
    """The name of its function."""
    group: str
    """The group whose workers run it."""
    state: str
    """``pending``, ``resolved``, ``rejected``, ``canceled`` or ``timedout``."""
    status: str
    """``queued``, ``running``, ``suspended``, ``delayed``, ``parked``, ``halted`` or ``done``."""
    created_at_ms: int
    """When it was created."""
    due_at_ms: int | None
    """When its earliest timer ends, if the search has found one."""
    timeout_at_ms: int | None
    """When its deadline passes."""
    settled_at_ms: int | None
    """When it ended."""
    reason: str | None
    """Why it is where it is, for example halted."""
    worker: str | None
    """The name of the worker that runs it."""
    error: str | None = None
    """Why an execution was rejected, timed out or canceled: a word or a sentence."""
    target_worker: str | None = None
    """The only worker that may run it, if it was started for one."""
    priority: int = PRIORITY
    """From 1, which comes first, to 5."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Names and values by which people find it."""
    limit: str | None = None
    """The name of the limit that counts it."""
    channels: list[str] = field(default_factory=list[str])
    """The channels on which it waits for a message."""


PARTLY_ASKED = "A part of the cluster was moving to another node, or did not answer"


class SearchPage(list[Summary]):
    """Executions that a search has found, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.is_all = True
        """Whether no limit has left anything out."""
        self.notes: list[str] = []
        """Notes for people: quarantined names, and data that could not be read."""
        self.looked_at = 0
        """How many executions a search by function or label has looked at so far, if no index has helped; else 0."""

    def note_missed(self) -> None:
        """A part of the cluster could not be asked, so something may have been missed."""
        self.is_all = False
        self.notes.append(f"{PARTLY_ASKED}: some executions may be missing. Search again.")


@dataclass(frozen=True, slots=True)
class DueItem:
    """A timer, deadline, start or schedule with its due time."""

    id: str
    """The id for ``wake``, ``reschedule`` and ``cancel``; for a schedule its name."""
    kind: str
    """``timer`` or ``promise``; the ``deadline`` of an execution, its delayed ``start`` or ``retry``; or ``cron``."""
    name: str
    """The name that the workflow gave the timer; else empty."""
    func: str | None
    """The function that waits for it, or that it starts."""
    due_at_ms: int
    """When it is due, in ms since 1970."""

    @property
    def due_at(self) -> datetime:
        """When it is due, by the server's clock."""
        return datetime.fromtimestamp(self.due_at_ms / 1000, UTC)

    @property
    def function(self) -> str | None:
        """The old name of ``func`` in ``durasleep.testing``."""
        warn_renamed("function", "func")
        return self.func


class Timers(list[DueItem]):
    """The next due items, soonest first."""

    total = 0
    """How many there are, also those that are not listed."""
    is_all = True
    """Whether all partitions were asked: not those that were moving to another node, or whose node did not answer."""


@dataclass(frozen=True, slots=True)
class Known:
    """What an overview has found already, so that a search need not look for it among all keys."""

    queues: Collection[str]
    """Names of groups, and of queues that only one worker reads."""
    has_parked: bool
    """Whether executions wait at the gates of limits."""


# -- search ------------------------------------------------------------------


class Search:
    """Executions in one of these statuses (by default any pending one), of a group, of a function, with some labels,
    made since an instant, part by part. Where the function or a label has an index, it is read; else they are searched
    for.

    Of executions that have ended, it finds the latest thousands; of those that have failed, as many more. With a
    ``codec`` it reads their errors. With ``only_roots`` it leaves out executions that others have called. With a
    ``prefix`` it finds those whose ids begin so; they are searched for among the keys, also those that ended long ago.

    A part ends when it has looked at ``looked_max`` executions, by default 50,000, and it reads ``page`` of them at a
    time, by default 1,000. What is ``known`` need not be looked for.

    The executions of one part may be changed before the next part is searched. Then others may be missed, because they
    move in the lists that are read in pages: ``again`` finds them.
    """

    def __init__(
        self,
        *,
        status: str | Collection[str] | None = None,
        group: str | None = None,
        function: str | None = None,
        labels: Mapping[str, str] | None = None,
        since_ms: int | None = None,
        codec: Codec | None = None,
        only_roots: bool = False,
        prefix: str = "",
        looked_max: int | None = None,
        page: int | None = None,
        known: Known | None = None,
    ) -> None:
        self._known = known
        self._prefix = prefix
        self._looked_max = LOOKED_MAX if looked_max is None else looked_max
        self._page = page or PAGE
        self._labels = check_labels(labels or {})
        self._since_ms = since_ms
        self._statuses = _statuses(status)
        self._states = {state for status in self._statuses for state in ENDED.get(status, ())}
        self._codec = codec
        self._only_roots = only_roots
        self._group = group
        self._function = function
        self._sources: list[_Source] | None = None
        self._cursor = b""
        self._dues: dict[str, int | None] = {}  # of all that were seen, also those that did not match
        self._unread: list[str] = []  # ids of the page of the source that are still to be looked at
        self._ahead: list[Summary] = []  # found, but beyond the limit of the last part
        self._shown: set[str] = set()
        self._shown_before = 0
        self._is_searched = False
        """Whether no index helps to find the function or the labels."""

    @property
    def is_over(self) -> bool:
        """Whether everything has been searched and shown."""
        return self._sources == [] and not self._unread and not self._ahead

    @property
    def seen(self) -> int:
        """How many executions it remembers, so that it shows none twice."""
        return len(self._dues)

    def again(self) -> bool:
        """Search everything once more, for executions not shown yet; false if the last search showed nothing."""
        if len(self._shown) == self._shown_before:
            return False
        self._shown_before = len(self._shown)
        self._sources, self._cursor, self._dues, self._unread = None, b"", {}, []
        return True

    def part(self, keyspaces: Keyspaces, limit: int = FOUND_MAX) -> Plan[SearchPage]:
        """The next executions. It may be empty although there are more: a part ends after a few seconds."""
        if not 1 <= limit <= FOUND_MAX:
            raise UsageError(f"limit {limit}: a search finds 1 to {FOUND_MAX} executions")
        found = SearchPage()
        found += self._ahead
        yield from self._fill(keyspaces, limit, found)
        self._ahead = found[limit:]
        found[:] = [_with_due(one, self._dues[one.id]) for one in found[:limit]]
        if self._codec is not None:
            yield from add_errors(keyspaces, found, self._codec)
        self._shown.update(one.id for one in found)
        found.is_all = found.is_all and self.is_over
        if self._is_searched:
            found.looked_at = len(self._dues) - len(self._unread)
        return found

    def _fill(self, keyspaces: Keyspaces, limit: int, found: SearchPage) -> Plan[None]:
        """Search source by source, until more than ``limit`` are found, or all or enough was searched."""
        if self._sources is None:
            self._sources = yield from self._find_sources(keyspaces, found)
        looked_max = len(self._dues) - len(self._unread) + self._looked_max
        pages = 0
        while len(found) <= limit and len(self._dues) - len(self._unread) <= looked_max:
            if self._unread:
                part, self._unread = self._unread[: self._page], self._unread[self._page :]
                yield from _read_summaries(keyspaces, part, self._is_wanted, found)
            elif self._sources and pages < STEPS_MAX:
                pages += 1
                cursor = yield from self._read_page(self._sources[0], found)
                self._cursor = cursor or b""
                if cursor is None:
                    del self._sources[0]
            else:
                return

    def _find_sources(self, keyspaces: Keyspaces, found: SearchPage) -> Plan[list[_Source]]:
        """Of the indexes that fit, the one with the fewest members; else all places where executions may be."""
        if self._prefix:
            return [partial(_read_begun_so, keyspaces, keys, self._prefix) for keys, *_ in keyspaces.by_node()]
        wanted = dict(self._labels)
        if self._function is not None:
            wanted[indexes.FUNC] = self._function
        if wanted:
            [answer] = yield [indexes.read_indexed(keyspaces[0])]
            known = [] if isinstance(answer, DurasleepError) else [label for label in answer if label in wanted]
            if known:
                return (yield from self._choose_index(keyspaces, {label: wanted[label] for label in known}))
        self._is_searched = bool(wanted)
        return (yield from _sources(keyspaces, self._statuses, self._states, self._group, found, self._known))

    def _choose_index(self, keyspaces: Keyspaces, wanted: Mapping[str, str]) -> Plan[list[_Source]]:
        counts: dict[str, int] = {}
        if len(wanted) > 1:
            for label, value in wanted.items():
                pages = yield [self._read_index(keys, label, value, b"", PAGE) for keys in keyspaces]
                counts[label] = sum(PAGE if isinstance(page, DurasleepError) else len(page[0]) for page in pages)
        label = min(wanted, key=lambda label: counts.get(label, 0))
        return [partial(self._read_index, keys, label, wanted[label]) for keys in keyspaces]

    def _read_index(self, keys: Keyspace, label: str, value: str, cursor: bytes, count: int) -> Command[_Page]:
        def page_of(members: list[bytes]) -> _Page:
            return [(indexes.id_of(member), None) for member in members], (
                members[-1] if len(members) == count else None
            )

        read = indexes.read_page(keys, label, value, cursor, since_ms=self._since_ms, count=count)
        return read.map(page_of)

    def _read_page(self, source: _Source, found: SearchPage) -> Plan[_Cursor]:
        """Read the next ids of a source, to be looked at; returns the next cursor, None after the last page."""
        read = source(self._cursor, self._page)
        [page] = yield [read]
        if isinstance(page, DurasleepError):
            found.notes.append(f"{to_bytes(read.args[1]).decode()} cannot be read: {page}")
            return None
        ids, cursor = page
        self._unread = _fresh(ids, self._dues)
        return cursor

    def _is_wanted(self, one: Summary) -> bool:
        return (
            (one.state in self._states if one.status == "done" else one.status in self._statuses)
            and self._group in (None, one.group)
            and self._function in (None, one.func)
            and all(one.labels.get(name) == value for name, value in self._labels.items())
            and (self._since_ms is None or one.created_at_ms >= self._since_ms)
            and not (self._only_roots and "~" in one.id)
            and one.id.startswith(self._prefix)
            and one.id not in self._shown
        )


def _with_due(one: Summary, due_ms: int | None) -> Summary:
    is_asleep = one.status == "suspended" and due_ms is not None
    return replace(one, due_at_ms=due_ms) if is_asleep else one


def _statuses(status: str | Collection[str] | None) -> set[str]:
    asked = set(PENDING_STATUSES if status is None else [status] if isinstance(status, str) else status)
    if unknown := asked.difference(STATUSES):
        raise UsageError(f"status {unknown.pop()!r}: there are {', '.join(STATUSES)}")
    return asked


def add_errors(keyspaces: Keyspaces, found: SearchPage, codec: Codec) -> Plan[None]:
    """Add the errors of those that failed."""
    failed = [at for at, one in enumerate(found) if one.status == "done" and one.state != State.RESOLVED]
    for start in range(0, len(failed), _VALUES_TOGETHER):
        part = failed[start : start + _VALUES_TOGETHER]
        values = yield [journal.read_value(keyspaces.of(found[at].id), PromiseId(found[at].id)) for at in part]
        for at, value in zip(part, values, strict=True):
            if isinstance(value, bytes):  # otherwise it is no longer stored
                found[at] = replace(found[at], error=error_text(State(found[at].state), value, codec))


def _sources(
    keyspaces: Keyspaces,
    statuses: set[str],
    states: set[str],
    group: str | None,
    found: SearchPage,
    known: Known | None,
) -> Plan[list[_Source]]:
    """Where to search, in the order to show it. The keys come last: they also have what has moved meanwhile."""
    sources: list[_Source] = []
    if "halted" in statuses:
        sources += (partial(_read_halted, keys) for keys in keyspaces)
    if statuses & {"queued", "running"}:
        names = yield from queues(keyspaces, group, found) if known is None else _filled(keyspaces, group, known)
        sources += (partial(_read_queue, keys, queue) for keys, queue in names)
        yield from _note_pauses(keyspaces, {group_of(queue) for _, queue in names[:PAGE]}, found)
    if "parked" in statuses and (known is None or known.has_parked):
        sources += (partial(_read_parked, keys, name) for keys, name in (yield from _parked(keyspaces, found)))
    if statuses & {"delayed", "suspended"}:
        sources += (partial(_read_timers, keys, statuses) for keys in keyspaces)
    if "suspended" in statuses:
        sources += (partial(_read_promises, keyspaces, keys) for keys, *_ in keyspaces.by_node())
    if states - {"resolved"}:
        sources += (partial(_read_endings, keys.failed) for keys in keyspaces)
        lengths = yield [streams.count_entries(keys.failed) for keys in keyspaces]
        if any(isinstance(length, int) and length >= LIMIT["recent_max"] for length in lengths):
            found.notes.append("Only the latest failures can be listed: find earlier ones by their ids.")
            found.is_all = False
    if states:  # schema 1 had only this one
        sources += (partial(_read_endings, keys.recent) for keys in keyspaces)
    return sources


def _note_pauses(keyspaces: Keyspaces, names: set[str], found: SearchPage) -> Plan[None]:
    """Say which of these groups are paused: nothing of them begins."""
    for name, pause in (yield from groups.read_pauses(keyspaces, names)).items():
        by = f"{humanize.local(pause.since_ms):%Y-%m-%d %H:%M:%S}, by {pause.by}"
        found.notes.append(f"group {name} is paused since {by}: durasleep group resume {name}")


def _fresh(ids: _Ids, dues: dict[str, int | None]) -> list[str]:
    """Ids not seen before, and those of the executions above them, which wait for them."""
    fresh: list[str] = []
    for id, due_ms in ids:
        above = id
        while above not in dues:
            fresh.append(above)
            dues[above] = None
            owner = owner_of(above)
            above = owner[0] if owner else above
        if dues[id] is None:  # they are sorted by due time
            dues[id] = due_ms
    return fresh


def _read_summaries(
    keyspaces: Keyspaces, ids: list[str], is_wanted: Callable[[Summary], bool], found: SearchPage
) -> Plan[None]:
    """Read these, and keep those that match."""
    answers = (yield [journal.read_record(keyspaces.of(id), PromiseId(id), outline=True) for id in ids]) if ids else []
    records: list[PromiseRecord] = []
    for id, record in zip(ids, answers, strict=True):
        if isinstance(record, PromiseRecord):
            if record.kind is Kind.EXECUTION:
                records.append(record)
        elif record is not None:
            found.notes.append(str(record))
        elif is_quarantined(id):
            found.notes.append(f"quarantined: {id}")
    workers = yield from holders(keyspaces.of, records)
    summaries = [_summary(record, worker) for record, worker in zip(records, workers, strict=True)]
    found += (one for one in summaries if is_wanted(one))


def is_quarantined(name: str) -> bool:
    """Whether a name in the halted set stands for broken data, and not for an execution."""
    return name.startswith(_QUARANTINED) and ": " in name


def _summary(record: PromiseRecord, worker: str | None) -> Summary:
    status = status_of(record, worker)
    return Summary(
        id=record.id,
        func=record.function,
        group=group_of(record.queue),
        state=record.state.value,
        status=status,
        created_at_ms=record.created_ms,
        due_at_ms=record.due_ms or None,
        timeout_at_ms=record.deadline_ms or None,
        settled_at_ms=record.settled_ms or None,
        reason=record.reason or None,
        worker=worker,
        target_worker=worker_of(record.queue),
        priority=priority_of(record.queue),
        labels=read_labels(record.labels),
        limit=record.limit_name or None,
        channels=record.channels,
    )


def queues(keyspaces: Keyspaces, group: str | None, found: SearchPage) -> Plan[list[tuple[Keyspace, str]]]:
    """The streams of a group, or of all, that exist: the partition and the name of each, sorted by name."""
    named = yield from named_keys(keyspaces, "queue:", found)
    names = {(queue, keys.partition): keys for keys, queue in named if group in (None, group_of(queue))}
    return [(names[one], one[0]) for one in sorted(names)]


def _filled(keyspaces: Keyspaces, group: str | None, known: Known) -> Plan[list[tuple[Keyspace, str]]]:
    """The same of those that are known and not empty."""
    names = sorted({queue for name in known.queues for queue in ([name] if "/" in name else levels_of(name))})
    asked = [(keys, queue) for queue in names if group in (None, group_of(queue)) for keys in keyspaces]
    lengths = (yield [streams.count_entries(keys.queue(queue)) for keys, queue in asked]) if asked else []
    return [one for one, length in zip(asked, lengths, strict=True) if isinstance(length, int) and length]


def _parked(keyspaces: Keyspaces, found: SearchPage) -> Plan[list[tuple[Keyspace, str]]]:
    """The sorted sets of parked executions: the partition and the name of each, behind the tag."""
    named = yield from named_keys(keyspaces, NEAR["limits"], found)
    return [(keys, name) for keys, name in named if name.split(":", 2)[1:2] == ["parked"]]


def named_keys(keyspaces: Keyspaces, beginning: str, found: SearchPage) -> Plan[list[tuple[Keyspace, str]]]:
    """The keys whose names begin so: the partition of each, and the rest of its name. A key may be there twice."""
    names: list[tuple[Keyspace, str]] = []
    for at, *_ in keyspaces.by_node():
        cursor: _Cursor = b""
        for _ in range(STEPS_MAX):
            [page] = yield [_scan(keyspaces, at, beginning, cursor)]
            scanned, cursor = unwrap(page)
            names += scanned
            if cursor is None:
                break
        else:
            found.is_all = False
    return names


def discard_quarantined(keyspaces: Keyspaces, name: str, *, by: str = "") -> Plan[bool]:
    """Delete a quarantined name, or the only one that begins with this name and ``": "``; returns whether there was
    one.

    NotAllowed for a halted execution, and if several names have this beginning.
    """
    answers = yield [promises.discard_quarantined(keys, name, by=by) for keys in keyspaces]
    if any(unwrap(answer) for answer in answers):
        return True
    begun: list[tuple[Keyspace, str]] = []
    for keys in keyspaces:
        begun += yield from _begun_so(keys, f"{name}: ")
    if len(begun) > 1:
        shown = "; ".join([one for _, one in begun[:SHOWN_MAX]])
        raise NotAllowed(f"{len(begun)} names begin with {name!r}, so give more of the name: {shown}")
    answers = (yield [promises.discard_quarantined(keys, one, by=by) for keys, one in begun]) if begun else []
    return any(unwrap(answer) for answer in answers)


def _begun_so(keys: Keyspace, beginning: str) -> Plan[list[tuple[Keyspace, str]]]:
    """The quarantined names that begin so, and the partition of each."""
    found: list[tuple[Keyspace, str]] = []
    cursor: _Cursor = b""
    for _ in range(STEPS_MAX):
        [page] = yield [_read_halted(keys, cursor)]
        names, cursor = unwrap(page)
        found += [(keys, name) for name, _ in names if name.startswith(beginning) and is_quarantined(name)]
        if cursor is None:
            break
    return found


def last_failures(keyspaces: Keyspaces, limit: int, codec: Codec) -> Plan[SearchPage]:
    """The executions that were rejected or timed out last, the latest first, with their errors. Those that were retried
    since are none.
    """
    if not 1 <= limit <= FAILURES_MAX:
        raise UsageError(f"limit {limit}: 1 to {FAILURES_MAX} failures can be shown")
    pages = yield [streams.list_latest(keys.failed.encode(), count=2 * limit) for keys in keyspaces]
    rows = [row for page in pages for row in unwrap(page)]
    rows.sort(key=lambda row: streams.instant_of(row[0]), reverse=True)
    ids, _ = _ids_in([(entry, fields[::-1]) for entry, fields in rows], len(rows) + 1, name_at=1)
    found = SearchPage()
    latest = list(dict.fromkeys(id for id, _ in ids))[: 2 * limit]  # those that were canceled stand among them
    yield from _read_summaries(keyspaces, latest, lambda one: one.state in ENDED["failed"], found)
    found.sort(key=lambda one: -(one.settled_at_ms or 0))
    found.is_all = len(found) <= limit and len(rows) < 2 * limit
    del found[limit:]
    yield from add_errors(keyspaces, found, codec)
    return found


# -- sources -----------------------------------------------------------------


def scan_promises(
    keyspaces: Keyspaces, at: Keyspace, cursor: bytes
) -> Command[tuple[list[tuple[Keyspace, str]], _Cursor]]:
    """A page of all promises on the node of a partition: the partition and the id of each."""
    return _scan(keyspaces, at, "promise:", cursor)


def _literally(match: re.Match[str]) -> str:
    return f"\\{match[0]}"


def is_of_data(error: DurasleepError) -> bool:
    """Whether it is about one key, and not about the server."""
    return isinstance(error, CorruptData | NotFound)


def _scan(
    keyspaces: Keyspaces, at: Keyspace, beginning: str, cursor: bytes, *, count: int = SCAN_COUNT
) -> Command[tuple[list[tuple[Keyspace, str]], _Cursor]]:
    """A page of the keys that begin so in their partitions, on the node of one: of each its partition, and the rest of
    its name.
    """

    def page_of(reply: tuple[bytes, list[bytes]]) -> tuple[list[tuple[Keyspace, str]], _Cursor]:
        after, names = reply
        found = [one for one in map(keyspaces.parse, names) if one is not None]
        ours = [(keys, to_text(rest).removeprefix(beginning)) for keys, rest in found]
        return ours, after if after != b"0" else None

    pattern = keyspaces.pattern(f"{_WILD.sub(_literally, beginning)}*")
    return server.scan(pattern, cursor or b"0", count=count).at(at.slot).map(page_of)


def _read_promises(keyspaces: Keyspaces, at: Keyspace, cursor: bytes, count: int) -> Command[_Page]:
    def page_of(found: tuple[list[tuple[Keyspace, str]], _Cursor]) -> _Page:
        return [(id, None) for _, id in found[0]], found[1]

    return _scan(keyspaces, at, "promise:", cursor, count=5 * count).map(page_of)


def _read_begun_so(keyspaces: Keyspaces, at: Keyspace, prefix: str, cursor: bytes, _count: int) -> Command[_Page]:
    def page_of(found: tuple[list[tuple[Keyspace, str]], _Cursor]) -> _Page:
        return [(f"{prefix}{rest}", None) for _, rest in found[0]], found[1]

    return _scan(keyspaces, at, f"promise:{prefix}", cursor).map(page_of)


def _read_halted(keys: Keyspace, cursor: bytes, count: int = PAGE) -> Command[_Page]:
    return _by_score(keys.halted, cursor, count, lambda members: [(member, None) for member, _ in members])


def _read_parked(keys: Keyspace, name: str, cursor: bytes, count: int) -> Command[_Page]:
    return _by_score(keys.limit(name), cursor, count, lambda members: [(member, None) for member, _ in members])


def _read_timers(keys: Keyspace, statuses: Collection[str], cursor: bytes, count: int) -> Command[_Page]:
    def owners(members: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int | None]]:
        for member, due_ms in members:
            id, _, what = member.rpartition("~")
            status = "delayed" if what in ("start", "retry") else "suspended"
            if id and is_known_timer(what) and what not in ("cron", *_MESSAGES) and status in statuses:
                yield id, None if what == "timeout" else due_ms

    return _by_score(keys.timers, cursor, count, owners)


def is_message(timer: str) -> bool:
    """Whether a timer only brings a message to another partition, or lets a gate be opened: nobody waits for it."""
    return timer.endswith(_ENDINGS)


def is_known_timer(what: str) -> bool:
    """Whether this version knows the part after the ``~`` of a timer; if not, the timer waits for a newer version."""
    return what in (*_TIMERS, *_MESSAGES) or re.fullmatch(r"\d[\d.]*", what) is not None


def _by_score(
    key: str, cursor: bytes, count: int, ids: Callable[[list[tuple[str, int]]], Iterable[tuple[str, int | None]]]
) -> Command[_Page]:
    """A page of a sorted set. The cursor is a score and how many of that score were read: members that leave do not
    shift it.
    """
    score, _, offset = (cursor or b"-inf 0").partition(b" ")

    def page_of(rows: list[tuple[bytes, bytes]]) -> _Page:
        members = [(to_text(member), int(float(value))) for member, value in rows]
        if len(rows) < count:
            return list(ids(members)), None
        last = rows[-1][1]
        same = sum(value == last for _, value in rows)
        return list(ids(members)), b"%b %d" % (last, same + (int(offset) if last == score else 0))

    return sorted_sets.read_page(key, score, int(offset), count=count).map(page_of)


def _read_queue(keys: Keyspace, queue: str, cursor: bytes, count: int) -> Command[_Page]:
    read = streams.list_entries(keys.queue(queue).encode(), after=cursor, count=count)
    return read.map(lambda rows: _ids_in(rows, count))


def _read_endings(key: str, cursor: bytes, count: int) -> Command[_Page]:
    """The latest endings first; those of one entry ended in one call."""

    def page_of(rows: streams.Rows) -> _Page:
        return _ids_in([(entry, fields[::-1]) for entry, fields in rows], count, name_at=1)

    return streams.list_latest(key.encode(), before=cursor, count=count).map(page_of)


def _ids_in(rows: streams.Rows, count: int, *, name_at: int = 0) -> _Page:
    """The ids that some entries name. In each pair of fields the name is the first or, read backwards, the second."""
    named = [field for _, fields in rows for field in zip(fields[name_at::2], fields[1 - name_at :: 2], strict=True)]
    found = [to_text(value) for name, value in named if name == b"i"]
    return [(id, None) for id in found if id], rows[-1][0] if rows and len(rows) == count else None


# -- timers ------------------------------------------------------------------


def timers(keyspaces: Keyspaces, limit: int = 20, *, since_ms: int | None = None) -> Plan[Timers]:
    """The next due items, soonest first; none that was due before an instant in ms since 1970."""
    if not 1 <= limit <= TIMERS_MAX:
        raise UsageError(f"limit {limit}: 1 to {TIMERS_MAX} timers can be shown")

    first = yield from _first_due(keyspaces, limit, b"-inf" if since_ms is None else b"%d" % since_ms)
    totals = yield [sorted_sets.count_members(keys.timers) for keys in keyspaces]
    wanted: list[Call] = []
    for _, member, keys in first:
        wanted += _about(keys, member)
    answers = iter((yield wanted) if wanted else ())
    found = Timers(_timer(member, due_ms, next(answers), next(answers)) for due_ms, member, _ in first)
    found.total = max(len(found), sum([unwrap(total) for total in totals]))
    return found


def _first_due(keyspaces: Keyspaces, limit: int, since: bytes) -> Plan[list[tuple[int, str, Keyspace]]]:
    """Each due item with its partition, soonest first. What is sent between partitions is no item, but stands among
    them: a partition is read further while it hides others.
    """
    found: list[tuple[int, str, Keyspace]] = []
    left, count = list(keyspaces), limit
    while left:
        pages = yield [sorted_sets.list_members(keys.timers, since=since, count=count) for keys in left]
        scheduled = yield [
            sorted_sets.list_members(keys.schedules, since=since, until=b"(%d" % DUE_MS_MAX, count=limit)
            for keys in left
        ]
        again: list[Keyspace] = []
        for keys, page, names in zip(left, pages, scheduled, strict=True):
            items = [(due_ms, member, keys) for member, due_ms in unwrap(page) if not is_message(member)]
            items += [(due_ms, f"{name}~cron", keys) for name, due_ms in unwrap(names)]
            if len(items) < limit and len(page) == count < MESSAGES_PASSED_MAX:
                again.append(keys)
            else:
                found += items
        left, count = again, 4 * count
    return sorted(found, key=lambda one: one[:2])[:limit]


def _about(keys: Keyspace, member: str) -> tuple[Call, Call]:
    """The reads that explain a member of the timers: its owner or schedule, and its entry if it has one."""
    id, _, what = member.rpartition("~")
    entry = journal.read_entry(keys, PromiseId(id), what)
    if what == "cron":
        return schedules.read_schedule(keys, id), entry
    return journal.read_record(keys, PromiseId(id), outline=True), entry


def _times_of(schedule: schedules.Schedule) -> str:
    """When a schedule starts executions, in words."""
    try:
        spec = schedule.spec
    except UsageError:  # only a newer version can read it
        return f"{schedule.cron} {schedule.zone}"
    return (
        f"every {humanize.describe_ms(spec.every_ms)}" if spec.every_ms else f"{'; '.join(spec.lines)} {schedule.zone}"
    )


def _timer(member: str, due_ms: int, owner: Any, entry: Any) -> DueItem:
    id, _, what = member.rpartition("~")
    if what[:1].isdigit():
        kind, name = (entry.kind.value, entry.name) if isinstance(entry, Entry) else ("timer", "")
        return DueItem(member, kind, name, owner.function if isinstance(owner, PromiseRecord) else None, due_ms)
    if isinstance(owner, PromiseRecord) and owner.kind is not Kind.EXECUTION:
        return DueItem(id, owner.kind.value, "", None, due_ms)
    kind = "deadline" if what == "timeout" else what
    if isinstance(owner, schedules.Schedule):
        return DueItem(id, kind, _times_of(owner), owner.function, due_ms)
    return DueItem(id, kind, "", owner.function if isinstance(owner, PromiseRecord) else None, due_ms)
