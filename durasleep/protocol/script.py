"""Lua scripts from package data: includes joined, names of keys and fields replaced, signatures read.

A script's signature is written once, in Lua: ``unpack(KEYS)``, ``unpack(ARGV, 1, n)`` for its shared arguments, and
``unpack(ARGV, at + 1, at + n)`` for each item of a batch. Python binds keywords to those names. ``python -m
durasleep.protocol.script DIRECTORY`` writes what the server runs, for linters, readers and connectors.
"""

from __future__ import annotations

import hashlib
import operator
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from durasleep.protocol.keys import (
    DEFAULT,
    KEY_NAMES,
    KIND,
    LIMIT,
    NEAR,
    OWN_KEY_NAMES,
    PLACE,
    RS,
    STATE,
    VIEW,
    WORD,
    A,
    F,
    G,
    L,
    R,
    S,
    V,
    W,
)

NAMES = (
    *("create", "commit", "fire", "settle", "heartbeat", "reclaim", "control", "schedule", "read_page", "fsck"),
    *("join", "take", "limits", "index", "hear", "told", "send", "muster", "depart", "adopt", "note", "graft"),
    *("publish", "view", "overview", "stats", "lend", "part"),
    *("resonate_rpc", "resonate_tick", "resonate_take", "resonate_retain", "resonate_fsck"),
)

_INCLUDE = re.compile(r"^ *-- @include ([\w/]+)\n", re.MULTILINE)
_LITERAL = re.compile(r"\b(F|S|W|A|G|L|V|R|RS|STATE|VIEW|PLACE|KIND|LIMIT|DEFAULT|NEAR|WORD)\.(\w+)")
_TABLES: dict[str, dict[str, str] | dict[str, int]] = {
    "F": F,
    "S": S,
    "W": W,
    "L": L,
    "V": V,
    "A": A,
    "G": G,
    "R": R,
    "RS": RS,
    "STATE": {state.value: code for state, code in STATE.items()},
    "PLACE": {place.value: code for place, code in PLACE.items()},
    "KIND": {kind.value: code for kind, code in KIND.items()},
    "LIMIT": LIMIT,
    "DEFAULT": DEFAULT,
    "NEAR": NEAR,
    "WORD": WORD,
    "VIEW": VIEW,
}

Value = bytes | str
"""An argument. Not a number: hiredis would write it, and an exception of a signal handler would end the process."""


@dataclass(frozen=True, slots=True)
class Script:
    """One script as the server gets it, and the names of its arguments."""

    name: str
    source: bytes
    sha: bytes
    shared_names: tuple[str, ...]
    item_names: tuple[str, ...]
    in_order: Callable[[dict[str, Value]], tuple[Value, ...]]
    """The values of an item in the order of its names; KeyError if one is missing."""

    def shared_args(self, **values: Value) -> list[Value]:
        """The arguments before the items, by name; a TypeError names one that is missing or unknown."""
        if len(values) != len(self.shared_names) or not all(map(values.__contains__, self.shared_names)):
            raise _misnamed(f"{self.name}.lua", self.shared_names, values)
        return [values[name] for name in self.shared_names]

    def item(self, *rest: Value, **values: Value) -> list[Value]:
        """One item of a batch, by name; ``rest`` follows the named part. The number of values comes first."""
        try:
            bound = self.in_order(values)
        except KeyError:
            raise _misnamed(f"an item of {self.name}.lua", self.item_names, values) from None
        if len(values) != len(bound):
            raise _misnamed(f"an item of {self.name}.lua", self.item_names, values)
        return [str(len(bound) + len(rest)), *bound, *rest]


def to_bytes(value: Value) -> bytes:
    """An argument as Redis takes it; our own connections do the same when they pack it."""
    return value if isinstance(value, bytes) else value.encode()


def _misnamed(what: str, names: tuple[str, ...], values: dict[str, Value]) -> TypeError:
    if missing := [name for name in names if name not in values]:
        return TypeError(f"{what} needs {missing[0]!r}")
    return TypeError(f"{what} does not know {sorted(values.keys() - set(names))}")


def _read(name: str) -> str:
    return resources.files("durasleep.protocol").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def _join(text: str, seen: set[str], instead: dict[str, str]) -> str:
    """Put each included file at its first include, after those that it includes itself. A name without a folder is in
    ``shared``.
    """

    def include(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen:
            return ""
        seen.add(name)
        return _join(_read(name if "/" in name else f"shared/{instead.get(name, name)}"), seen, instead)

    return _INCLUDE.sub(include, text)


def _fill_in(text: str, value_bytes_max: int) -> str:
    tables = _TABLES | {"LIMIT": LIMIT | {"value_bytes_max": value_bytes_max}}

    def literal(match: re.Match[str]) -> str:
        value = tables[match[1]][match[2]]
        return f"'{value}'" if isinstance(value, str) else str(value)

    return _LITERAL.sub(literal, text)


def _names(pattern: str, text: str) -> tuple[str, ...]:
    match = re.search(r"local ([\w,\s]+?) =\s+unpack\(" + pattern, text)
    return tuple(name.strip() for name in match[1].split(",")) if match else ()


@cache
def load(name: str, movable_clock: bool = False, value_bytes_max: int = LIMIT["value_bytes_max"]) -> Script:
    """The script of this name, assembled; KeyError for a field name that ``keys.py`` does not have.

    With a ``movable_clock`` its time is the server's, moved by the value of the key ``clock``. It returns no value of
    more than ``value_bytes_max``.
    """
    text = _fill_in(_join(_read(name), set(), {"now": "movable_now"} if movable_clock else {}), value_bytes_max)
    if _names(r"KEYS\)", text) != OWN_KEY_NAMES.get(name, KEY_NAMES):
        raise TypeError(f"{name}.lua: its KEYS are not those of keys.KEY_NAMES")
    source = text.encode()
    item_names = _names(r"ARGV, (?:at|item) \+ 1, (?:at|item) \+ \d+\)", text)
    return Script(
        name=name,
        source=source,
        sha=hashlib.sha1(source, usedforsecurity=False).hexdigest().encode(),
        shared_names=_names(r"ARGV, 1, \d+\)", text),
        item_names=item_names,
        in_order=operator.itemgetter(*item_names)
        if len(item_names) > 1
        else lambda values: tuple([values[name] for name in item_names]),
    )


def evalsha(script: Script, keys: Sequence[Value], args: Iterable[Value]) -> list[Value]:
    """The command that runs a script the server knows; it answers NOSCRIPT if it does not."""
    return [b"EVALSHA", script.sha, str(len(keys)), *keys, *args]


def as_eval(script: Script, command: list[Value]) -> list[Value]:
    """The same call with its source, which also makes the server know it."""
    return [b"EVAL", script.source, *command[2:]]


def in_multi(script: Script, command: list[Value], *, of_cluster: bool) -> list[tuple[Value, ...]]:
    """The commands for the MULTI of a redis-py pipeline: the server learns the script, and runs it.

    A NOSCRIPT would leave out this call alone, and the rest of the MULTI would be done. In a cluster it is one command,
    because one that names no key can be sent to no node.
    """
    if of_cluster:
        return [("EVAL", script.source, *map(to_bytes, command[2:]))]
    return [("SCRIPT LOAD", script.source), ("EVALSHA", *map(to_bytes, command[1:]))]


def write_assembled(directory: Path) -> None:
    """Write each script as the server runs it."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (directory / f"{name}.lua").write_bytes(load(name).source)
        (directory / f"{name}_movable.lua").write_bytes(load(name, movable_clock=True).source)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m durasleep.protocol.script DIRECTORY\n")
        sys.exit(2)
    write_assembled(Path(sys.argv[1]))
