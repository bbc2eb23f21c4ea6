"""Walks a namespace and checks every law that broken data would violate, with no I/O: a plan of bounded reads.

A script checks each thing at one instant, so a live system raises no false alarm. With ``repair`` the same script
repairs everything that needs no guess.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from durasleep.errors import DurasleepError
from durasleep.protocol import command, resonate, server, sorted_sets, streams
from durasleep.protocol.command import BatchItem, Call, Plan, to_text, unwrap
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.keyspaces import Keyspaces

_FINDINGS_MAX = 1_000  # in one report; more are only counted
PAGE = 500  # keys, members or entries in one read: a millisecond of Redis

_EXPIRING = ("inbox", "stats", "worker", "repeat", "clock-held", "clock-released", "arriving")
_OTHERS = "r:"
"""Before the kinds of things of Resonate's protocol; the keys of these begin so, too."""
_MEMBERS_OF_OTHERS = {"timer": "timers", "settled": "settled"}
_OF_USERS = "own"
_WHOLE = (
    *("functions", "timers", "wake", "workers", "closing", "halted", "recent", "failed", "audit", "clock"),
    "schedules",
)
"""Keys that exist once; their content is checked separately."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that violates a law."""

    kind: str
    """The kind of the problem in a word, for programs: ``unqueued``, ``untimed``, ``untold``, ``orphan``, ..."""
    id: str
    """The name of the promise, timer, stream entry or key."""
    text: str
    """The rest of a sentence that begins with the id."""
    repaired: bool
    """Whether it has been repaired."""
    repairable: bool
    """Whether a check with ``repair`` repairs it."""


@dataclass(slots=True)
class Report:
    """The findings in a namespace."""

    findings: list[Finding] = field(default_factory=list[Finding])
    """What violates a law, at most 1,000 findings."""
    checked: Counter[str] = field(default_factory=Counter[str])
    """How many of each kind of thing were checked: ``promise``, ``timer``, ``entry``, ..."""
    left_out: int = 0
    """Findings beyond those listed."""
    is_whole: bool = True
    """Whether everything was checked. If not, slots of a cluster were moved meanwhile: check again."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong, or everything was repaired."""
        return not self.left_out and all(finding.repaired for finding in self.findings)

    def add(self, finding: Finding) -> None:
        """Add a finding, once: a scan may return the same key twice."""
        if len(self.findings) >= _FINDINGS_MAX:
            self.left_out += 1
        elif not any(finding.id == known.id and finding.kind == known.kind for known in self.findings):
            self.findings.append(finding)


@dataclass(frozen=True, slots=True)
class _Checked:
    """The script's answer for one thing, and where to go on."""

    at: bytes
    findings: list[Finding]


_Thing = tuple[Keyspace, str, bytes, bytes]
"""A thing to check: its partition, its kind, its name, and the position in it."""


def fsck(keyspaces: Keyspaces, *, repair: bool = False) -> Plan[Report]:
    """Check everything in a namespace, in time proportional to it; safe on a live system."""
    report = Report()
    queues: dict[tuple[Keyspace, bytes], None] = {}
    limits: dict[tuple[Keyspace, bytes], None] = {}
    addresses: dict[tuple[Keyspace, bytes], None] = {}
    for keys, *_ in keyspaces.by_node():
        cursor = b"0"
        while True:
            [page] = yield [server.scan(keyspaces.pattern("*"), cursor, count=PAGE).at(keys.slot)]
            cursor, names = unwrap(page)
            yield from _check(keyspaces, _things(keyspaces, names, queues, limits, addresses, report), report, repair)
            if cursor == b"0":
                break
    for keys in keyspaces:
        sets = (("timer", keys.timers), ("halted", keys.halted), ("closing", keys.closing), ("member", keys.workers))
        for kind, key in sets:
            yield from _check_members(keyspaces, keys, kind, key.encode(), report, repair)
    yield from _check(keyspaces, [(keys, "limit", name, b"") for keys, name in limits], report, repair)
    for keys, queue in queues:
        yield from _check_queue(keyspaces, keys, queue, report, repair)
    for keys in keyspaces:
        for kind, name in _MEMBERS_OF_OTHERS.items():
            yield from _check_members(
                keyspaces, keys, f"{_OTHERS}{kind}", f"{keys.resonate}{name}".encode(), report, repair
            )
    for keys, address in addresses:
        yield from _check_address(keyspaces, keys, address, report, repair)
    return report


def _things(
    keyspaces: Keyspaces,
    names: Iterable[bytes],
    queues: dict[tuple[Keyspace, bytes], None],
    limits: dict[tuple[Keyspace, bytes], None],
    addresses: dict[tuple[Keyspace, bytes], None],
    report: Report,
) -> Iterator[_Thing]:
    """The things behind some keys. Queues and limits are collected for later; unknown keys are reported."""
    for name in names:
        if (ours := keyspaces.parse(name)) is None:
            continue  # of another namespace
        keys, rest = ours
        kind, _, subject = rest.partition(b":")
        match to_text(kind):
            case ("promise" | "schedule" | "waiters" | "run" | "view" | "mail") as known if subject:
                yield keys, known, subject, b""
            case "r":
                yield from _things_of_others(keys, name, subject, addresses, report)
            case "group" | "index" if subject:
                yield keys, "key", rest, b""
            case "queue" if subject:
                queues[keys, subject] = None
            case "limit" if subject:
                limit, _, part = subject.partition(b":")
                limits[keys, limit] = None
                if part.startswith(b"rate:"):
                    yield keys, "expiring", name, b""
            case known if known == _OF_USERS and subject:
                pass
            case known if known in _EXPIRING:
                yield keys, "expiring", name, b""
            case known if known not in _WHOLE or subject:
                report.add(_by_hand("unknown", to_text(name), "is not a key of durasleep: find out who wrote it"))
            case "clock":
                pass
            case _:
                yield keys, "key", rest, b""


def _things_of_others(
    keys: Keyspace, name: bytes, rest: bytes, addresses: dict[tuple[Keyspace, bytes], None], report: Report
) -> Iterator[_Thing]:
    """The thing behind a key of Resonate's protocol. Queues are collected for later."""
    kind, _, subject = rest.partition(b":")
    match to_text(kind):
        case ("promise" | "schedule" | "waiters" | "readers" | "branch") as known if subject:
            yield keys, f"{_OTHERS}{known}", subject, b""
        case "queue" if subject:
            addresses[keys, subject] = None
        case "inbox" if subject:
            yield keys, "expiring", name, b""
        case "timers" | "settled" | "wake" if not subject:
            pass
        case _:
            report.add(_by_hand("unknown", to_text(name), "is not a key of durasleep: find out who wrote it"))


def _check(keyspaces: Keyspaces, things: Iterable[_Thing], report: Report, repair: bool) -> Plan[None]:
    """Check some things; those with several pages until their end."""
    left = list(things)
    report.checked.update(kind for _, kind, _, _ in left)
    while left:
        answers = yield [_item(thing, repair) for thing in left]
        again: list[_Thing] = []
        for (keys, kind, name, _), answer in zip(left, answers, strict=True):
            if isinstance(answer, DurasleepError):
                report.add(_by_hand("corrupt", to_text(name), f"cannot be read: {answer}"))
                continue
            checked: _Checked = answer
            for finding in checked.findings:
                report.add(finding)
            if checked.at:
                again.append(_next_of(keyspaces, (keys, kind, name, checked.at)))
        left = again


def _next_of(keyspaces: Keyspaces, thing: _Thing) -> _Thing:
    """Where to go on. A promise of Resonate's protocol may depend on another one, perhaps in another partition."""
    _, kind, name, at = thing
    if kind != f"{_OTHERS}promise":
        return thing
    word, version, other = at.split(b"\0", 2)
    return resonate.keys_of(keyspaces, to_text(other)), kind, other, b"\0".join((word, version, name))


def _item(thing: _Thing, repair: bool) -> Call:
    keys, kind, name, at = thing
    if kind.startswith(_OTHERS):
        return resonate.check(keys, kind.removeprefix(_OTHERS), name, at, repair=repair, parse=_parse)
    to = command.route("fsck", keys, ("1" if repair else "",))
    return BatchItem(to, to.script.item(what=kind, name=name, at=at), _parse)


def _parse(answer: list[bytes]) -> _Checked:
    at, *found = answer
    rows = zip(found[::4], found[1::4], found[2::4], found[3::4], strict=True)
    findings = [
        Finding(to_text(kind), to_text(id), to_text(text), repaired=repaired == b"1", repairable=repaired != b"")
        for kind, id, text, repaired in rows
    ]
    return _Checked(at, findings)


def _check_address(keyspaces: Keyspaces, keys: Keyspace, address: bytes, report: Report, repair: bool) -> Plan[None]:
    """The queue of an address: whether each of its members is to be sent there."""
    key = f"{keys.resonate}queue:".encode() + address
    yield from _check_members(keyspaces, keys, f"{_OTHERS}queue", key, report, repair, of=address)


def _check_members(
    keyspaces: Keyspaces,
    keys: Keyspace,
    kind: str,
    key: bytes,
    report: Report,
    repair: bool,
    *,
    of: bytes | None = None,
) -> Plan[None]:
    cursor = b"0"
    while True:
        [page] = yield [sorted_sets.scan_members(key, cursor, count=PAGE)]
        if isinstance(page, DurasleepError):
            report.add(_by_hand("corrupt", to_text(key), f"cannot be read: {page}"))
            return
        cursor, members = page
        things = [(keys, kind, member, b"") if of is None else (keys, kind, of, member) for member in members]
        yield from _check(keyspaces, things, report, repair)
        if cursor == b"0":
            return


def _check_queue(keyspaces: Keyspaces, keys: Keyspace, queue: bytes, report: Report, repair: bool) -> Plan[None]:
    stream, after = keys.queue(to_text(queue)).encode(), b""
    while True:
        [rows] = yield [streams.list_entries(stream, after=after, count=PAGE)]
        if isinstance(rows, DurasleepError):
            report.add(_by_hand("corrupt", to_text(stream), f"cannot be read: {rows}"))
            return
        entries = [entry for entry, _ in rows]
        yield from _check(keyspaces, [(keys, "entry", queue, entry) for entry in entries], report, repair)
        if len(rows) < PAGE:
            return
        after = entries[-1]


def _by_hand(kind: str, id: str, text: str) -> Finding:
    return Finding(kind, id, text, repaired=False, repairable=False)
