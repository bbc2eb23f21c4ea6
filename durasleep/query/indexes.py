"""Indexes by label: which there are, and filling a new one with what was made before."""

from __future__ import annotations

from collections.abc import Iterable

from durasleep.errors import DurasleepError, UsageError
from durasleep.protocol import indexes
from durasleep.protocol.command import Plan, unwrap
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.query import search
from durasleep.traits import check_index

INDEXES_MAX = 16  # each member takes a hundred bytes


def read_indexed(keyspaces: Keyspaces) -> Plan[list[str]]:
    """The labels that have an index in each partition that answers."""
    answers = yield [indexes.read_indexed(keys) for keys in keyspaces]
    found = [answer for answer in answers if not isinstance(answer, DurasleepError)]
    return [label for label in found[0] if all(label in other for other in found)] if found else []


def add_indexes(keyspaces: Keyspaces, labels: Iterable[str]) -> Plan[None]:
    """From now on executions are found by these labels."""
    wanted = [check_index(label) for label in labels]
    known = yield from read_indexed(keyspaces)
    missing = [label for label in wanted if label not in known]
    if len(known) + len(missing) > INDEXES_MAX:
        raise UsageError(f"a namespace has at most {INDEXES_MAX} indexes")
    if missing:
        for answer in (yield [indexes.add_index(keys, label) for label in missing for keys in keyspaces]):
            unwrap(answer)


def build(keyspaces: Keyspaces, label: str) -> Plan[int]:
    """Add an index, and fill it with all executions that are there; returns how many were looked at."""
    yield from add_indexes(keyspaces, [label])
    looked = 0
    for at, *_ in keyspaces.by_node():
        cursor: bytes | None = b""
        while cursor is not None:
            [page] = yield [search.scan_promises(keyspaces, at, cursor)]
            found, cursor = unwrap(page)
            looked += len(found)
            calls = [indexes.fill_index(keys, label, id) for keys, id in found]
            for answer in (yield calls) if calls else []:
                if isinstance(answer, DurasleepError) and not search.is_of_data(answer):
                    raise answer
    return looked


def drop(keyspaces: Keyspaces, label: str) -> Plan[bool]:
    """Remove an index; false if there is none."""
    answers = yield [indexes.drop_index(keys, check_index(label)) for keys in keyspaces]
    dropped = [unwrap(answer) for answer in answers]
    return any(dropped)
