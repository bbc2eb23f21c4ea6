"""Streams that are read and written one by one: queues, hints and inboxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from durasleep.model import PromiseId, group_of
from durasleep.protocol.command import BatchItem, Command, pairs, route, to_text
from durasleep.protocol.keys import LIMIT, Keyspace

_INBOX_CLOSES_MS = 1_000  # from a farewell to the end of an inbox: enough for a reader that is about to read it
BEGINNING = b"0-0"
"""Before the first entry of any stream."""
UNREAD = b">"
"""Instead of an entry id: the entries that the group has delivered to nobody yet."""

Row = tuple[bytes, list[bytes]]
"""An entry: its id, and its fields as names and values in turn."""
Rows = list[Row]
Read = Sequence[tuple[bytes, Rows]]
"""Entries of several streams: the key of each, and its entries."""


# -- reading


def read_for_group(
    group: str, consumer: str, streams: Sequence[bytes], *, count: int, after: bytes = UNREAD, block_s: float = 0.0
) -> Command[Read]:
    """At most ``count`` entries of each stream, which are then pending to this consumer; or those pending already,
    ``after`` an entry. If there are none, it waits ``block_s`` at most for the first one; with 0 it returns at once.
    """
    block = [b"BLOCK", b"%d" % (block_s * 1000)] if block_s else []
    reading = [b"XREADGROUP", b"GROUP", group.encode(), consumer.encode(), *block, b"COUNT", b"%d" % count]
    return Command([*reading, b"STREAMS", *streams, *[after] * len(streams)], _read)


def read_after(positions: Mapping[bytes, bytes], *, count: int, block_s: float) -> Command[Read]:
    """At most ``count`` entries of each stream after a position. If there are none, it waits ``block_s``, at least a
    millisecond, for the first one; with 0 it returns at once.
    """
    block = [b"BLOCK", b"%d" % max(1, round(block_s * 1000))] if block_s else []
    words = [b"XREAD", *block, b"COUNT", b"%d" % count]
    return Command([*words, b"STREAMS", *positions.keys(), *positions.values()], _read)


def _read(reply: Any) -> Read:
    return reply or ()


def read_first(stream: bytes) -> Command[bytes | None]:
    """The id of the first entry."""
    return Command([b"XRANGE", stream, b"-", b"+", b"COUNT", b"1"], lambda rows: rows[0][0] if rows else None)


def read_last(stream: bytes) -> Command[bytes | None]:
    """The id of the last entry."""
    return Command([b"XREVRANGE", stream, b"+", b"-", b"COUNT", b"1"], lambda rows: rows[0][0] if rows else None)


def read_end(stream: bytes) -> Command[bytes]:
    """The id of the last entry, ``BEGINNING`` if there is none; a reader goes on from there."""
    return Command(read_last(stream).args, lambda rows: rows[0][0] if rows else BEGINNING)


def list_entries(stream: bytes, *, after: bytes = b"", count: int) -> Command[Rows]:
    """Its first entries, or those after one."""
    start = b"(" + after if after else b"-"
    return Command([b"XRANGE", stream, start, b"+", b"COUNT", b"%d" % count], list[Any])


def list_latest(stream: bytes, *, before: bytes = b"", since: bytes = b"-", count: int) -> Command[Rows]:
    """Its last entries, or those before one, the latest first; none older than ``since``, an id or an instant in ms."""
    start = b"(" + before if before else b"+"
    return Command([b"XREVRANGE", stream, start, since, b"COUNT", b"%d" % count], list[Any])


def add_entry(stream: bytes, entry: bytes, fields: Sequence[bytes]) -> Command[object]:
    """Add an entry with an id of its own; an error if there is a later one."""
    return Command([b"XADD", stream, entry, *fields], bool)


def count_entries(stream: str) -> Command[int]:
    return Command([b"XLEN", stream.encode()], int)


def read_holder(keys: Keyspace, queue: str, entry: str) -> Command[str | None]:
    """The consumer to which a stream entry is pending, or None."""
    group = group_of(queue).encode()
    where = entry.encode()
    return Command(
        [b"XPENDING", keys.queue(queue).encode(), group, where, where, b"1"],
        lambda rows: to_text(rows[0][1]) if rows else None,
    )


def read_consumers(keys: Keyspace, group: str) -> Command[list[str]]:
    """The consumers of a group, also dead ones that are not yet removed; empty if nobody has ever served it."""

    def parse(rows: list[Any]) -> list[str]:
        return [to_text(dict(pairs(row))[b"name"]) for row in rows]

    return Command([b"XINFO", b"CONSUMERS", keys.queue(group).encode(), group.encode()], parse)


def instant_of(entry: bytes) -> tuple[int, int]:
    """The id of a stream entry as numbers, for comparison."""
    ms, _, number = entry.partition(b"-")
    return int(ms), int(number)


# -- inboxes


def open_inbox(inbox: bytes) -> Command[object]:
    """Make an inbox, with a first entry that says nothing."""
    return Command([b"XADD", inbox, b"*", b"o", b""], bool)


def keep_inbox(inbox: bytes) -> Command[bool]:
    """Renew the expiry of an inbox; returns whether it exists."""
    return Command([b"PEXPIRE", inbox, b"%d" % LIMIT["inbox_ttl_ms"]], bool)


def unwait(keys: Keyspace, id: PromiseId, inbox: str) -> BatchItem[object]:
    """This inbox does not wait for this promise any more."""
    to = route("control", keys)
    return BatchItem(to, to.script.item(action="unwait", id=id, due="", reason=inbox, by=""), bool)


def drop_inbox(keys: Keyspace, inbox: str) -> Command[int]:
    """Nobody reads it any more: its waits are removed, and make room for others."""
    return Command([b"DEL", keys.inbox(inbox).encode()], int)


def wake_inbox(keys: Keyspace, inbox: str) -> list[Command[object]]:
    """Its blocked reader returns: there is an entry to read, which soon disappears with the whole inbox."""
    key = keys.inbox(inbox).encode()
    return [
        Command([b"XADD", key, b"*", b"closed", b""], bool),
        Command([b"PEXPIRE", key, b"%d" % _INBOX_CLOSES_MS], bool),
    ]
