"""Streams as they are read and written one by one: queues, hints and inboxes."""

from __future__ import annotations

from typing import Any

from durasleep.model import PromiseId
from durasleep.protocol.command import Command, Item, pairs, route, to_text
from durasleep.protocol.keys import Keyspace

INBOX_CLOSES_MS = 1_000  # from a farewell to the end of an inbox: whoever is about to read it comes in time


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


def read_last(stream: str) -> Command[str]:
    """The id of the last entry of a stream, ``0-0`` if there is none: to be read from there on."""
    return Command(
        [b"XREVRANGE", stream.encode(), b"+", b"-", b"COUNT", b"1"], lambda rows: to_text(rows[0][0]) if rows else "0-0"
    )


def instant_of(entry: bytes) -> tuple[int, int]:
    """The id of a stream entry, to be compared."""
    ms, _, number = entry.partition(b"-")
    return int(ms), int(number)
