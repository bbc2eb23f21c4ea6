"""What is read from Redis as it is, with no I/O: commands, and plans of several that build on one another.

A ``Plan`` yields calls that may go together and is sent their answers, in order; an answer may be the error
of that call alone (see ``value_of``). The async and the sync store each carry plans out in their own way.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from durasleep.errors import CorruptData, DurasleepError, StoreError
from durasleep.model import Entry, Kind, Number, Place, PromiseId, State
from durasleep.store.commands import (
    KIND_OF,
    PLACE_OF,
    STATE_OF,
    Call,
    Command,
    pairs,
    parse_entry,
    to_number,
    to_text,
)
from durasleep.store.keys import LIMIT, F, Keyspace

T = TypeVar("T")
Plan = Generator[Sequence[Call], list[Any], T]

PAGES_MAX = 1_000  # of one journal: far above its cap


def value_of(answer: T | DurasleepError) -> T:
    """The answer to a call of a plan, or raise the error it is."""
    if isinstance(answer, DurasleepError):
        raise answer
    return answer


_HEAD = (
    "state",
    "kind",
    "func",
    "queue",
    "args",
    "birth",
    "created",
    "place",
    "epoch",
    "entry",
    "due",
    "deadline",
    "reason",
    "deaths",
    "order",
    "base",
    "begun",
    "unseen",
    "value",
    "settled",
)
_INNER = ("args", "epoch", "deaths", "order", "base", "unseen", "value")
_OUTLINE = tuple(name for name in _HEAD if name not in _INNER)


@dataclass(frozen=True, slots=True)
class Head:
    """A promise hash without its journal."""

    id: PromiseId
    state: State
    kind: Kind
    function: str
    queue: str
    args: bytes
    birth: int
    created_ms: int
    place: Place | None
    epoch: int
    entry: str
    due_ms: int
    deadline_ms: int
    reason: str
    deaths: int
    order: int
    base: int
    """The last root number of the runs before this one."""
    begun_ms: int
    """When this run began: at its creation, or at the last continue_as_new."""
    unseen: frozenset[str]
    """Numbers of what has settled since the last commit."""
    value: bytes
    settled_ms: int


@dataclass(slots=True)
class Loaded:
    """A promise with its journal, read in pages: ``cursor`` is where the next page begins, b"0" at the end."""

    head: Head
    entries: dict[Number, Entry] = field(default_factory=dict[Number, Entry])
    cursor: bytes = b"0"


def read_head(keys: Keyspace, id: PromiseId, *, outline: bool = False) -> Command[Head | None]:
    """A promise without its journal; None if there is none, CorruptData if the hash is not one of ours.

    An ``outline`` is without arguments and value, which may be large, and without what only a worker needs.
    """
    names = _OUTLINE if outline else _HEAD

    def parse(values: list[Any]) -> Head | None:
        v: dict[str, bytes | None] = dict.fromkeys(_INNER) | dict(zip(names, values, strict=True))
        if v["state"] is None:
            return None
        try:
            return Head(
                id=id,
                state=STATE_OF[v["state"]],
                kind=KIND_OF[v["kind"] or b""],
                function=to_text(v["func"]),
                queue=to_text(v["queue"]),
                args=v["args"] or b"",
                birth=to_number(v["birth"]),
                created_ms=to_number(v["created"] or v["birth"]),
                place=PLACE_OF.get(v["place"] or b""),
                epoch=to_number(v["epoch"]),
                entry=to_text(v["entry"]),
                due_ms=to_number(v["due"]),
                deadline_ms=to_number(v["deadline"]),
                reason=to_text(v["reason"]),
                deaths=to_number(v["deaths"]),
                order=to_number(v["order"]),
                base=to_number(v["base"]),
                begun_ms=to_number(v["begun"] or v["created"] or v["birth"]),
                unseen=frozenset(to_text(v["unseen"]).split()),
                value=v["value"] or b"",
                settled_ms=to_number(v["settled"]),
            )
        except (KeyError, ValueError) as error:
            raise CorruptData(f"the hash of {id} is not one of ours: {error}") from None

    return Command([b"HMGET", keys.promise(id).encode(), *(F[name].encode() for name in names)], parse)


def read_journal(keys: Keyspace, id: PromiseId, cursor: bytes = b"0") -> Command[tuple[bytes, list[Entry]]]:
    """One page of a journal and the cursor of the next. What settles between pages is sorted out by its stamp."""

    def parse(page: list[Any]) -> tuple[bytes, list[Entry]]:
        after, fields = page
        return after, [parse_entry(name, raw) for name, raw in pairs(fields) if name[:1].isdigit()]

    count = b"%d" % LIMIT["answer_entries_max"]
    return Command([b"HSCAN", keys.promise(id).encode(), cursor, b"COUNT", count], parse)


def read_entry(keys: Keyspace, owner: PromiseId, number: str) -> Command[Entry | None]:
    """One entry of a journal; None if there is none."""
    field = number.encode()
    return Command(
        [b"HGET", keys.promise(owner).encode(), field], lambda raw: None if raw is None else parse_entry(field, raw)
    )


def read_holder(keys: Keyspace, queue: str, entry: str) -> Command[str | None]:
    """The consumer a stream entry is pending to, or None."""
    group = queue.partition("/")[0].encode()
    where = entry.encode()
    return Command(
        [b"XPENDING", keys.queue(queue).encode(), group, where, where, b"1"],
        lambda rows: to_text(rows[0][1]) if rows else None,
    )


def read_consumers(keys: Keyspace, group: str) -> Command[list[str]]:
    """The consumers of a group, dead ones not yet reaped included; empty if nobody ever served it."""

    def parse(rows: list[Any]) -> list[str]:
        return [to_text(dict(pairs(row))[b"name"]) for row in rows]

    return Command([b"XINFO", b"CONSUMERS", keys.queue(group).encode(), group.encode()], parse)


def read_beat(keys: Keyspace, consumer: str) -> Command[int | None]:
    """When a worker last beat, in ms of the server's clock; None for one that has left."""
    return Command(
        [b"ZSCORE", keys.workers.encode(), consumer.encode()],
        lambda score: None if score is None else int(float(score)),
    )


def now_ms(keys: Keyspace) -> Plan[int]:
    """The server's clock, as the scripts see it."""
    ask: list[Call] = [Command([b"TIME"], lambda time: int(time[0]) * 1000 + int(time[1]) // 1000)]
    if keys.movable_clock:
        ask.append(Command([b"GET", keys.clock.encode()], lambda moved: int(moved or 0)))
    answers = yield ask
    return sum(map(value_of, answers))


def load(keys: Keyspace, id: PromiseId) -> Plan[Loaded | None]:
    """A promise and its journal as of one order stamp, in pages of bounded size; None if there is none."""
    head, page = yield [read_head(keys, id), read_journal(keys, id)]
    if value_of(head) is None:
        return None
    loaded = Loaded(head)
    _merge(loaded, value_of(page))
    for _ in range(PAGES_MAX):
        if loaded.cursor == b"0":
            return loaded
        [page] = yield [read_journal(keys, id, loaded.cursor)]
        _merge(loaded, value_of(page))
    raise StoreError(f"the journal of {id} does not end")


def _merge(loaded: Loaded, page: tuple[bytes, list[Entry]]) -> None:
    """Add a page; what settled after the head was read is left pending: a commit's answer will bring it."""
    loaded.cursor, entries = page
    for entry in entries:
        if entry.stamp <= loaded.head.order:
            loaded.entries[entry.number] = entry
        elif entry.kind not in (Kind.STEP, Kind.TRANSACTION, Kind.CANCEL):  # these have no pending state
            loaded.entries[entry.number] = replace(entry, state=State.PENDING, stamp=0, payload=b"")
