"""Lists of executions by their function or a label: which labels have one, and what is in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from durasleep.model import PromiseId
from durasleep.protocol.command import BatchItem, Command, route, to_text
from durasleep.protocol.keys import NEAR, Keyspace

INDEXED = NEAR["indexed"].replace("\\n", "\n").encode()
"""The field of ``functions`` that names them."""
FUNC = "func"
"""Instead of a label: the function."""


def read_indexed(keys: Keyspace) -> Command[tuple[str, ...]]:
    """The labels that have an index."""
    return Command(
        [b"HGET", keys.functions.encode(), INDEXED], lambda text: tuple(to_text(text).split()) if text else ()
    )


def add_index(keys: Keyspace, label: str) -> BatchItem[bool]:
    """From now on what is made is found by this label; false if that is so already."""
    return _item(keys, "add", label)


def drop_index(keys: Keyspace, label: str) -> BatchItem[bool]:
    """Nothing is found by this label any more; false if there was no index."""
    return _item(keys, "drop", label)


def fill_index(keys: Keyspace, label: str, id: PromiseId) -> BatchItem[bool]:
    """One that was made before is found, too."""
    return _item(keys, "fill", label, id)


def _item(keys: Keyspace, action: str, label: str, what: str = "") -> BatchItem[bool]:
    to = route("index", keys)
    item = to.script.item(action=action, label=label, what=what, count="")
    return BatchItem(to, item, lambda word: word == b"kept")


@dataclass(frozen=True, slots=True)
class Tidied:
    """What one look at a part of an index has found."""

    after: bytes
    """Where to go on; empty at the end."""
    looked: int
    removed: int


def tidy(keys: Keyspace, label: str, after: bytes, *, count: int) -> BatchItem[Tidied]:
    """Remove what is gone from a part of an index."""
    to = route("index", keys)
    item = to.script.item(action="tidy", label=label, what=after, count=str(count))
    return BatchItem(to, item, lambda answer: Tidied(answer[0], answer[1], answer[2]))


def read_page(
    keys: Keyspace, label: str, value: str, before: bytes, *, since_ms: int | None, count: int
) -> Command[list[bytes]]:
    """Members with a value, the latest first; those before one."""
    start = value.encode()
    most = b"(" + (before or start + b"\n")
    least = b"[" + start + b"\t" + (b"%013d" % since_ms if since_ms else b"")
    words = [b"ZRANGE", keys.index(label).encode(), most, least, b"BYLEX", b"REV", b"LIMIT", b"0", b"%d" % count]
    return Command(words, list[Any])


def id_of(member: bytes) -> str:
    """The execution that a member stands for."""
    return to_text(member.split(b"\t", 2)[2]) if member.count(b"\t") >= 2 else ""
