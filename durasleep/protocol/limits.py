"""Limits as they are kept, and what workers declare of their functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from durasleep.protocol.command import BatchItem, Call, Command, pairs, route, to_text
from durasleep.protocol.keys import Keyspace, L, V

Change = Literal["pause", "resume", "reset", "delete"]


def declare_function(keys: Keyspace, name: str, declared: str) -> BatchItem[bool]:
    """Keep what a worker declares of a function, see ``declared_text``; empty for nothing. True if it has changed."""
    return _item(keys, "function", name, declared)


def declared_text(limit: str, priority: int | None, retention_ms: int | None, *, needs_key: bool) -> str:
    """What is declared of a function, as it is kept; empty if that is nothing."""
    words = (
        limit,
        "" if priority is None else str(priority),
        "" if retention_ms is None else str(retention_ms),
        "1" if needs_key else "",
    )
    return "\t".join(words) if any(words) else ""


def read_declared(keys: Keyspace, names: Sequence[str]) -> Command[dict[str, str]]:
    """What is declared of some functions."""
    words = [name.encode() for name in names]
    return Command(
        [b"HMGET", keys.functions.encode(), *words],
        lambda values: dict(zip(names, map(to_text, values), strict=True)),
    )


def declare_limit(keys: Keyspace, name: str, numbers: Mapping[str, str]) -> BatchItem[bool]:
    """Keep the numbers of a limit, as the code says them. True if they have changed."""
    return _item(keys, "limit", name, "\t".join(numbers.get(field, "") for field in CODE))


def set_limit(keys: Keyspace, name: str, numbers: Mapping[str, str]) -> BatchItem[bool]:
    """Change some numbers of a limit by hand, an empty one is none. NotFound if there is no such limit."""
    words = [word for field, value in numbers.items() for word in (field, value)]
    return _item(keys, "set", name, "", *words)


def change_limit(keys: Keyspace, name: str, change: Change) -> BatchItem[bool]:
    """Pause a limit, resume it, reset its numbers to those of the code, or delete it; false if nothing has changed.
    NotFound if there is no such limit, NotAllowed if one that is deleted is in use.
    """
    return _item(keys, change, name, "")


def _item(keys: Keyspace, action: str, name: str, fields: str, *rest: str) -> BatchItem[bool]:
    to = route("limits", keys)
    item = to.script.item(*rest, action=action, name=name, fields=fields)
    return BatchItem(to, item, lambda word: word == b"kept")


CODE = tuple(
    L[name] for name in ("per_key", "total", "rate", "window", "burst", "hold", "parked_max", "overflow", "keyed")
)
"""The numbers of a limit, in the order in which the script reads them."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A limit in one partition."""

    fields: dict[str, str]
    """Its hash: the fields of ``L`` by their letters, and the weights of keys."""
    in_use: int
    """Slots."""
    parked: int
    """Executions that wait."""
    keys: int
    """For how many keys some wait."""


def list_limits(keys: Keyspace) -> Command[list[str]]:
    """The names of all limits that were ever declared."""
    return Command(
        [b"HKEYS", keys.functions.encode()],
        lambda names: [to_text(name[1:]) for name in names if name.startswith(b"\t")],
    )


def read_place(keys: Keyspace, name: str, key: str, id: str) -> Command[int | None]:
    """How many parked executions of a key begin before this one; None if it is not parked there."""
    return Command([b"ZRANK", f"{keys.limit(name)}:parked:{key}".encode(), id.encode()], _number)


def read_paused(keys: Keyspace, name: str) -> Command[int | None]:
    """Since when a limit is paused, in ms since 1970; None if it is not."""
    return Command([b"HGET", keys.limit(name).encode(), L["paused"].encode()], _number)


def _number(reply: bytes | int | None) -> int | None:
    return None if reply is None else int(reply)


def read_gate(keys: Keyspace, name: str) -> list[Call]:
    """The fields of a ``Gate``."""
    key = keys.limit(name)
    return [
        Command([b"HGETALL", key.encode()], lambda flat: {to_text(n): to_text(v) for n, v in pairs(flat)}),
        Command([b"HLEN", f"{key}:held".encode()], int),
        Command([b"HGET", f"{key}:gate".encode(), V["parked"].encode()], lambda value: int(value or 0)),
        Command([b"ZCARD", f"{key}:waiting".encode()], int),
    ]
