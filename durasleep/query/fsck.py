"""Walks a namespace and checks every law that broken data would break, with no I/O: a plan of bounded reads.

Each thing is looked at by a script, as it is at one instant, so that a live system raises no false alarm; with
``repair`` the same script mends what can be mended without guessing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from durasleep.errors import DurasleepError
from durasleep.protocol import command, server, sorted_sets, streams
from durasleep.protocol.command import BatchItem, Call, Plan, to_text, unwrap
from durasleep.protocol.keys import Keyspace

FINDINGS_MAX = 1_000  # in one report; what is beyond it is counted
PAGE = 500  # keys, members or entries in one read: a millisecond of Redis

_EXPIRING = ("inbox", "worker", "clock-held", "clock-released")
_WHOLE = ("timers", "wake", "workers", "closing", "halted", "recent", "failed", "clock")
"""Keys of which there is one; what is in them is checked by itself."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that breaks a law."""

    kind: str
    """What is wrong, in a word: ``unqueued``, ``untimed``, ``untold``, ``orphan``, ``corrupt``, ..."""
    id: str
    """Of the promise, timer, stream entry or key."""
    text: str
    """The rest of a sentence that begins with the id."""
    repaired: bool
    repairable: bool


@dataclass(slots=True)
class Report:
    """What was found in a namespace."""

    findings: list[Finding] = field(default_factory=list[Finding])
    checked: Counter[str] = field(default_factory=Counter[str])
    """How many promises, timers, stream entries and others were looked at."""
    left_out: int = 0
    """Findings beyond those listed."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong, or nothing any more."""
        return not self.left_out and all(finding.repaired for finding in self.findings)

    def add(self, finding: Finding) -> None:
        """Take note of one, once: a scan may come by twice."""
        if len(self.findings) >= FINDINGS_MAX:
            self.left_out += 1
        elif not any(finding.id == known.id and finding.kind == known.kind for known in self.findings):
            self.findings.append(finding)


@dataclass(frozen=True, slots=True)
class _Checked:
    """What the script says of one thing, and where it is to go on."""

    at: bytes
    findings: list[Finding]


_Thing = tuple[str, bytes, bytes]
"""What to look at: its kind, its name, and where in it."""


def fsck(keys: Keyspace, *, repair: bool = False) -> Plan[Report]:
    """Check everything in a partition, in time proportional to it; safe on a live system."""
    report = Report()
    queues: list[bytes] = []
    cursor = b"0"
    while True:
        [page] = yield [server.scan(f"{keys.tag}*", cursor, count=PAGE)]
        cursor, names = unwrap(page)
        yield from _check(keys, _things(keys, names, queues, report), report, repair)
        if cursor == b"0":
            break
    sets = (("timer", keys.timers), ("halted", keys.halted), ("closing", keys.closing), ("member", keys.workers))
    for kind, key in sets:
        yield from _check_members(keys, kind, key.encode(), report, repair)
    for queue in queues:
        yield from _check_queue(keys, queue, report, repair)
    return report


def _things(keys: Keyspace, names: Iterable[bytes], queues: list[bytes], report: Report) -> Iterator[_Thing]:
    """What some keys are; the queues among them are left for later, and what nobody knows is told."""
    for name in names:
        kind, _, subject = name[len(keys.tag.encode()) :].partition(b":")
        match to_text(kind):
            case ("promise" | "schedule" | "waiters" | "run") as known if subject:
                yield known, subject, b""
            case "queue" if subject:
                if subject not in queues:
                    queues.append(subject)
            case known if known in _EXPIRING:
                yield "expiring", name, b""
            case known if known not in _WHOLE or subject:
                report.add(_by_hand("unknown", to_text(name), "is no key of ours: see who wrote it"))
            case _:
                pass


def _check(keys: Keyspace, things: Iterable[_Thing], report: Report, repair: bool) -> Plan[None]:
    """Look at some things, those of several pages until their end."""
    left = list(things)
    report.checked.update(kind for kind, _, _ in left)
    while left:
        answers = yield [_item(keys, thing, repair) for thing in left]
        again: list[_Thing] = []
        for (kind, name, _), answer in zip(left, answers, strict=True):
            if isinstance(answer, DurasleepError):
                report.add(_by_hand("corrupt", to_text(name), f"cannot be read: {answer}"))
                continue
            checked: _Checked = answer
            for finding in checked.findings:
                report.add(finding)
            if checked.at:
                again.append((kind, name, checked.at))
        left = again


def _item(keys: Keyspace, thing: _Thing, repair: bool) -> Call:
    to = command.route("fsck", keys, ("1" if repair else "",))
    kind, name, at = thing
    return BatchItem(to, to.script.item(what=kind, name=name, at=at), _parse)


def _parse(answer: list[bytes]) -> _Checked:
    at, *found = answer
    rows = zip(found[::4], found[1::4], found[2::4], found[3::4], strict=True)
    findings = [
        Finding(to_text(kind), to_text(id), to_text(text), repaired=mended == b"1", repairable=mended != b"")
        for kind, id, text, mended in rows
    ]
    return _Checked(at, findings)


def _check_members(keys: Keyspace, kind: str, key: bytes, report: Report, repair: bool) -> Plan[None]:
    cursor = b"0"
    while True:
        [page] = yield [sorted_sets.scan_members(key, cursor, count=PAGE)]
        if isinstance(page, DurasleepError):
            report.add(_by_hand("corrupt", to_text(key), f"cannot be read: {page}"))
            return
        cursor, members = page
        yield from _check(keys, [(kind, member, b"") for member in members], report, repair)
        if cursor == b"0":
            return


def _check_queue(keys: Keyspace, queue: bytes, report: Report, repair: bool) -> Plan[None]:
    stream, after = keys.queue(to_text(queue)).encode(), b""
    while True:
        [rows] = yield [streams.list_entries(stream, after=after, count=PAGE)]
        if isinstance(rows, DurasleepError):
            report.add(_by_hand("corrupt", to_text(stream), f"cannot be read: {rows}"))
            return
        entries = [entry for entry, _ in rows]
        yield from _check(keys, [("entry", queue, entry) for entry in entries], report, repair)
        if len(rows) < PAGE:
            return
        after = entries[-1]


def _by_hand(kind: str, id: str, text: str) -> Finding:
    return Finding(kind, id, text, repaired=False, repairable=False)
