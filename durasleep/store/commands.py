"""Commands built and answers parsed, with no I/O: what the async and the sync store share.

An ``Item`` may travel with others of its script in one EVALSHA; a ``Command`` goes as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from durasleep import errors
from durasleep.model import (
    CancelEntry,
    Disposition,
    Due,
    Entry,
    Kind,
    Mark,
    Number,
    Op,
    Outcome,
    Place,
    PromiseId,
    StartChild,
    StartPromise,
    StartTimer,
    State,
    StepResult,
    Transaction,
)
from durasleep.store import script
from durasleep.store.keys import KIND, LIMIT, PLACE, STATE, F, Keyspace, S
from durasleep.store.script import Script, Value, to_bytes

T = TypeVar("T")

STATE_OF = {code.encode(): state for state, code in STATE.items()}
PLACE_OF = {code.encode(): place for place, code in PLACE.items()}
KIND_OF = {code.encode(): kind for kind, code in KIND.items()}

_ENTRY = re.compile(rb"([a-z])([a-z])\t(\d*)\t(\d*)\t([^\t\n]*)\t([^\t\n]*)\n")
_CODE = re.compile(r"(?:ERR )?(?:user_script:\d+: )?([A-Z][A-Z_]+) ?(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """One call of a batching script: its answer is its own, whatever the others' are."""

    script: Script
    keys: Keyspace
    head: tuple[bytes, ...]
    args: list[bytes]
    parse: Callable[[list[Any]], T]

    def read(self, answer: list[Any]) -> T:
        """The answer, or the error it says."""
        if answer[0] == b"error":
            raise error_of(answer[1])
        return self.parse(answer)


@dataclass(frozen=True, slots=True)
class Command(Generic[T]):
    """One command of Redis, or a script that takes no batch."""

    args: list[bytes]
    parse: Callable[[Any], T]
    script: Script | None = None


def error_of(text: bytes | str) -> errors.DurasleepError:
    """The exception for an error text of a script, ``CODE what happened``."""
    message = text.decode(errors="replace") if isinstance(text, bytes) else text
    if message.endswith("no such key"):  # XINFO of a stream that is not there
        return errors.NotFound(message)
    match = _CODE.match(message)
    return errors.from_code(match[1], match[2]) if match else errors.StoreError(message)


def key_list(keys: Keyspace) -> list[bytes]:
    """KEYS of every script."""
    return [key.encode() for key in keys.named().values()]


def _text(value: bytes | None) -> str:
    return value.decode(errors="replace") if value else ""


def _number(value: bytes | None) -> int:
    return int(value) if value else 0


# -- entries -----------------------------------------------------------------


def parse_entry(number: bytes, raw: bytes) -> Entry:
    """A journal entry as the scripts write it; CorruptData for anything else."""
    match = _ENTRY.match(raw)
    if match is None or match[1] not in KIND_OF or match[2] not in STATE_OF:
        raise errors.CorruptData(f"journal entry {number!r} is not one of ours: {raw[:60]!r}")
    kind, state, stamp, due, name, child_id = match.groups()
    return Entry(
        number=Number(_text(number)),
        kind=KIND_OF[kind],
        state=STATE_OF[state],
        stamp=_number(stamp),
        due_ms=_number(due),
        name=_text(name),
        child_id=_text(child_id),
        payload=raw[match.end() :],
    )


# -- create ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Created:
    """What ``create`` found or made."""

    disposition: Disposition
    state: State
    place: Place | None
    birth: int
    function: str
    value: bytes


def _parse_created(answer: list[Any]) -> Created:
    disposition, state, place, birth, function, value = answer
    return Created(
        Disposition(_text(disposition)), STATE_OF[state], PLACE_OF.get(place), int(birth), _text(function), value
    )


def create(
    keys: Keyspace,
    id: PromiseId,
    *,
    kind: Kind,
    function: str = "",
    queue: str = "",
    args: bytes = b"",
    start: Due | None = None,
    deadline: Due | None = None,
    call: str = "",
    inbox: str = "",
    retention_ms: int | None = None,
) -> Item[Created]:
    """Make an execution or a bare promise, or attach to what has this id."""
    lua = script.load("create")
    item = lua.item(
        id=id,
        kind=KIND[kind],
        func=function,
        queue=queue,
        args=args,
        start=start or "",
        deadline=deadline or "",
        call=call,
        inbox=inbox,
        retention="" if retention_ms in (None, LIMIT["retention_ms"]) else retention_ms,
    )
    return Item(lua, keys, (), item, _parse_created)


def attach(keys: Keyspace, id: PromiseId, *, inbox: str = "") -> Item[Created]:
    """Wait for what has this id, whatever it is; NotFound if nothing has."""
    lua = script.load("create")
    item = lua.item(
        id=id, kind="", func="", queue="", args="", start="", deadline="", call="", inbox=inbox, retention=""
    )
    return Item(lua, keys, (), item, _parse_created)


# -- commit ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lease:
    """An execution as a worker holds it: the stream entry and the epoch it read there are its fence."""

    id: PromiseId
    queue: str
    entry: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Committed:
    """The answer to a commit: ``redrive`` means it is still running, with news."""

    redrive: bool
    more: bool
    entries: list[Entry]


def _parse_committed(answer: list[Any]) -> Committed:
    word, more, *rest = answer
    entries = [parse_entry(number, raw) for number, raw in zip(rest[::2], rest[1::2], strict=True)]
    return Committed(word == b"redrive", more == b"1", entries)


def _op_values(op: Op) -> list[Value]:
    match op:
        case StartTimer(number, name, due):
            return ["timer", number, name, due]
        case StartPromise(number, name, due):
            return ["promise", number, name, due or ""]
        case StartChild(number, function, args, queue, due, child_id, detached):
            op_name = "detached" if detached else "child"
            return [op_name, number, function, queue or "", args, due or "", child_id or ""]
        case StepResult(number, name, state, payload):
            return ["step", number, name, STATE[state], payload]
        case CancelEntry(number, kind, name):
            return ["cancel", number, KIND[kind], name]
        case Mark(number, kind, name):
            return ["mark", number, KIND[kind], name]
        case Transaction(number, commands):
            words: list[Value] = ["transaction", number]
            for command in commands:
                words += [len(command), *command]
            return words


def commit(
    keys: Keyspace,
    consumer: str,
    lease: Lease,
    outcome: Outcome,
    *,
    seen: int = 0,
    seen_number: str = "",
    ops: Iterable[Op] = (),
    payload: bytes = b"",
    due: Value = "",
) -> Item[Committed]:
    """What one activation asks for. ``payload`` is the result, the error, or the reason of a delay or halt;
    ``due`` the delay of ``retry`` and ``defer``, or the base of ``continue_as_new``. Fenced if the lease is lost.
    """
    lua = script.load("commit")
    rest: list[Value] = []
    for op in ops:
        values = _op_values(op)
        rest += [len(values), *values]
    item = lua.item(
        *rest,
        id=lease.id,
        queue=lease.queue,
        entry=lease.entry,
        epoch=lease.epoch,
        seen=seen,
        seen_number=seen_number,
        outcome=outcome.value,
        payload=payload,
        due=due,
    )
    return Item(lua, keys, tuple(lua.head(consumer=consumer)), item, _parse_committed)


# -- fire --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fired:
    """What ``fire`` did and saw."""

    server_us: int
    due: int
    next_due_ms: int | None
    last_wake: bytes
    stale: int
    schedules: list[str]
    put_aside: list[str]
    closing: int


def _parse_fired(answer: list[Any]) -> Fired:
    seconds, micros, due, next_due, last_wake, stale, crons, aside, closing = answer
    return Fired(
        server_us=int(seconds) * 1_000_000 + int(micros),
        due=int(due),
        next_due_ms=int(next_due) if next_due else None,
        last_wake=last_wake,
        stale=int(stale),
        schedules=[_text(name) for name in crons],
        put_aside=[_text(name) for name in aside],
        closing=int(closing),
    )


def fire(keys: Keyspace, *, limit: int) -> Command[Fired]:
    """Settle at most ``limit`` timers that are due."""
    lua = script.load("fire")
    return Command(script.evalsha(lua, key_list(keys), lua.head(limit=limit)), _parse_fired, lua)


# -- settle ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Settled:
    """``by_us`` is false if the promise had settled before, otherwise than asked now."""

    by_us: bool
    state: State
    value: bytes


def settle(keys: Keyspace, id: PromiseId, state: State, value: bytes) -> Item[Settled]:
    """Resolve, reject or cancel a promise from outside."""
    lua = script.load("settle")
    item = lua.item(id=id, state=STATE[state], payload=value)
    return Item(lua, keys, (), item, lambda answer: Settled(answer[0] == b"settled", STATE_OF[answer[1]], answer[2]))


# -- heartbeat and reclaim ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peer:
    """A worker as its last beat shows it."""

    consumer: str
    beat: str
    client_id: str


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer to a heartbeat."""

    server_us: int
    rank: int
    last_wake: bytes
    last_told: bytes
    lost: list[str]
    orders: dict[str, int]
    unnamed: list[tuple[str, str]]
    peers: list[Peer]
    consumers: list[str]


def _pairs(flat: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _parse_beat(answer: list[Any]) -> Beat:
    seconds, micros, rank, last_wake, last_told, lost, orders, unnamed, peers, consumers = answer
    return Beat(
        server_us=int(seconds) * 1_000_000 + int(micros),
        rank=int(rank),
        last_wake=last_wake,
        last_told=last_told,
        lost=[_text(entry) for entry in lost],
        orders={_text(id): int(order) for id, order in _pairs(orders)},
        unnamed=[(_text(queue), _text(entry)) for queue, entry in _pairs(unnamed)],
        peers=[
            Peer(_text(name), _text(beat), _text(client))
            for name, beat, client in zip(peers[::3], peers[1::3], peers[2::3], strict=True)
        ],
        consumers=[_text(name) for name in consumers],
    )


def heartbeat(
    keys: Keyspace, consumer: str, group: str, *, client_id: int, info: str, ttl_ms: int, held: Iterable[Lease]
) -> Command[Beat]:
    """Note a worker alive and hear what became of what it holds."""
    lua = script.load("heartbeat")
    head = lua.head(consumer=consumer, group=group, client=client_id, info=info, ttl_ms=ttl_ms)
    named = [to_bytes(value) for lease in held for value in (lease.queue, lease.entry, lease.id)]
    return Command(script.evalsha(lua, key_list(keys), [*head, *named]), _parse_beat, lua)


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What became of a worker's entries; ``alive`` means it had beaten meanwhile and nothing was done."""

    alive: bool
    more: bool
    given: int
    poison: list[str]


def _parse_reclaimed(answer: list[Any]) -> Reclaimed:
    word, given, poison = answer
    return Reclaimed(word == b"alive", word == b"more", int(given), [_text(id) for id in poison])


def reclaim(
    keys: Keyspace,
    consumer: str,
    queue: str,
    *,
    beat: str,
    give_back: Literal["", "some", "all"] = "",
    max_attempts: int,
    limit: int = 256,
    entries: Iterable[str] = (),
) -> Command[Reclaimed]:
    """Give a dead worker's entries, or those it gives back itself, to their stream under a new epoch.

    ``beat`` is its heartbeat as the judge saw it. A worker gives back ``some`` entries, or ``all`` as it leaves.
    """
    lua = script.load("reclaim")
    head = lua.head(
        consumer=consumer,
        queue=queue,
        beat=beat,
        give_back=give_back,
        max_attempts=max_attempts,
        limit=limit,
    )
    return Command(script.evalsha(lua, key_list(keys), [*head, *map(to_bytes, entries)]), _parse_reclaimed, lua)


# -- control and schedule ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Controlled:
    """What happened, in a word or two, and the state after it."""

    word: str
    state: State


def control(
    keys: Keyspace, action: str, id: PromiseId, *, due: Due | None = None, reason: str = ""
) -> Item[Controlled]:
    """``wake``, ``reschedule``, ``cancel``, ``force``, ``halt`` or ``resume``."""
    lua = script.load("control")
    item = lua.item(action=action, id=id, due=due or "", reason=reason)
    return Item(lua, keys, (), item, lambda answer: Controlled(_text(answer[0]), STATE_OF[answer[1]]))


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron schedule as it is kept."""

    name: str
    cron: str
    zone: str
    function: str
    queue: str
    args: bytes
    due_ms: int


def _word(answer: list[Any]) -> str:
    return _text(answer[0])


def put_schedule(keys: Keyspace, schedule: Schedule) -> Item[str]:
    """Keep a schedule, new or changed; its next execution is due at ``due_ms``."""
    lua = script.load("schedule")
    values = (schedule.cron, schedule.zone, schedule.function, schedule.queue, schedule.args)
    item = lua.item(f"={schedule.due_ms}", *values, action="put", name=schedule.name)
    return Item(lua, keys, (), item, _word)


def advance_schedule(keys: Keyspace, schedule: Schedule, *, next_due_ms: int, id: PromiseId) -> Item[str]:
    """Start the execution that is due, under ``id``, and move on; ``stale`` if another worker did."""
    lua = script.load("schedule")
    item = lua.item(f"={next_due_ms}", schedule.due_ms, id, action="advance", name=schedule.name)
    return Item(lua, keys, (), item, _word)


def remove_schedule(keys: Keyspace, name: str) -> Item[str]:
    """Forget a schedule; ``missing`` if there is none."""
    lua = script.load("schedule")
    return Item(lua, keys, (), lua.item(action="remove", name=name), _word)


def read_schedule(keys: Keyspace, name: str) -> Command[Schedule | None]:
    """A schedule by its name, or None."""
    fields = (S["cron"], S["zone"], S["func"], S["queue"], S["args"], S["due"])

    def parse(values: list[Any]) -> Schedule | None:
        cron, zone, function, queue, args, due = values
        if due is None:
            return None
        return Schedule(name, _text(cron), _text(zone), _text(function), _text(queue), args or b"", int(due))

    return Command([b"HMGET", keys.schedule(name).encode(), *(name.encode() for name in fields)], parse)


# -- reading -----------------------------------------------------------------

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


def read_head(keys: Keyspace, id: PromiseId) -> Command[Head | None]:
    """A promise without its journal; None if there is none, CorruptData if the hash is not one of ours."""

    def parse(values: list[Any]) -> Head | None:
        v: dict[str, bytes | None] = dict(zip(_HEAD, values, strict=True))
        if v["state"] is None:
            return None
        try:
            return Head(
                id=id,
                state=STATE_OF[v["state"]],
                kind=KIND_OF[v["kind"] or b""],
                function=_text(v["func"]),
                queue=_text(v["queue"]),
                args=v["args"] or b"",
                birth=_number(v["birth"]),
                created_ms=_number(v["created"] or v["birth"]),
                place=PLACE_OF.get(v["place"] or b""),
                epoch=_number(v["epoch"]),
                entry=_text(v["entry"]),
                due_ms=_number(v["due"]),
                deadline_ms=_number(v["deadline"]),
                reason=_text(v["reason"]),
                deaths=_number(v["deaths"]),
                order=_number(v["order"]),
                base=_number(v["base"]),
                begun_ms=_number(v["begun"] or v["created"] or v["birth"]),
                unseen=frozenset(_text(v["unseen"]).split()),
                value=v["value"] or b"",
                settled_ms=_number(v["settled"]),
            )
        except (KeyError, ValueError) as error:
            raise errors.CorruptData(f"the hash of {id} is not one of ours: {error}") from None

    return Command([b"HMGET", keys.promise(id).encode(), *(F[name].encode() for name in _HEAD)], parse)


def read_journal(keys: Keyspace, id: PromiseId, cursor: bytes = b"0") -> Command[tuple[bytes, list[Entry]]]:
    """One page of a journal and the cursor of the next. What settles between pages is sorted out by its stamp."""

    def parse(page: list[Any]) -> tuple[bytes, list[Entry]]:
        after, fields = page
        return after, [parse_entry(name, raw) for name, raw in _pairs(fields) if name[:1].isdigit()]

    count = b"%d" % LIMIT["answer_entries_max"]
    return Command([b"HSCAN", keys.promise(id).encode(), cursor, b"COUNT", count], parse)


def read_holder(keys: Keyspace, queue: str, entry: str) -> Command[str | None]:
    """The consumer a stream entry is pending to, or None."""
    group = queue.partition("/")[0].encode()
    where = entry.encode()
    return Command(
        [b"XPENDING", keys.queue(queue).encode(), group, where, where, b"1"],
        lambda rows: _text(rows[0][1]) if rows else None,
    )


def read_consumers(keys: Keyspace, group: str) -> Command[list[str]]:
    """The consumers of a group, dead ones not yet reaped included; empty if nobody ever served it."""

    def parse(rows: list[Any]) -> list[str]:
        return [_text(dict(_pairs(row))[b"name"]) for row in rows]

    return Command([b"XINFO", b"CONSUMERS", keys.queue(group).encode(), group.encode()], parse)


def read_beat(keys: Keyspace, consumer: str) -> Command[int | None]:
    """When a worker last beat, in ms of the server's clock; None for one that has left."""
    return Command(
        [b"ZSCORE", keys.workers.encode(), consumer.encode()],
        lambda score: None if score is None else int(float(score)),
    )
