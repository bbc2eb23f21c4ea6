"""The calls of a move: what a namespace gives away, what another one adopts, and the marks in the meta hashes of both.

A promise is taken out of the old namespace under another name, and then changes no more. It is deleted there when the
new one has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec

from durasleep.protocol import server
from durasleep.protocol.command import BatchItem, Command, pairs, route, to_number, to_text
from durasleep.protocol.keys import SCHEMA_VERSION, F, Keyspace, S, meta_key
from durasleep.protocol.versions import FILLING, MOVED

_BEGIN = b"""local known = redis.call('HMGET', KEYS[1], 'arriving', 'arrived', 'partitions')
if known[1] == ARGV[1] or known[2] == ARGV[1] then return known[3] end
if redis.call('EXISTS', KEYS[1]) == 1 then return '0' end
redis.call('HSET', KEYS[1], 'schema', ARGV[2], 'partitions', ARGV[3], 'features', ARGV[4], 'arriving', ARGV[1])
return ARGV[3]"""
_END = b"""if redis.call('HGET', KEYS[1], 'arriving') ~= ARGV[1] then return 0 end
local features = string.gsub(redis.call('HGET', KEYS[1], 'features') or '', ARGV[2] .. ' ?', '')
redis.call('HDEL', KEYS[1], 'arriving', 'features')
redis.call('HSET', KEYS[1], 'arrived', ARGV[1])
if features ~= '' then redis.call('HSET', KEYS[1], 'features', features) end
return 1"""

Fields = list[tuple[bytes, bytes]]


class Meta(msgspec.Struct, frozen=True):
    """What the meta hash of a namespace says about moves."""

    exists: bool
    schema: int
    partitions: int
    features: str
    moved: str
    """Where it was moved to, for people; empty if it was not."""
    move: str
    """The name of the move by which it leaves, which only this move knows."""
    arriving: str
    """The name of the move that is filling it."""
    arrived: str
    """The name of the move that has filled it."""


class Page(msgspec.Struct, frozen=True):
    """A part of what was taken out. ``cursor`` is b"0" at the end."""

    ttl_ms: int
    """What remains until it expires; -1 if it does not."""
    halted_ms: bytes
    """When it was halted; empty if it was not."""
    is_closing: bool
    """Whether its family is still to be closed."""
    cursor: bytes
    fields: Fields


class Word(StrEnum):
    """What became of a promise in the new namespace."""

    ADOPTED = "adopted"
    KNOWN = "known"
    """It is there already."""
    OTHER = "other"
    """Another promise has its id."""


class Adopted(msgspec.Struct, frozen=True):
    """The answer to an adoption."""

    word: Word
    function: str


Timers = Sequence[tuple[str, int]]
"""Members of the timers, and when each is due."""


# -- the old namespace


def _depart(keys: Keyspace, action: str, name: str, mark: bytes, parse: Any) -> BatchItem[Any]:
    to = route("depart", keys)
    return BatchItem(to, to.script.item(action=action, name=name, mark=mark), parse)


def take(keys: Keyspace, name: str, cursor: bytes = b"0") -> BatchItem[Page | None]:
    """Take out a promise or schedule, ``promise:<id>``, and read a page of it; None if there is none."""

    def parse(answer: list[Any]) -> Page | None:
        if answer[0] == b"gone":
            return None
        _, ttl_ms, halted_ms, is_closing, after, *flat = answer
        return Page(int(ttl_ms), halted_ms, bool(is_closing), after, pairs(flat))

    return _depart(keys, "take", name, cursor, parse)


def read_waiters(keys: Keyspace, name: str, cursor: bytes) -> BatchItem[tuple[bytes, list[bytes]]]:
    """A page of the set of the waiters of a promise: the next cursor, b"0" at the end, and members."""

    def parse(answer: list[Any]) -> tuple[bytes, list[bytes]]:
        after, members = answer
        return after, members

    return _depart(keys, "waiters", name, cursor, parse)


def read_view(keys: Keyspace, name: str) -> BatchItem[Fields]:
    """What an execution publishes."""

    def parse(answer: list[bytes]) -> Fields:
        return pairs(answer[1:])

    return _depart(keys, "view", name, b"", parse)


def read_mail(keys: Keyspace, name: str, cursor: bytes) -> BatchItem[tuple[bytes, Fields]]:
    """A page of the mailbox of an execution: the next cursor, b"0" at the end, and fields."""

    def parse(answer: list[bytes]) -> tuple[bytes, Fields]:
        after, *flat = answer
        return after, pairs(flat)

    return _depart(keys, "mail", name, cursor, parse)


def drop(keys: Keyspace, name: str, origin: bytes) -> BatchItem[object]:
    """Delete what was taken out, if it is this one, see ``origin_of``."""
    return _depart(keys, "drop", name, origin, bool)


def exists_leaving(keys: Keyspace, id: str) -> Command[bool]:
    """Whether a promise was taken out, and is not deleted yet."""
    return server.exists(keys.leaving(f"promise:{id}"))


# -- the new namespace


def _adopt(keys: Keyspace, action: str, id: str, rest: Sequence[Any], parse: Any = bool) -> BatchItem[Any]:
    to = route("adopt", keys)
    size = sum([len(value) for value in rest if isinstance(value, bytes)])
    return BatchItem(to, to.script.item(*rest, action=action, id=id), parse, size)


def _flat(fields: Fields) -> list[bytes]:
    return [value for field in fields for value in field]


def _timer_words(timers: Timers) -> list[str]:
    return [word for member, due_ms in timers for word in (member, str(due_ms))]


def _parse_adopted(answer: list[bytes]) -> Adopted:
    return Adopted(Word(to_text(answer[0])), to_text(answer[1]))


def fill(keys: Keyspace, id: str, fields: Fields, *, is_first: bool) -> BatchItem[object]:
    """A part of a promise that is too large for one call."""
    return _adopt(keys, "fill", id, ["1" if is_first else "", *_flat(fields)])


def add_waiters(keys: Keyspace, id: str, waiters: Sequence[bytes]) -> BatchItem[object]:
    """Members of the set of its waiters."""
    return _adopt(keys, "waiters", id, waiters)


def add_view(keys: Keyspace, id: str, fields: Fields) -> BatchItem[object]:
    """What it publishes."""
    return _adopt(keys, "view", id, _flat(fields))


def add_mail(keys: Keyspace, id: str, fields: Fields) -> BatchItem[object]:
    """A part of its mailbox."""
    return _adopt(keys, "mail", id, _flat(fields))


def adopt(
    keys: Keyspace,
    id: str,
    fields: Fields,
    *,
    origin: bytes,
    size: int,
    ttl_ms: int,
    halted_ms: bytes,
    is_closing: bool,
    timers: Timers,
) -> BatchItem[Adopted]:
    """The last part of a promise, which has ``size`` fields in all: it is there from now on. ``origin`` is that of
    ``origin_of``.
    """
    words = _timer_words(timers)
    rest = [
        origin,
        str(size),
        str(ttl_ms),
        halted_ms,
        "1" if is_closing else "",
        str(len(words)),
        *words,
        *_flat(fields),
    ]
    return _adopt(keys, "adopt", id, rest, _parse_adopted)


def add_timers(keys: Keyspace, id: str, timers: Timers) -> BatchItem[object]:
    """More timers of a promise that is there."""
    return _adopt(keys, "time", id, _timer_words(timers))


def adopt_schedule(keys: Keyspace, name: str, fields: Fields) -> BatchItem[Adopted]:
    """A schedule; one that is there stays as it is."""
    due = to_number(dict(fields).get(S["due"].encode()))
    return _adopt(keys, "schedule", name, [str(due), *_flat(fields)], _parse_adopted)


def origin_of(incarnation: bytes | None, idempotency_key: bytes | None) -> bytes:
    """What distinguishes a promise from all others that ever have its id: when it began, and by which call."""
    return (incarnation or b"") + b" " + (idempotency_key or b"")


def read_origin(keys: Keyspace, id: str) -> Command[bytes]:
    """That of the promise with this id."""
    fields = F["incarnation"].encode(), F["idempotency_key"].encode()
    return Command([b"HMGET", keys.promise(id).encode(), *fields], lambda found: origin_of(*found))


# -- the marks of both


def read_meta(namespace: str) -> Command[Meta]:
    """What the meta hash says."""
    names = ("schema", "partitions", "features", "moved", "move", "arriving", "arrived")

    def parse(values: list[bytes | None]) -> Meta:
        schema, partitions, *texts = values
        return Meta(any(values), to_number(schema), to_number(partitions), *map(to_text, texts))

    return Command([b"HMGET", meta_key(namespace).encode(), *(name.encode() for name in names)], parse)


def mark_moved(namespace: str, where: str, move: str, features: str) -> list[Command[object]]:
    """From now on nobody can open the old namespace; the name of the move stays if it has one. ``features`` are those
    that the new one will need.
    """
    meta = meta_key(namespace).encode()
    return [
        Command([b"HSETNX", meta, b"move", move], bool),
        Command([b"HSET", meta, b"moved", where, b"features", f"{MOVED} {features}".rstrip()], bool),
    ]


def begin(namespace: str, move: str, partitions: int, features: str) -> Command[int]:
    """Make the new namespace, which nobody can open before ``end``; its number of partitions, 0 if it is in use."""
    words = [move, str(SCHEMA_VERSION), str(partitions), f"{FILLING} {features}".rstrip()]
    return Command([b"EVAL", _BEGIN, b"1", meta_key(namespace).encode(), *words], int)


def end(namespace: str, move: str) -> Command[object]:
    """The new namespace has everything: everybody may open it."""
    return Command([b"EVAL", _END, b"1", meta_key(namespace).encode(), move, FILLING], bool)
