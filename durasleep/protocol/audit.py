"""The audit: what people have done by hand. The script ``control`` writes into it, too."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from durasleep.protocol.command import Command, pairs, to_text
from durasleep.protocol.keys import LIMIT, A, Keyspace
from durasleep.protocol.streams import Rows, instant_of, list_latest


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Something that was done by hand; ``id`` and ``filter`` are empty if it was not done to executions."""

    at_ms: int
    """When, in ms since 1970, by the server's clock."""
    by: str
    """Who did it."""
    verb: str
    """What was done: ``cancel``, ``force``, ``retry``, ``pause-group``, ``release-clock`` and so on."""
    id: str
    """The execution, timer, promise, group or name."""
    filter: str
    """The filter of a bulk form, as the command line has it."""
    count: int | None
    """How many executions a bulk form has changed; else None."""
    word: str
    """What happened, as the verb has answered it."""

    @property
    def at(self) -> datetime:
        """When, in UTC."""
        return datetime.fromtimestamp(self.at_ms / 1000, UTC)


def note(
    keys: Keyspace, by: str, verb: str, *, id: str = "", filter: str = "", count: int | None = None, word: str = ""
) -> Command[object]:
    """Add an entry."""
    named = {
        "by": by,
        "verb": verb,
        "id": id,
        "filter": filter,
        "count": "" if count is None else str(count),
        "word": word,
    }
    words = [text for name, value in named.items() if value for text in (A[name], value)]
    length = str(LIMIT["audit_max"])
    return Command(["XADD", keys.audit, "MAXLEN", "~", length, "*", *words], bool)


def read_latest(keys: Keyspace, *, since_ms: int, count: int) -> Command[list[AuditEntry]]:
    """The last entries, the latest first; none older than an instant."""

    def parse(rows: Rows) -> list[AuditEntry]:
        return [_entry(entry, {name: to_text(value) for name, value in pairs(fields)}) for entry, fields in rows]

    return list_latest(keys.audit.encode(), since=b"%d" % since_ms, count=count).map(parse)


_NAMES = {name: code.encode() for name, code in A.items()}


def _entry(entry: bytes, fields: dict[bytes, str]) -> AuditEntry:
    named = {name: fields.get(code, "") for name, code in _NAMES.items()}
    return AuditEntry(
        at_ms=instant_of(entry)[0],
        by=named["by"],
        verb=named["verb"],
        id=named["id"],
        filter=named["filter"],
        count=int(named["count"]) if named["count"].isdigit() else None,
        word=named["word"],
    )
