"""Forking: a new execution with the part of a journal that comes before a step, so that it goes on from there.

The part is everything that had settled before the step did. It is a beginning of the history: the code, replayed over
it, is where it was when it waited for the step. What was pending then is asked for anew: a sleep begins again, a child
is started again, and an execution with an id of its own is attached to. Before its end, that is all that had settled
when it ended or was halted: so corrected code goes on where the code was that failed.

What the code has drawn by ``ctx.random()`` and ``ctx.uuid()`` up to there must be the same again, and depends on the id
of the execution. So a fork keeps its ``origins``: lines of a stamp, the incarnation and the id of the execution that
drew until then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from durasleep.errors import CorruptData, NotAllowed, NotFound, StoreError
from durasleep.model import CANCEL, Entry, Kind, Number, Place, PromiseId, State, check_id, check_new_id
from durasleep.protocol import command, grafting, journal
from durasleep.protocol.command import Plan
from durasleep.protocol.entry import parse_entry
from durasleep.protocol.grafting import Fork, Standing
from durasleep.protocol.journal import PromiseRecord
from durasleep.protocol.keys import LIMIT, Keyspace

NAMED_MAX = 5  # steps in one sentence
ORIGINS_MAX = 16  # forks of forks
END = "end"
_MARKS = (Kind.PATCH, Kind.VERSION)
_HEAD = re.compile(rb"[a-z][a-z]\t\d*\t(\d*)\t")


@dataclass(frozen=True, slots=True)
class Forked:
    """What ``fork`` has done."""

    is_new: bool
    """Whether it was made now; else it had been made before."""
    copied: int
    """How many entries of the journal it has."""


@dataclass(frozen=True, slots=True)
class _Source:
    record: PromiseRecord
    retention: str
    entries: dict[Number, tuple[Entry, bytes]]
    """Each entry, also as it is stored."""


def fork(keys_of: Callable[[str], Keyspace], id: str, new_id: str, before: str | int) -> Plan[Forked]:
    """Make ``new_id`` of what ``id`` had done before a step, or go on with making it."""
    source = yield from _read(keys_of(check_id(id)), PromiseId(id))
    record = source.record
    number = END if before == END else _find(source, str(before))
    copied, order = _settled(source, _end_of(source) if before == END else _stamp_of(source, Number(number)))
    identity = f"{record.incarnation} {record.begun_ms} {number} {id}"
    made = Fork(
        check_new_id(new_id),
        f"fork {identity}",
        f"it is being made as a fork of {id} before {number}: repeat `durasleep fork {id} {new_id} --before {number}`, "
        "or cancel it",
    )
    keys = keys_of(new_id)
    [standing] = yield [
        grafting.begin(
            keys,
            made,
            function=record.function,
            queue=record.queue,
            args=record.args,
            begun_ms=record.begun_ms,
            base=record.base,
            lasts_ms=record.deadline_ms - record.created_ms if record.deadline_ms else None,
            retention=source.retention,
            origins=_origins(record, max(order, record.begun_ms)),
            labels=record.labels,
            limit=record.limit[1:],
        )
    ]
    is_new = command.unwrap(standing) is Standing.BEGUN
    if is_new:
        for part, last in _parts(copied):
            [standing] = yield [grafting.add_entries(keys, made, part, order=last)]
            command.unwrap(standing)
        [standing] = yield [grafting.end(keys, made)]
        command.unwrap(standing)
    return Forked(is_new, len(copied))


def _read(keys: Keyspace, id: PromiseId) -> Plan[_Source]:
    """An execution as it was when the first page was read. Later pages may show more: that is left out."""
    record: PromiseRecord | None = None
    fields: dict[bytes, bytes] = {}
    cursor, pages = b"0", 0
    while cursor:
        [answer] = yield [journal.read_raw_page(keys, id, cursor)]
        page = command.unwrap(answer)
        record = record or journal.record_of(id, page)
        if record is None or record.kind is not Kind.EXECUTION:
            raise NotFound(f"there is no execution {id}")
        fields |= page.fields
        cursor, pages = page.cursor, pages + 1
        if sum(map(len, fields.values())) > keys.journal_bytes_max or pages > journal.PAGES_MAX:
            raise CorruptData(f"the journal of {id} carries more than {keys.journal_bytes_max:,} bytes")
    assert record is not None, "there is at least one page"
    if pages > 1:
        [answer] = yield [journal.read_record(keys, id, outline=True)]
        now = command.unwrap(answer)
        if now is None or (now.incarnation, now.begun_ms) != (record.incarnation, record.begun_ms):
            raise StoreError(f"{id} began anew while its journal was read: nothing was forked, try it again")
    retention = yield from _retention(keys, id)
    raws = {name: raw for name, raw in fields.items() if name[:1].isdigit()}
    entries = [(parse_entry(name, raw), raw) for name, raw in raws.items()]
    return _Source(record, retention, {entry.number: (entry, raw) for entry, raw in entries})


def _retention(keys: Keyspace, id: PromiseId) -> Plan[str]:
    [answer] = yield [journal.read_retention(keys, PromiseId(id.partition("~")[0]))]
    return command.unwrap(answer)


def _find(source: _Source, before: str) -> Number:
    """The number of the step, which is named by it, by its id, or by the name of its function; or of the cancel."""
    id, entries = source.record.id, source.entries
    number = CANCEL if before == "cancel" else Number(before.removeprefix(f"{id}~"))
    if number in entries:
        return number
    named = [entry for entry, _ in entries.values() if _is_called(entry, before) and not _is_further(entry, entries)]
    if not named:
        raise NotFound(f"the journal of {id} has no {before}: nothing was forked")
    if len(named) > 1:
        numbers = [entry.number for entry in sorted(named, key=lambda entry: _order(entry.number))]
        more = f" and {len(named) - NAMED_MAX} more" if len(named) > NAMED_MAX else ""
        raise NotAllowed(
            f"{id} has called {before} {len(named)} times, so say which by its number: "
            f"{', '.join(numbers[:NAMED_MAX])}{more}"
        )
    return named[0].number


def _is_called(entry: Entry, name: str) -> bool:
    return entry.kind not in _MARKS and bool(entry.name) and name in (entry.name, entry.name.rpartition(".")[2])


def _is_further(entry: Entry, entries: dict[Number, tuple[Entry, bytes]]) -> bool:
    """Whether it is a further attempt of a step: entry n.2 of step n."""
    first, _, _ = entry.number.rpartition(".")
    return bool(first) and Number(first) in entries and entries[Number(first)][0].kind is Kind.STEP


def _order(number: str) -> tuple[int, ...]:
    return tuple(map(int, number.split(".")))


def _stamp_of(source: _Source, number: Number) -> int:
    """The stamp with which this entry settled, or that of a next one if it is pending."""
    cut, _ = source.entries[number]
    if cut.state is not State.PENDING and not cut.stamp:
        what = "was canceled by the workflow itself" if cut.state is State.CANCELED else f"is a {cut.kind.value}"
        raise NotAllowed(
            f"{source.record.id}~{number} {what}: fork before a call that has settled or is pending, or before 'cancel'"
        )
    return cut.stamp or source.record.order + 1


def _end_of(source: _Source) -> int:
    """The stamp after all others. While its code goes on, this is no end: a repeated call would copy more than the
    first one.
    """
    record = source.record
    if record.state is State.PENDING and record.place is not Place.HALTED:
        raise NotAllowed(f"{record.id} has not ended: fork before one of its steps, or halt it first")
    return record.order + 1


def _settled(source: _Source, until: int) -> tuple[list[tuple[Entry, bytes]], int]:
    """The entries that had settled before this stamp, in the order of their stamps, and the last stamp; the marks,
    which say which code the execution runs, come first.
    """
    settled = [
        one
        for one in source.entries.values()
        if one[0].state is not State.PENDING and 0 < one[0].stamp < until and one[0].stamp <= source.record.order
    ]
    settled.sort(key=lambda one: one[0].stamp)
    marks = [one for one in source.entries.values() if one[0].kind in _MARKS]
    return [*marks, *settled], settled[-1][0].stamp if settled else 0


def _parts(copied: list[tuple[Entry, bytes]]) -> Iterator[tuple[list[tuple[bytes, bytes]], int]]:
    """The entries in parts of bounded size, each with its last stamp."""
    part: list[tuple[bytes, bytes]] = []
    size = last = 0
    for entry, raw in copied:
        stored = _without_beginning(raw)
        is_full = len(part) >= LIMIT["answer_entries_max"] or size + len(stored) > LIMIT["answer_bytes_max"]
        if part and is_full:
            yield part, last
            part, size = [], 0
        part.append((entry.number.encode(), stored))
        size += len(stored)
        last = max(last, entry.stamp)
    if part:
        yield part, last


def _without_beginning(raw: bytes) -> bytes:
    """A settled entry without the time at which it began: that counts from the incarnation of its execution."""
    match = _HEAD.match(raw)
    assert match is not None, "it was parsed before"
    return raw[: match.start(1)] + raw[match.end(1) :]


def _origins(record: PromiseRecord, until: int) -> str:
    """Who has drawn the random numbers of a fork up to each stamp."""
    lines = [line for line in record.origins.split("\n") if line]
    if len(lines) >= ORIGINS_MAX:
        raise NotAllowed(f"{record.id} is a fork of a fork, {ORIGINS_MAX} times: fork one of its origins")
    return "\n".join([*lines, f"{until} {record.incarnation} {record.id}"])
