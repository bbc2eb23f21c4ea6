"""Commands built and answers parsed, with no I/O: what the async and the sync store share.

An ``Item`` may travel with others of its script in one EVALSHA; a ``Command`` goes as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Generic, Literal, TypeVar

import msgspec

from durasleep import errors
from durasleep.model import (
    CancelEntry,
    Disposition,
    Due,
    Entry,
    Kind,
    Mark,
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
from durasleep.protocol import script
from durasleep.protocol.keys import KIND, LIMIT, PLACE, STATE, Keyspace, S
from durasleep.protocol.script import Script, Value

T = TypeVar("T")

STATE_OF = {code.encode(): state for state, code in STATE.items()}
PLACE_OF = {code.encode(): place for place, code in PLACE.items()}
KIND_OF = {code.encode(): kind for kind, code in KIND.items()}
_FUTURE_CODE = re.compile(rb"[a-z]")
"""What a newer version may write where we have none of its codes; all else is not ours."""
DISPOSITION_OF = {word.value.encode(): word for word in Disposition}

_KIND_AND_STATE = {
    kind_code + state_code: (kind, state)
    for kind_code, kind in KIND_OF.items()
    for state_code, state in STATE_OF.items()
}
"""Of the two letters an entry begins with."""
_PENDING = frozenset(code for code, (_, state) in _KIND_AND_STATE.items() if state is State.PENDING)
BEGIN_MS_MIN = LIMIT["begin_ms_min"]
BEGUN_MS_MAX = 10**12  # 31 years; where schema 1 kept the due time of what has settled, there is more
INBOX_CLOSES_MS = 1_000  # from a farewell to the end of an inbox: whoever is about to read it comes in time
_CODE = re.compile(r"(?:ERR )?(?:user_script:\d+: )?([A-Z][A-Z_]+) ?(.*)", re.DOTALL)


class Route(msgspec.Struct, frozen=True, eq=False):
    """What calls have in common that may travel together: a script, its keys, and what stands before the items."""

    script: Script
    command: tuple[Value, ...]
    """The EVALSHA that runs it, up to where the items follow."""


@lru_cache(maxsize=256)
def route(name: str, keys: Keyspace, head: tuple[Value, ...] = ()) -> Route:
    """The route of a script that takes a batch; the same object for the same arguments."""
    lua = script.load(name, keys.movable_clock, keys.value_bytes_max)
    return Route(lua, tuple(script.evalsha(lua, key_list(keys), head)))


class Item(msgspec.Struct, Generic[T], frozen=True):
    """One call of a batching script: its answer is its own, whatever the others' are."""

    route: Route
    args: list[Value]
    """Their number first, see ``Script.item``."""
    parse: Callable[[Any], T]
    known_bytes: int = -1
    """What the caller's values take, if whoever made the item knows."""

    @property
    def script(self) -> Script:
        return self.route.script

    @property
    def payload_bytes(self) -> int:
        """What travels of the caller's, in bytes."""
        if self.known_bytes >= 0:
            return self.known_bytes
        return sum([len(value) for value in self.args if isinstance(value, bytes)])


class Command(msgspec.Struct, Generic[T], frozen=True):
    """One command of Redis, or a script that takes no batch."""

    args: Sequence[Value]
    parse: Callable[[Any], T]
    script: Script | None = None


Call = Item[Any] | Command[Any]


def error_of(text: bytes | str) -> errors.DurasleepError:
    """The exception for an error text of a script, ``CODE what happened``."""
    message = text.decode(errors="replace") if isinstance(text, bytes) else text
    if message.endswith("no such key"):  # XINFO of a stream that is not there
        return errors.NotFound(message)
    match = _CODE.match(message)
    return errors.from_code(match[1], match[2]) if match else errors.StoreError(message)


@lru_cache(maxsize=64)
def key_list(keys: Keyspace) -> tuple[bytes, ...]:
    """KEYS of every script."""
    return tuple(key.encode() for key in keys.named().values())


def to_text(value: bytes | None) -> str:
    """A field that holds text, or nothing."""
    return value.decode(errors="replace") if value else ""


def to_number(value: bytes | None) -> int:
    """A field that holds a whole number, or nothing."""
    return int(value) if value else 0


def pairs(flat: Sequence[Any]) -> list[tuple[Any, Any]]:
    """What Redis answers flat: names and values in turn."""
    return list(zip(flat[::2], flat[1::2], strict=True))


def check_code(codes: Mapping[bytes, object], code: bytes | None, what: str) -> None:
    """NewerVersion for a code that is none of ours, but may well be one."""
    if code is not None and code not in codes and _FUTURE_CODE.fullmatch(code):
        raise errors.NewerVersion(f"only a newer version of durasleep knows {what} ({code.decode()})")


def _state_of(code: bytes) -> State:
    """The state a script answers; NewerVersion for one that only a newer version knows."""
    check_code(STATE_OF, code, "the state it is in")
    return STATE_OF[code]


# -- entries -----------------------------------------------------------------


def parse_entry(number: bytes, raw: bytes) -> Entry:
    """A journal entry as the scripts write it; CorruptData for anything else."""
    try:
        head, payload = raw.split(b"\n", 1)
        what, stamp, due, name, child_id = head.split(b"\t")
        kind, state = _KIND_AND_STATE[what]
        stamp_ms = int(stamp) if stamp else 0
        due_ms = begun_ms = 0
        if what in _PENDING:
            due_ms, stamp_ms, begun_ms = int(due) if due else 0, 0, stamp_ms
        elif due and (told_ms := int(due)) < BEGUN_MS_MAX:
            begun_ms = told_ms
        return Entry(
            to_text(number),  # type: ignore[arg-type] - hot: calling a NewType costs 0.1 µs
            kind,
            state,
            to_text(name) if name else "",
            stamp_ms,
            due_ms,
            to_text(child_id) if child_id else "",
            payload,
            begun_ms,
        )
    except (KeyError, ValueError):
        if raw[2:3] == b"\t":
            check_code(KIND_OF, raw[:1], f"the kind of journal entry {to_text(number)}")
            check_code(STATE_OF, raw[1:2], f"the state of journal entry {to_text(number)}")
        raise errors.CorruptData(f"journal entry {number!r} is not one of ours: {raw[:60]!r}") from None


# -- create ------------------------------------------------------------------


class Created(msgspec.Struct, frozen=True, gc=False):
    """What ``create`` found or made."""

    disposition: Disposition
    state: State
    place: Place | None
    birth: int
    function: str
    value: bytes


def _parse_created(function: str, place: Place | None, answer: list[Any] | bytes) -> Created:
    """What ``create`` answers; of what was made just now it is only the birth."""
    if isinstance(answer, bytes):
        return Created(Disposition.CREATED, State.PENDING, place, int(answer), function, b"")
    disposition, state, found_place, birth, found_function, value = answer
    return Created(
        DISPOSITION_OF[disposition],
        _state_of(state),
        PLACE_OF.get(found_place),
        int(birth),
        to_text(found_function),
        value,
    )


def _retention_word(retention_ms: int | None) -> str:
    """How long something is kept; the default is said by nothing."""
    return "" if retention_ms in (None, LIMIT["retention_ms"]) else str(retention_ms)


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
    to = route("create", keys, ("",))
    retention = _retention_word(retention_ms)
    words = "\t".join((KIND[kind], queue, start or "", deadline or "", inbox, retention, function))
    item = to.script.item(id=id, words=words, args=args, call=call)
    place = None if kind is not Kind.EXECUTION else Place.DELAYED if start else Place.QUEUED
    return Item(to, item, partial(_parse_created, function, place))


def create_like(common: Item[Created]) -> Callable[[PromiseId, bytes, str], Item[Created]]:
    """What makes one ``create`` after another, each of an id, its arguments and the name of its call.

    All else is as in ``common``: to put that together again for each of thousands of calls took twice as long.
    """
    names = common.script.item_names
    id_at, args_at, call_at = (1 + names.index(name) for name in ("id", "args", "call"))  # their count stands first

    def make(id: PromiseId, args: bytes, call: str) -> Item[Created]:
        values = common.args.copy()
        values[id_at] = id
        values[args_at] = args
        values[call_at] = call
        return Item(common.route, values, common.parse, len(args))

    return make


def attach(keys: Keyspace, id: PromiseId, *, inbox: str = "") -> Item[Created]:
    """Wait for what has this id, whatever it is; NotFound if nothing has."""
    to = route("create", keys, ("1",))
    item = to.script.item(id=id, words=f"\t\t\t\t{inbox}\t\t", args="", call="")
    return Item(to, item, partial(_parse_created, "", None))


# -- commit ------------------------------------------------------------------


class Lease(msgspec.Struct, frozen=True):
    """An execution as a worker holds it: the stream entry and the epoch it read there are its fence."""

    id: PromiseId
    queue: str
    entry: str
    epoch: int
    snapshot: bytes = b""
    """What the entry itself tells of the execution, see ``journal.read_snapshot``; none if it is read again."""

    @property
    def place(self) -> tuple[str, str]:
        """Its queue and its entry: two queues may well have entries of one name, made in one script."""
        return self.queue, self.entry


NOT_KNOWN = "no worker here knows"
"""How the reason begins for which an execution is deferred whose function its worker lacks."""


class Committed(msgspec.Struct, frozen=True):
    """The answer to a commit: ``redrive`` means it is still running, with news."""

    redrive: bool
    more: bool
    entries: list[Entry]
    offered: bool = False
    """Whether another worker holds it now, which may know its function."""
    kept: bool = False
    """Whether it is still held, as nobody else may know its function."""


def _parse_committed(answer: list[Any] | bytes) -> Committed:
    if isinstance(answer, bytes):
        return _ANSWERED.get(answer, _NO_NEWS)
    word, more = answer[:2]
    entries: list[Entry] = []
    for at in range(2, len(answer), 2):
        entries.append(parse_entry(answer[at], answer[at + 1]))  # noqa: PERF401 - mostly it is one
    return Committed(word == b"redrive", more == b"1", entries)


_NO_NEWS = Committed(redrive=False, more=False, entries=[])
_ANSWERED = {
    b"offered": Committed(redrive=False, more=False, entries=[], offered=True),
    b"kept": Committed(redrive=False, more=False, entries=[], kept=True),
}


def _op_values(op: Op) -> list[Value]:
    # Not matched by pattern are those that are written most: that takes five times as long.
    if isinstance(op, StartTimer):
        return ["4", "timer", op.number, op.name, op.due]
    if isinstance(op, StepResult):
        began = str(op.begun_ms) if op.begun_ms >= BEGIN_MS_MIN else ""
        return ["6", "step", op.number, op.name, STATE[op.state], op.payload, began]
    match op:
        case StartPromise(number, name, due):
            return ["4", "promise", number, name, due or ""]
        case StartChild(number, function, args, queue, due, child_id, detached, retention_ms, start):
            op_name = "detached" if detached else "child"
            retention = "" if retention_ms is None else str(retention_ms)
            words: list[Value] = [op_name, number, function, queue or "", args, due or ""]
            return ["9", *words, child_id or "", retention, start or ""]
        case CancelEntry(number, kind, name):
            return ["4", "cancel", number, KIND[kind], name]
        case Mark(number, kind, name):
            return ["4", "mark", number, KIND[kind], name]
        case Transaction(number, commands):
            words: list[Value] = ["transaction", number]
            for command in commands:
                words += [str(len(command)), *command]
            return [str(len(words)), *words]


def op_bytes(op: Op) -> int:
    """What an operation carries of the user's, in bytes."""
    if isinstance(op, StartTimer):
        return 0
    if isinstance(op, StepResult):
        return len(op.payload)
    match op:
        case StartChild():
            return len(op.args)
        case Transaction():
            return sum([len(word) for command in op.commands for word in command])
        case _:
            return 0


_COMMIT = ("id", "entry", "words", "payload")
"""What an item of commit.lua begins with; the hottest of all items is built by position, not by name."""

_COMMIT_SIZE = str(len(_COMMIT))


@lru_cache(maxsize=64)
def _commit_route(keys: Keyspace, consumer: str) -> Route:
    to = route("commit", keys, (consumer,))
    if to.script.item_names != _COMMIT:
        raise TypeError(f"an item of commit.lua begins with {to.script.item_names}, not {_COMMIT}")
    return to


def commit(
    keys: Keyspace,
    consumer: str,
    lease: Lease,
    outcome: Outcome,
    *,
    seen: int = 0,
    seen_number: str = "",
    asked: str = "",
    ops: Iterable[Op] = (),
    payload: bytes = b"",
    due: str = "",
    open: bool = True,
) -> Item[Committed]:
    """What one activation asks for. ``payload`` is the result, the error, or the reason of a delay or halt;
    ``due`` the delay of ``retry`` and ``defer`` (which may have behind it, after a space, the fingerprint of a worker
    that lacks the function), or the base of ``continue_as_new``. It is ``open`` unless all it has
    ever asked for has settled. ``seen`` is the last settlement it knows, ``asked`` the number of what its commit before
    this one asked for last. Fenced if the lease is lost, or if the server knows nothing of these: it failed over.
    """
    # An outcome is a text itself: to ask an enum for its value takes longer than all of this.
    words = "\t".join((lease.queue, str(lease.epoch), str(seen), seen_number, outcome, due, "1" if open else "", asked))
    args: list[Value] = [_COMMIT_SIZE, lease.id, lease.entry, words, payload]
    size = len(payload)
    if ops:
        for op in ops:
            args += _op_values(op)
            size += op_bytes(op)
        args[0] = str(len(args) - 1)
    return Item(_commit_route(keys, consumer), args, _parse_committed, size)


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
    newer: int
    """Timers that are due, and that only a newer version knows: they stay for it."""


def _parse_fired(answer: list[Any]) -> Fired:
    seconds, micros, due, next_due, last_wake, stale, crons, aside, closing, newer = answer
    return Fired(
        server_us=int(seconds) * 1_000_000 + int(micros),
        due=int(due),
        next_due_ms=int(next_due) if next_due else None,
        last_wake=last_wake,
        stale=int(stale),
        schedules=[to_text(name) for name in crons],
        put_aside=[to_text(name) for name in aside],
        closing=int(closing),
        newer=int(newer),
    )


def fire(keys: Keyspace, *, limit: int, latest_ms: int | None = None) -> Command[Fired]:
    """Settle at most ``limit`` timers that are due; none if the server's clock shows more than ``latest_ms``."""
    lua = script.load("fire", keys.movable_clock)
    return Command(
        script.evalsha(
            lua, key_list(keys), lua.head(limit=str(limit), latest="" if latest_ms is None else str(latest_ms))
        ),
        _parse_fired,
        lua,
    )


def read_number(key: str) -> Command[int | None]:
    """A whole number kept by itself, or None."""
    return Command([b"GET", key.encode()], lambda value: None if value is None else int(value))


def keep_number(key: str, number: int, *, ttl_s: float) -> Command[bool]:
    """Keep one for a while."""
    return Command(
        [b"SET", key.encode(), str(number), b"PX", str(round(ttl_s * 1000))], lambda reply: reply is not None
    )


# -- settle ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Settled:
    """``by_us`` is false if the promise had settled before, otherwise than asked now."""

    by_us: bool
    state: State
    value: bytes


def settle(keys: Keyspace, id: PromiseId, state: State, value: bytes) -> Item[Settled]:
    """Resolve, reject or cancel a promise from outside."""
    to = route("settle", keys)
    item = to.script.item(id=id, state=STATE[state], payload=value)
    return Item(to, item, lambda answer: Settled(answer[0] == b"settled", _state_of(answer[1]), answer[2]))


# -- heartbeat and reclaim ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peer:
    """A worker as its last beat shows it."""

    consumer: str
    beat: str
    client_id: str
    beat_ms: int | None = None
    """Between two of its beats; None if it does not say."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer to a heartbeat."""

    server_us: int
    rank: int
    last_wake: bytes
    """Empty where something else stands in the place of that stream."""
    last_told: bytes
    lost: list[tuple[str, str]]
    """Queues and entries of what it named and does not hold."""
    orders: dict[str, int]
    unnamed: list[tuple[str, str]]
    peers: list[Peer]
    consumers: list[str]


def _parse_beat(answer: list[Any]) -> Beat:
    seconds, micros, rank, last_wake, last_told, lost, orders, unnamed, peers, consumers = answer
    return Beat(
        server_us=int(seconds) * 1_000_000 + int(micros),
        rank=int(rank),
        last_wake=last_wake,
        last_told=last_told,
        lost=[(to_text(queue), to_text(entry)) for queue, entry in pairs(lost)],
        orders={to_text(id): int(order) for id, order in pairs(orders)},
        unnamed=[(to_text(queue), to_text(entry)) for queue, entry in pairs(unnamed)],
        peers=[
            Peer(to_text(name), to_text(beat), to_text(client), int(beat_ms) if beat_ms else None)
            for name, beat, client, beat_ms in zip(peers[::4], peers[1::4], peers[2::4], peers[3::4], strict=True)
        ],
        consumers=[to_text(name) for name in consumers],
    )


def heartbeat(
    keys: Keyspace,
    consumer: str,
    group: str,
    *,
    client_id: int,
    info: str,
    knows: str,
    ttl_ms: int,
    held: Iterable[Lease],
    beat_ms: int | None = None,
    functions: str = "",
    lost_threads: int = 0,
) -> Command[Beat]:
    """Note a worker alive and hear what became of what it holds.

    It says how far apart its beats are, which functions it has (see ``Registry.fingerprint``), and how many of its
    threads are lost.
    """
    lua = script.load("heartbeat", keys.movable_clock)
    head = lua.head(
        consumer=consumer,
        group=group,
        client=str(client_id),
        info=info,
        knows=knows,
        ttl_ms=str(ttl_ms),
        beat_ms="" if beat_ms is None else str(beat_ms),
        functions=functions,
        lost_threads=str(lost_threads),
    )
    named = [value for lease in held for value in (lease.queue, lease.entry, lease.id)]
    return Command(script.evalsha(lua, key_list(keys), [*head, *named]), _parse_beat, lua)


def join(keys: Keyspace, consumer: str, group: str, queues: Iterable[str]) -> Command[str]:
    """Be a consumer of a group in some queues; CorruptData if one of them is no stream."""
    lua = script.load("join", keys.movable_clock)
    head = lua.head(consumer=consumer, group=group)
    return Command(script.evalsha(lua, key_list(keys), [*head, *queues]), to_text, lua)


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What became of a worker's entries; ``alive`` means it had beaten meanwhile and nothing was done."""

    alive: bool
    more: bool
    given: int
    poison: list[str]


def _parse_reclaimed(answer: list[Any]) -> Reclaimed:
    word, given, poison = answer
    return Reclaimed(word == b"alive", word == b"more", int(given), [to_text(id) for id in poison])


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
    lua = script.load("reclaim", keys.movable_clock)
    head = lua.head(
        consumer=consumer,
        queue=queue,
        beat=beat,
        give_back=give_back,
        max_attempts=str(max_attempts),
        limit=str(limit),
    )
    return Command(script.evalsha(lua, key_list(keys), [*head, *entries]), _parse_reclaimed, lua)


# -- control and schedule ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Controlled:
    """What happened, in a word or two, and the state after it."""

    word: str
    state: State


def control(
    keys: Keyspace, action: str, id: PromiseId, *, due: Due | None = None, reason: str = ""
) -> Item[Controlled]:
    """``wake``, ``reschedule``, ``cancel``, ``force``, ``halt``, ``resume`` or ``retry``."""
    to = route("control", keys)
    item = to.script.item(action=action, id=id, due=due or "", reason=reason)
    return Item(to, item, lambda answer: Controlled(to_text(answer[0]), _state_of(answer[1])))


def forget(keys: Keyspace, name: str) -> Item[bool]:
    """Strike a name that was put aside; whether there was one. NotAllowed for an execution that is halted."""
    to = route("control", keys)
    item = to.script.item(action="forget", id=name, due="", reason="")
    return Item(to, item, lambda answer: answer[0] == b"forgotten")


def unwait(keys: Keyspace, id: PromiseId, inbox: str) -> Item[object]:
    """An inbox need not hear of this promise any more."""
    to = route("control", keys)
    return Item(to, to.script.item(action="unwait", id=id, due="", reason=inbox), bool)


def drop_inbox(keys: Keyspace, inbox: str) -> Command[int]:
    """Nobody reads it any more: wherever it waits, it makes room for others."""
    return Command([b"DEL", keys.inbox(inbox).encode()], int)


def wake_inbox(keys: Keyspace, inbox: str) -> list[Command[object]]:
    """Whoever reads it stops, or begins to: it has something to read, which is soon gone, with all of it."""
    key = keys.inbox(inbox).encode()
    return [
        Command([b"XADD", key, b"*", b"closed", b""], bool),
        Command([b"PEXPIRE", key, b"%d" % INBOX_CLOSES_MS], bool),
    ]


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
    retention_ms: int | None = None
    """Of what it starts, -1 for ever; None for the default."""


def _word(answer: list[Any]) -> str:
    return to_text(answer[0])


def put_schedule(keys: Keyspace, schedule: Schedule) -> Item[int]:
    """Keep a schedule, new or changed; answers when its next execution is due, in ms.

    That is ``due_ms``, unless it has the same line and zone as before: then it stays as it was.
    """
    to = route("schedule", keys)
    values = (schedule.cron, schedule.zone, schedule.function, schedule.queue, schedule.args)
    retention = _retention_word(schedule.retention_ms)
    item = to.script.item(f"={schedule.due_ms}", *values, retention, action="put", name=schedule.name)
    return Item(to, item, lambda answer: int(answer[1]))


def advance_schedule(keys: Keyspace, schedule: Schedule, *, next_due_ms: int, id: PromiseId) -> Item[str]:
    """Start the execution that is due, under ``id``, and move on; ``stale`` if another worker did."""
    to = route("schedule", keys)
    item = to.script.item(f"={next_due_ms}", str(schedule.due_ms), id, action="advance", name=schedule.name)
    return Item(to, item, _word)


def put_schedule_aside(keys: Keyspace, name: str, due_ms: int | None, reason: str, *, is_offered: bool) -> Item[str]:
    """It is due, and cannot be read here: kept by name, and offered again in a minute.

    The other workers are told of one that is ``offered``, which it is by a firing. ``stale`` if it has been moved on
    meanwhile, which is not asked without ``due_ms``.
    """
    to = route("schedule", keys)
    item = to.script.item(
        reason, "" if due_ms is None else str(due_ms), "1" if is_offered else "", action="aside", name=name
    )
    return Item(to, item, _word)


def remove_schedule(keys: Keyspace, name: str) -> Item[str]:
    """Forget a schedule; ``missing`` if there is none."""
    to = route("schedule", keys)
    return Item(to, to.script.item(action="remove", name=name), _word)


def read_schedule(keys: Keyspace, name: str) -> Command[Schedule | None]:
    """A schedule by its name, or None."""
    fields = (S["cron"], S["zone"], S["func"], S["queue"], S["args"], S["due"], S["retention"])

    def parse(values: list[Any]) -> Schedule | None:
        cron, zone, function, queue, args, due, retention = values
        if due is None:
            return None
        return Schedule(
            name,
            to_text(cron),
            to_text(zone),
            to_text(function),
            to_text(queue),
            args or b"",
            int(due),
            int(retention) if retention else None,
        )

    return Command([b"HMGET", keys.schedule(name).encode(), *(name.encode() for name in fields)], parse)
