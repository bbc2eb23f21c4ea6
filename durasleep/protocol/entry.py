"""The format of a journal entry."""

from __future__ import annotations

from durasleep import errors
from durasleep.model import Entry, State
from durasleep.protocol.command import KIND_OF, STATE_OF, check_code, to_text

_KIND_AND_STATE = {
    kind_code + state_code: (kind, state)
    for kind_code, kind in KIND_OF.items()
    for state_code, state in STATE_OF.items()
}
"""By the first two letters of an entry."""
_PENDING = frozenset(code for code, (_, state) in _KIND_AND_STATE.items() if state is State.PENDING)
_BEGUN_MS_MAX = 10**12  # 31 years; larger numbers are due times, which schema 1 kept here for settled entries


def parse_entry(number: bytes, raw: bytes) -> Entry:
    """A journal entry as the scripts write it; CorruptData for anything else."""
    try:
        head, payload = raw.split(b"\n", 1)
        what, stamp, due, name, child_id = head.split(b"\t")
        kind, state = _KIND_AND_STATE[what]
        stamp_ms = int(stamp) if stamp else 0
        due_ms = begun_ms = 0
        if what in _PENDING:
            due_ms, stamp_ms, begun_ms = int(due) if due else 0, 0, stamp_ms
            payload = b""  # if there is one, it says what is asked of another partition
        elif due and (told_ms := int(due)) < _BEGUN_MS_MAX:
            begun_ms = told_ms
        return Entry(
            to_text(number),  # type: ignore[arg-type] - hot: calling a NewType costs 0.1 µs
            kind,
            state,
            to_text(name) if name else "",
            stamp_ms,
            due_ms,
            to_text(child_id) if child_id else "",
            payload,
            begun_ms,
        )
    except (KeyError, ValueError):
        if raw[2:3] == b"\t":
            check_code(KIND_OF, raw[:1], f"the kind of journal entry {to_text(number)}")
            check_code(STATE_OF, raw[1:2], f"the state of journal entry {to_text(number)}")
        raise errors.CorruptData(f"journal entry {number!r} is not one of ours: {raw[:60]!r}") from None
