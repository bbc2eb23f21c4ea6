"""Finds executions that wait for one another in a circle: none of them can go on by itself.

It runs when a person asks why an execution does not move. A check at the start of each wait would slow every wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from durasleep.model import Kind, PromiseId, State
from durasleep.protocol import journal
from durasleep.protocol.command import Plan
from durasleep.protocol.journal import Loaded
from durasleep.protocol.keys import Keyspace

_LINKS_MAX = 16  # from the first execution to the last of a circle
_LOOKED_AT_MAX = 32  # executions read in all: a parent may wait for thousands of children


def find_circle(keys_of: Callable[[str], Keyspace], start: Loaded) -> Plan[list[PromiseId]]:
    """The executions of a circle that contains the given one, each waiting for the next; empty if none is found.

    It reads at most ``_LOOKED_AT_MAX`` executions, so an empty answer does not prove that there is no circle.
    """
    first = start.record.id
    paths = [[first, awaited] for awaited in _awaited(start)]
    seen = {first}
    while paths and len(seen) <= _LOOKED_AT_MAX:
        path = paths.pop()
        if path[-1] == first:
            return path[:-1]
        if path[-1] in seen or len(path) > _LINKS_MAX:
            continue
        seen.add(path[-1])
        loaded = yield from journal.load(keys_of(path[-1]), path[-1])
        if loaded is not None:
            paths += [[*path, awaited] for awaited in _awaited(loaded)]
    return []


def describe_circle(ids: list[PromiseId]) -> str:
    """A circle as a sentence."""
    return "it waits in a circle: " + " -> ".join([*ids, ids[0]])


def _awaited(loaded: Loaded) -> Iterator[PromiseId]:
    """The children whose results an execution has not seen yet."""
    if loaded.record.state is not State.PENDING:
        return
    for entry in loaded.entries.values():
        if entry.kind is Kind.CHILD and entry.state is State.PENDING:
            yield PromiseId(entry.child_id or f"{loaded.record.id}~{entry.number}")
