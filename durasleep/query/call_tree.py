"""The call tree of an execution, with no I/O: a plan of bounded reads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from durasleep.errors import NotFound
from durasleep.model import CANCEL, Entry, Kind, PromiseId, State, check_id
from durasleep.protocol import journal
from durasleep.protocol.command import Plan, unwrap
from durasleep.protocol.journal import PromiseRecord
from durasleep.protocol.keys import Keyspace
from durasleep.query.status import holders, status_of
from durasleep.query.waiting_on import began_ms, id_of, target_of

NODES_MAX = 1_000  # in one tree: more than a screen can show
DEPTH_MAX = 50
_HEADS_MAX = 1_000  # in one round trip


@dataclass(frozen=True, slots=True)
class Node:
    """An execution in its call tree, or an entry of a journal; instants in ms since 1970, None for unknown or never."""

    id: str
    """Its id."""
    kind: str
    """``execution``, or the kind of the entry, such as ``timer`` or ``step``."""
    name: str
    """The name of its function, or the name that the workflow gave the entry."""
    state: str
    """``pending``, ``resolved``, ``rejected``, ``canceled`` or ``timedout``."""
    status: str
    """``queued``, ``running``, ``suspended``, ``delayed``, ``parked``, ``halted`` or ``done``."""
    created_at_ms: int | None
    """When it was created, or when the call was made; of a call that has settled, only if that is recorded."""
    due_at_ms: int | None
    """When it is due, or when its deadline passes."""
    settled_at_ms: int | None
    """When it settled."""
    reason: str | None
    """Why it is where it is, for example halted."""
    worker: str | None
    """The name of the worker that runs it."""
    to: str | None = None
    """For whom a message is, or which promise is settled."""
    begun_at_ms: int | None = None
    """When the call of an entry was made, to a second; None for an execution."""
    children: list[Node] = field(default_factory=list["Node"])
    """What it has called, in the order of its journal."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The call tree of an execution."""

    root: Node
    """The execution itself."""
    is_all: bool
    """False if the tree is too large, and only a part of it is here."""


def tree(keys_of: Callable[[str], Keyspace], id: str, *, nodes_max: int | None = None) -> Plan[Tree]:
    """An execution with all its calls, breadth first up to ``nodes_max`` (1,000); NotFound if there is none."""
    top, most = check_id(id), nodes_max or NODES_MAX
    [record] = yield [journal.read_record(keys_of(top), top, outline=True)]
    if unwrap(record) is None:
        raise NotFound(f"there is no execution {id}")
    [worker] = yield from holders(keys_of, [record])
    root = _node(record, worker)
    is_all, count, shown = True, 1, {top}
    below = deque([(root, record, 1)])
    while below:
        node, owner, depth = below.popleft()
        entries, is_whole = yield from _entries(keys_of(owner.id), owner.id, most - count)
        is_all = is_all and is_whole
        count += len(entries)
        child_ids = [id_of(entry, owner.id) for entry in entries if entry.kind is Kind.CHILD]
        records = yield from _records(keys_of, child_ids)
        for entry in entries:
            child = records.get(id_of(entry, owner.id)) if entry.kind is Kind.CHILD else None
            if child is None or (not entry.child_id and child[0].incarnation != owner.incarnation):
                node.children.append(_leaf(owner, entry))
                continue
            node.children.append(_node(*child))
            if child[0].id in shown:
                continue  # executions with ids of their own may wait for one another
            shown.add(child[0].id)
            if depth < DEPTH_MAX:
                below.append((node.children[-1], child[0], depth + 1))
            else:
                is_all = False
    return Tree(root, is_all)


def _entries(keys: Keyspace, id: PromiseId, room: int) -> Plan[tuple[list[Entry], bool]]:
    """What a journal waits for and its last entries, at most ``room`` without payloads; and whether these are all."""
    entries, is_all = yield from read_entries(keys, id, with_payloads=False)
    if is_all and len(entries) <= room:
        return entries, True
    latest = sorted(entries, key=lambda entry: entry.state is State.PENDING)
    return sorted(latest[max(len(latest) - room, 0) :], key=_order), False


def read_entries(keys: Keyspace, id: PromiseId, *, with_payloads: bool) -> Plan[tuple[list[Entry], bool]]:
    """A journal in the order of its calls, the entry of a cancel last; and whether this is all of it.

    Pages come in no order, so all of them are read.
    """
    found: dict[str, Entry] = {}
    cursor = b"0"
    for _ in range(journal.PAGES_MAX):
        [answer] = yield [journal.read_page(keys, id, cursor)]
        page = unwrap(answer)
        for entry in page.entries:
            found[entry.number] = entry if with_payloads else msgspec.structs.replace(entry, payload=b"")
        cursor = page.cursor
        if not cursor:
            break
    return sorted(found.values(), key=_order), not cursor


def _order(entry: Entry) -> tuple[bool, list[int]]:
    return entry.number == CANCEL, [int(part) for part in entry.number.split(".") if part]


def _records(
    keys_of: Callable[[str], Keyspace], ids: list[PromiseId]
) -> Plan[dict[PromiseId, tuple[PromiseRecord, str | None]]]:
    found: dict[PromiseId, tuple[PromiseRecord, str | None]] = {}
    for start in range(0, len(ids), _HEADS_MAX):
        part = ids[start : start + _HEADS_MAX]
        answers = yield [journal.read_record(keys_of(id), id, outline=True) for id in part]
        records = [record for record in answers if isinstance(record, PromiseRecord)]
        for record in records:
            [worker] = yield from holders(keys_of, [record])
            found[record.id] = (record, worker)
    return found


def _node(record: PromiseRecord, worker: str | None) -> Node:
    return Node(
        id=record.id,
        kind=record.kind.value,
        name=record.function,
        state=record.state.value,
        status=status_of(record, worker),
        created_at_ms=record.created_ms,
        due_at_ms=record.due_ms or record.deadline_ms or None,
        settled_at_ms=record.settled_ms or None,
        reason=record.reason or None,
        worker=worker,
    )


def _leaf(owner: PromiseRecord, entry: Entry) -> Node:
    is_left = entry.state is State.PENDING and owner.state is not State.PENDING
    state = State.CANCELED if is_left else entry.state
    # A begin in the first second is not recorded: near enough to say how long something waits, not how long it took.
    is_known = entry.begun_ms > 0 or state is State.PENDING
    return Node(
        id=id_of(entry, owner.id),
        kind=entry.kind.value,
        name=entry.name,
        state=state.value,
        status="suspended" if state is State.PENDING else "done",
        created_at_ms=began_ms(entry, owner) if is_known else None,
        due_at_ms=entry.due_ms or None,
        settled_at_ms=entry.stamp or (owner.settled_ms if is_left else 0) or None,
        reason=None,
        worker=None,
        to=target_of(entry),
        begun_at_ms=began_ms(entry, owner),
    )
