"""Records of promises and of their journals, and the pages in which they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from durasleep.errors import CorruptData, StoreError
from durasleep.model import Entry, Kind, Number, Place, PromiseId, State
from durasleep.protocol import command, commit
from durasleep.protocol.command import (
    KIND_OF,
    PLACE_OF,
    STATE_OF,
    BatchItem,
    Command,
    Plan,
    check_code,
    to_number,
    to_text,
    unwrap,
)
from durasleep.protocol.entry import parse_entry
from durasleep.protocol.keys import DEFAULT, LIMIT, F, Keyspace

_SNAPSHOT_BYTES_MAX = LIMIT["snapshot_bytes_max"]
PAGES_MAX = 1_000  # of one journal: far above its cap


class PromiseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A promise hash without its journal; missing fields have their defaults."""

    id: PromiseId
    kind: Kind
    incarnation: int
    created_ms: int
    begun_ms: int
    """When this run began: at its creation, or at the last continue_as_new."""
    state: State = State.PENDING
    function: str = ""
    queue: str = ""
    args: bytes = b""
    place: Place | None = None
    epoch: int = 0
    entry: str = ""
    due_ms: int = 0
    deadline_ms: int = 0
    reason: str = ""
    crash_count: int = 0
    order: int = 0
    base: int = 0
    """The last root number of the earlier runs."""
    unseen: frozenset[str] = frozenset()
    """Numbers of the entries that have settled since the last commit."""
    origins: str = ""
    """Of a fork: whose journal it has, up to which stamps."""
    value: bytes = b""
    settled_ms: int = 0
    labels: str = ""
    """See ``traits.write_labels``."""
    trace: str = ""
    """The span that asked for it, and after a space the one in which it goes on, see ``observe.tracing``."""
    limit: str = ""
    """Its limit and key, see ``keys.F``."""
    receives: str = ""
    """The numbers and channels of its receives that wait, a line each, see ``channels``."""
    extras: str = ""
    """What stands beside it, by letters, see ``keys.F``."""

    @property
    def channels(self) -> list[str]:
        """The channels on which it waits for a message, each once."""
        return list(dict.fromkeys(line.partition("\t")[2] for line in self.receives.splitlines()))

    @property
    def has_mailbox(self) -> bool:
        """Whether it has ever been sent a message that its code did not wait for."""
        return "m" in self.extras

    @property
    def limit_name(self) -> str:
        """The name of its limit; empty without one."""
        return self.limit[1:].partition("/")[0]

    @property
    def limit_key(self) -> str:
        """Its key there; empty if the limit counts all together."""
        return self.limit.partition("/")[2]


_NO_NUMBERS: frozenset[str] = frozenset()


def _numbers(text: bytes) -> frozenset[str]:
    return frozenset(text.decode(errors="replace").split())


_FIELDS: tuple[tuple[str, str, Callable[[bytes], Any]], ...] = (
    ("state", "state", STATE_OF.__getitem__),
    ("kind", "kind", KIND_OF.__getitem__),
    ("func", "function", to_text),
    ("queue", "queue", to_text),
    ("args", "args", bytes),
    ("incarnation", "incarnation", int),
    ("created", "created_ms", int),
    ("place", "place", PLACE_OF.__getitem__),
    ("epoch", "epoch", int),
    ("entry", "entry", to_text),
    ("due", "due_ms", to_number),
    ("deadline", "deadline_ms", to_number),
    ("reason", "reason", to_text),
    ("crash_count", "crash_count", int),
    ("order", "order", int),
    ("base", "base", int),
    ("begun", "begun_ms", int),
    ("unseen", "unseen", _numbers),
    ("origins", "origins", to_text),
    ("value", "value", bytes),
    ("settled", "settled_ms", int),
    ("labels", "labels", to_text),
    ("trace", "trace", to_text),
    ("trace_now", "trace_now", to_text),
    ("limit", "limit", to_text),
    ("receives", "receives", to_text),
    ("extras", "extras", to_text),
)
_READ: dict[bytes, tuple[str, Callable[[bytes], Any]]] = {
    F[name].encode(): (attribute, read) for name, attribute, read in _FIELDS
}
"""For each hash field: its attribute in the record, and how to read it."""
_PARTS = tuple(f"{F['args']}{n}".encode() for n in range(1, LIMIT["args_parts_max"]))
_PARTED_BYTES_MAX = LIMIT["args_parts_max"] * LIMIT["args_part_bytes"]
_RECORD = (*_READ, *_PARTS)
_WORKERS = ("args", "epoch", "crash_count", "order", "base", "unseen", "origins", "value", "trace", "trace_now")
_INNER = {F[name].encode() for name in _WORKERS}
_OUTLINE = tuple(name for name in _READ if name not in _INNER)
_STATE = F["state"].encode()
_BIRTH = F["incarnation"].encode()
_CHECKPOINT_0, _CHECKPOINT_END = (F["checkpoint"].encode() + end for end in (b"0", b":"))


class Loaded(msgspec.Struct):
    """A promise with its journal."""

    record: PromiseRecord
    entries: dict[Number, Entry] = {}
    checkpoints: dict[str, bytes] = {}
    """What steps have kept for their next attempts, by the numbers of their first ones."""


class Page(msgspec.Struct):
    """A part of a promise. The first one has the record, None if there is no promise; ``cursor`` is b"" at the end."""

    record: PromiseRecord | None
    entries: list[Entry]
    cursor: bytes
    checkpoints: dict[str, bytes] = {}
    """See ``Loaded.checkpoints``."""


def read_record(keys: Keyspace, id: PromiseId, *, outline: bool = False) -> Command[PromiseRecord | None]:
    """A promise without its journal; None if there is none, CorruptData if the hash is not one of ours.

    An ``outline`` lacks the arguments and the value, which may be large, and the fields that only a worker needs.
    """
    names = _OUTLINE if outline else _RECORD

    def parse(values: list[bytes | None]) -> PromiseRecord | None:
        known = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        return _record_of(id, known)

    return Command([b"HMGET", keys.promise(id).encode(), *names], parse)


def _record_of(id: PromiseId, known: Mapping[bytes, bytes]) -> PromiseRecord | None:
    """A record from the fields of its hash."""
    if _BIRTH not in known and _STATE not in known:
        return None
    if _PARTS[0] in known and sum([len(known.get(name, b"")) for name in _PARTS]) > _PARTED_BYTES_MAX:
        raise CorruptData(f"the hash of {id} is not one of ours: its arguments are in parts that are too large")
    try:
        values: dict[str, Any] = {}
        for name, raw in known.items():
            if field := _READ.get(name):
                values[field[0]] = field[1](raw)
        if _PARTS[0] in known:
            values["args"] += b"".join([known[name] for name in _PARTS if name in known])
        if values.setdefault("kind", Kind.EXECUTION) is Kind.EXECUTION:
            values.setdefault("queue", DEFAULT["queue"])
        if "trace_now" in values:
            values["trace"] = f"{values.get('trace', '')} {values.pop('trace_now')}"
        created_ms = values.setdefault("created_ms", values["incarnation"])
        values.setdefault("begun_ms", created_ms)
        return PromiseRecord(id=id, **values)
    except (KeyError, ValueError, TypeError) as error:
        for name, codes in (("state", STATE_OF), ("kind", KIND_OF), ("place", PLACE_OF)):
            check_code(codes, known.get(F[name].encode()), f"the {name} of {id}")
        raise CorruptData(f"the hash of {id} is not one of ours: {error}") from None


def read_page(keys: Keyspace, id: PromiseId, cursor: bytes = b"0", *, unseen_only: bool = False) -> BatchItem[Page]:
    """One page of a promise, of bounded size. Stamps show which entries settled between two pages.

    With ``unseen_only`` it has only the entries that have settled since the last commit; the cursor is not b"" if these
    are too many for one page.
    """
    to = command.route("read_page", keys)

    def parse(answer: list[bytes]) -> Page:
        *fields, after = answer
        known = dict(zip(fields[::2], fields[1::2], strict=True))
        entries: list[Entry] = []
        checkpoints: dict[str, bytes] = {}
        for name, value in known.items():
            if b"0" <= name < b":":  # a number
                entries.append(parse_entry(name, value))
            elif _CHECKPOINT_0 <= name < _CHECKPOINT_END:
                checkpoints[name[1:].decode()] = value
        return Page(_record_of(id, known) if cursor == b"0" else None, entries, after, checkpoints)

    return BatchItem(to, to.script.item(id=id, cursor=cursor, what="unseen" if unseen_only else ""), parse)


class RawPage(msgspec.Struct):
    """A page as it is stored: fields and values."""

    fields: dict[bytes, bytes]
    cursor: bytes


def read_raw_page(keys: Keyspace, id: PromiseId, cursor: bytes = b"0") -> BatchItem[RawPage]:
    """One page of a promise, as ``read_page``, with its entries as they are stored."""
    to = command.route("read_page", keys)

    def parse(answer: list[bytes]) -> RawPage:
        *fields, after = answer
        return RawPage(dict(zip(fields[::2], fields[1::2], strict=True)), after)

    return BatchItem(to, to.script.item(id=id, cursor=cursor, what=""), parse)


def record_of(id: PromiseId, page: RawPage) -> PromiseRecord | None:
    """The promise of the first page; None if there is none."""
    return _record_of(id, page.fields)


def read_outcome(keys: Keyspace, id: PromiseId) -> BatchItem[PromiseRecord | None]:
    """A promise without its journal, with its value; None if there is none."""
    to = command.route("read_page", keys)

    def parse(answer: list[bytes]) -> PromiseRecord | None:
        return _record_of(id, dict(zip(answer[:-1:2], answer[1:-1:2], strict=True)))

    return BatchItem(to, to.script.item(id=id, cursor=b"0", what="record"), parse)


def read_halted_at(keys: Keyspace, id: PromiseId) -> Command[int | None]:
    """When it was halted, in ms; None if it is not."""
    return Command(
        [b"ZSCORE", keys.halted.encode(), id.encode()], lambda score: None if score is None else int(float(score))
    )


def read_retention(keys: Keyspace, id: PromiseId) -> Command[str]:
    """How long the family of a root is kept, as it is stored; empty for the default."""
    return Command([b"HGET", keys.promise(id).encode(), F["retention"].encode()], to_text)


def read_value(keys: Keyspace, id: PromiseId) -> Command[bytes | None]:
    """The value with which a promise has settled; None if it is pending or there is none."""
    return Command([b"HGET", keys.promise(id).encode(), F["value"].encode()], lambda value: value)


def read_entry(keys: Keyspace, owner: PromiseId, number: str) -> Command[Entry | None]:
    """One entry of a journal; None if there is none."""
    field = number.encode()
    return Command(
        [b"HGET", keys.promise(owner).encode(), field], lambda raw: None if raw is None else parse_entry(field, raw)
    )


def load(keys: Keyspace, id: PromiseId) -> Plan[Loaded | None]:
    """A promise and its journal as of one order stamp, in pages of bounded size; None if there is none."""
    [answer] = yield [read_page(keys, id)]
    return (yield from load_rest(keys, id, unwrap(answer)))


def load_rest(keys: Keyspace, id: PromiseId, page: Page) -> Plan[Loaded | None]:
    """The same, from the first page on."""
    loaded: Loaded | None = None
    left = keys.journal_bytes_max
    for _ in range(PAGES_MAX):
        left -= sum([len(entry.payload) for entry in page.entries]) + sum(map(len, page.checkpoints.values()))
        if left < 0:
            raise CorruptData(f"the journal of {id} carries more than {keys.journal_bytes_max:,} bytes")
        if loaded is None and page.record is not None:
            loaded = Loaded(page.record)
        if loaded is not None:
            _merge(loaded, page.entries)
            loaded.checkpoints |= page.checkpoints
        if not page.cursor:
            return loaded
        [answer] = yield [read_page(keys, id, page.cursor)]
        page = unwrap(answer)
    raise StoreError(f"the journal of {id} does not end")


def read_snapshot(lease: commit.Lease) -> Loaded | None:
    """The execution as the entry of its lease shows it (see ``write_snapshot`` of the scripts), the same that ``load``
    would have found at its dispatch. None if the entry has no snapshot, or not in our format: then it must be loaded.
    """
    snapshot = lease.snapshot
    if not snapshot or len(snapshot) > _SNAPSHOT_BYTES_MAX:
        return None
    line, _, body = snapshot.partition(b"\n")
    try:
        incarnation, created, begun, base, order, unseen, args_size, *sizes = line.split(b"\t")
        incarnation_ms = int(incarnation)
        created_ms = int(created) if created else incarnation_ms
        deadline_ms = int(sizes.pop()) if len(sizes) % 2 else 0
        end = int(args_size)
        args = body[:end]
        entries: dict[Number, Entry] = {}
        for at in range(0, len(sizes), 2):
            start, end = end, end + int(sizes[at + 1])
            entry = parse_entry(sizes[at], body[start:end])
            entries[entry.number] = entry
        record = PromiseRecord(
            id=lease.id,
            kind=Kind.EXECUTION,
            incarnation=incarnation_ms,
            created_ms=created_ms,
            begun_ms=int(begun) if begun else created_ms,
            function=body[end:].decode(),
            queue=lease.queue,
            args=args,
            place=Place.QUEUED,
            epoch=lease.epoch,
            entry=lease.entry,
            deadline_ms=deadline_ms,
            order=int(order) if order else 0,
            base=int(base) if base else 0,
            unseen=_numbers(unseen) if unseen else _NO_NUMBERS,
            labels=lease.labels,
            trace=lease.trace,
        )
    except (ValueError, IndexError, CorruptData):
        return None
    return Loaded(record, entries)


def loaded_of(record: PromiseRecord, page: Page) -> Loaded:
    """The same, if one page has all of it."""
    loaded = Loaded(record, checkpoints=page.checkpoints)
    _merge(loaded, page.entries)
    return loaded


def _merge(loaded: Loaded, entries: Sequence[Entry]) -> None:
    """Add a page. An entry that settled after the record was read is left pending: a commit's answer will bring it."""
    for entry in entries:
        if entry.stamp <= loaded.record.order:
            loaded.entries[entry.number] = entry
        elif entry.kind not in (Kind.STEP, Kind.TRANSACTION, Kind.CANCEL):  # these have no pending state
            loaded.entries[entry.number] = msgspec.structs.replace(entry, state=State.PENDING, stamp=0, payload=b"")
