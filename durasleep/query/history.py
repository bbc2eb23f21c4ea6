"""What one execution has called, with no I/O: when, how long each call took, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from durasleep.codec import Codec
from durasleep.errors import DurasleepError, NotFound, UsageError
from durasleep.model import Entry, Kind, State, check_id
from durasleep.protocol import journal, server
from durasleep.protocol.command import Plan, unwrap
from durasleep.protocol.journal import PromiseRecord
from durasleep.protocol.keys import Keyspace
from durasleep.query.call_tree import read_entries
from durasleep.query.result import error_text
from durasleep.query.waiting_on import began_ms, id_of, target_of

CALLS_MAX = 10_000  # in one answer
_SECOND_MS = 1_000  # an entry that began earlier in the life of its execution does not say when


@dataclass(frozen=True, slots=True)
class Call:
    """One durable call of an execution: a step with all its attempts, a timer, a child, a message; instants in ms since
    1970.
    """

    number: str
    """Its number in the journal; of a step that of the first attempt."""
    id: str
    """Its id, for ``wake``, ``tree`` and the like."""
    kind: str
    """``step``, ``timer``, ``child``, ``promise``, ``receive``, ``send``, ``settle`` and others."""
    name: str
    """Its function, its channel, or the name that the workflow gave it; else empty."""
    state: str
    """``pending``, ``resolved``, ``rejected``, ``canceled`` or ``timedout``."""
    began_at_ms: int
    """When it was made."""
    is_exact: bool
    """Whether ``began_at_ms`` is known to a ms. If not, the call was made in the first second of the execution, or by
    an earlier version, which did not note it: then this is when the execution began.
    """
    ended_at_ms: int | None
    """When it settled; None while it is pending, and for one that the workflow canceled itself."""
    due_at_ms: int | None
    """While it is pending, when it is due or times out."""
    late_ms: int
    """For how long a pending one is overdue; else 0."""
    attempts: int
    """How often a step was called, with the attempt that runs now; 1 for everything else."""
    error: str | None
    """Why it failed, or why the last attempt did that is known; in a line or more."""
    to: str | None
    """For whom a message is, or which promise is settled; else None."""
    value: Any = None
    """What it returned, as it was sent; only if values are asked for."""

    @property
    def took_ms(self) -> int | None:
        """How long it took; None while it is pending, and if that is not known."""
        return None if self.ended_at_ms is None else max(0, self.ended_at_ms - self.began_at_ms)


@dataclass(frozen=True, slots=True)
class History:
    """What an execution has called since its beginning, or since it continued as new."""

    id: str
    """Its id."""
    at_ms: int
    """When it was read, by the server's clock, in ms since 1970."""
    calls: list[Call]
    """The calls, in the order in which the code made them."""
    total: int
    """How many there are, also those that are not shown."""


def read(keys_of: Callable[[str], Keyspace], id: str, codec: Codec, *, limit: int, with_values: bool) -> Plan[History]:
    """The last ``limit`` calls of an execution; NotFound if there is none."""
    if not 1 <= limit <= CALLS_MAX:
        raise UsageError(f"limit {limit}: 1 to {CALLS_MAX} calls can be shown")
    owner = check_id(id)
    keys = keys_of(owner)
    now_ms = yield from server.now_ms(keys)
    [record] = yield [journal.read_record(keys, owner, outline=True)]
    if unwrap(record) is None or record.kind is not Kind.EXECUTION:
        raise NotFound(f"there is no execution {id}")
    entries, _ = yield from read_entries(keys, owner, with_payloads=True)
    groups = _in_groups(entries)
    shown = groups[-limit:]
    calls = [_call(group, record, codec, now_ms, with_values=with_values) for group in shown]
    return History(owner, now_ms, calls, len(groups))


def _in_groups(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Each call with what belongs to it: the further attempts of a step, and the waits between them."""
    groups: list[list[Entry]] = []
    for entry in entries:
        first = groups[-1][0] if groups else None
        if first is not None and first.kind is Kind.STEP and entry.number.startswith(f"{first.number}."):
            groups[-1].append(entry)
        else:
            groups.append([entry])
    return groups


def _call(group: list[Entry], owner: PromiseRecord, codec: Codec, now_ms: int, *, with_values: bool) -> Call:
    first, last = group[0], group[-1]
    is_left = last.state is State.PENDING and owner.state is not State.PENDING
    state = State.CANCELED if is_left else last.state
    ended_ms = last.stamp or (owner.settled_ms if is_left else 0)
    due_ms = last.due_ms if state is State.PENDING else 0
    attempts = [entry for entry in group if entry.kind is first.kind]
    return Call(
        number=first.number,
        id=id_of(last, owner.id) if first.kind is not Kind.STEP else f"{owner.id}~{last.number}",
        kind=first.kind.value,
        name=first.name,
        state=state.value,
        began_at_ms=began_ms(first, owner),
        is_exact=first.begun_ms >= _SECOND_MS,
        ended_at_ms=ended_ms or None,
        due_at_ms=due_ms or None,
        late_ms=max(0, now_ms - due_ms) if due_ms else 0,
        attempts=len(attempts),
        error=_error(attempts, codec),
        to=target_of(first),
        value=_value(last, codec) if with_values else None,
    )


def _error(attempts: list[Entry], codec: Codec) -> str | None:
    """Of the last attempt that failed, unless a later one did not."""
    for entry in reversed(attempts):
        if entry.state is State.RESOLVED:
            return None
        if entry.state is not State.PENDING:
            return error_text(entry.state, entry.payload, codec)
    return None


def _value(entry: Entry, codec: Codec) -> Any:
    if entry.state is not State.RESOLVED or not entry.payload:
        return None
    try:
        return codec.decode(entry.payload)
    except (DurasleepError, TypeError, ValueError) as error:
        return f"cannot be read: {error}"
