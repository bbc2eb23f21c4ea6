"""What a move reads of the old namespace as a whole, and what it does to it at last, with no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from durasleep.errors import DurasleepError, InvalidId
from durasleep.model import PromiseId, owner_of
from durasleep.protocol import groups, membership, server, sorted_sets, streams, timers
from durasleep.protocol.command import Call, Command, Plan, to_text, unwrap
from durasleep.protocol.keys import LIMIT, Keyspace
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.query.groups import paused_names
from durasleep.query.search import is_quarantined

PAGE = 500  # keys or entries in one read: a millisecond of Redis
LISTED_MAX = 1_000

_WHOLE = ("timers", "wake", "workers", "closing", "recent", "failed", "audit", "clock-held", "clock-released")
"""Keys that exist once, and are of no use when everything has left."""

_DERIVED = (b"functions", b"limit", b"index", b"stats")
"""The beginnings of keys that the new namespace makes itself."""


@dataclass(slots=True)
class Survey:
    """What is in a namespace that is to be moved. A scan may count a key twice."""

    promises: int = 0
    """Executions and promises that are no part of another execution."""
    members: int = 0
    """Those that are."""
    schedules: int = 0
    timers: int = 0
    queued: int = 0
    halted: int = 0
    """Executions that wait for a person, and quarantined names."""
    queues: list[tuple[Keyspace, bytes]] = field(default_factory=list[tuple[Keyspace, bytes]])
    """The streams of the queues, and the partition of each."""
    paused: list[tuple[Keyspace, bytes]] = field(default_factory=list[tuple[Keyspace, bytes]])
    """The keys of the paused groups, and the partition of each."""
    derived: list[tuple[Keyspace, bytes]] = field(default_factory=list[tuple[Keyspace, bytes]])
    """Keys that the new namespace makes itself: those of limits, indexes and counters, and the partition of each."""
    own: list[str] = field(default_factory=list[str])
    """Keys of ``ctx.key`` and ``app.key``, the first thousand."""
    others: list[str] = field(default_factory=list[str])
    """Keys of promises and schedules of Resonate's protocol, the first thousand."""
    refused: list[str] = field(default_factory=list[str])
    """Ids that the new namespace cannot take, the first thousand."""

    @property
    def total(self) -> int:
        """How much there is to carry."""
        return self.promises + self.members + self.schedules


Name = tuple[Keyspace, str]
"""A promise or schedule, ``promise:<id>``, and its partition."""


def scan(keyspaces: Keyspaces, at: Keyspace, cursor: bytes) -> Command[tuple[bytes, list[bytes]]]:
    """A page of all keys on the node of one partition: the next cursor, b"0" at the end, and names."""
    return server.scan(keyspaces.pattern("*"), cursor or b"0", count=PAGE).at(at.slot)


def names(keyspaces: Keyspaces, keys: list[bytes]) -> Iterator[Name]:
    """The promises and schedules among some keys, those that were taken out already too."""
    for key in keys:
        if ours := keyspaces.parse(key):
            name = to_text(ours[1]).removeprefix("leaving:")
            if name.startswith(("promise:", "schedule:")):
                yield ours[0], name


def id_of(name: str) -> PromiseId:
    """The id of a promise, or the name of a schedule."""
    return PromiseId(name.partition(":")[2])


def survey(keyspaces: Keyspaces, there: Keyspaces) -> Plan[Survey]:
    """What is in a namespace."""
    found = Survey()
    for at, *_ in keyspaces.by_node():
        cursor = b""
        while cursor != b"0":
            [page] = yield [scan(keyspaces, at, cursor)]
            cursor, keys = unwrap(page)
            for key in keys:
                _note_key(found, keyspaces, key)
            for _, name in names(keyspaces, keys):
                _count(found, name, there)
    # A scan may show a key twice, and in any order; a move that is repeated must not change the order of what waits.
    found.queues = sorted(set(found.queues), key=lambda one: (one[0].partition, one[1]))
    if found.queues:
        found.queued = _sum((yield [streams.count_entries(to_text(queue)) for _, queue in found.queues]))
    found.timers = _sum((yield [sorted_sets.count_members(keys.timers) for keys in keyspaces]))
    found.halted = _sum((yield [sorted_sets.count_members(keys.halted) for keys in keyspaces]))
    return found


def _note_key(found: Survey, keyspaces: Keyspaces, key: bytes) -> None:
    if ours := keyspaces.parse(key):
        keys, name = ours
        if name.startswith(b"own:") and len(found.own) < LISTED_MAX:
            found.own.append(to_text(key))
        elif name.startswith((b"r:promise:", b"r:schedule:")) and len(found.others) < LISTED_MAX:
            found.others.append(to_text(key))
        elif name.startswith(b"queue:"):
            found.queues.append((keys, key))
        elif name.startswith(b"group:"):
            found.paused.append((keys, key))
        elif name.partition(b":")[0] in _DERIVED:
            found.derived.append((keys, key))


def _count(found: Survey, name: str, there: Keyspaces) -> None:
    id = id_of(name)
    if name.startswith("schedule:"):
        found.schedules += 1
    elif owner_of(id):
        found.members += 1
    else:
        found.promises += 1
    try:
        there.of(id)
    except InvalidId:
        if len(found.refused) < LISTED_MAX:
            found.refused.append(id)


def _sum(answers: list[int | DurasleepError]) -> int:
    return sum([answer for answer in answers if isinstance(answer, int)])


Beats = dict[tuple[int, str], int]
"""The last heartbeat of each worker, by partition and name."""


def beats(keyspaces: Keyspaces) -> Plan[Beats]:
    """When the workers have sent their last heartbeats."""
    found = yield [sorted_sets.list_members(keys.workers) for keys in keyspaces]
    return {
        (keys.partition, name): at_ms
        for keys, members in zip(keyspaces, found, strict=True)
        for name, at_ms in unwrap(members)
    }


def between_beats(keyspaces: Keyspaces, seen: Beats) -> Plan[float]:
    """The longest time between two heartbeats of any of these workers, in seconds."""
    if not seen:
        return 0.0
    found = yield [membership.read_beat_ms(keyspaces[partition], name) for partition, name in seen]
    return max([answer for answer in found if isinstance(answer, int)], default=0) / 1000


def close_families(keyspaces: Keyspaces) -> Plan[None]:
    """Families that are being closed are closed to their end; no timer fires."""
    for keys in keyspaces:
        is_closing = True
        while is_closing:
            [fired] = yield [timers.fire(keys, limit=1, latest_ms=0)]
            is_closing = unwrap(fired).closing > 0


def quarantined(keyspaces: Keyspaces) -> Plan[list[tuple[Keyspace, str, int]]]:
    """The quarantined names, the partition of each, and since when it is one."""
    found = yield [sorted_sets.list_members(keys.halted) for keys in keyspaces]
    return [
        (keys, name, at_ms)
        for keys, members in zip(keyspaces, found, strict=True)
        for name, at_ms in unwrap(members)
        if is_quarantined(name)
    ]


def home_of(name: str, there: Keyspaces) -> Keyspace:
    """Where a quarantined name belongs: beside its schedule; else it does not matter."""
    kind, _, rest = name.partition(":")
    return there.of(rest.partition(":")[0]) if kind == "schedule" else there[0]


def pauses(keyspaces: Keyspaces, there: Keyspaces) -> Plan[list[Command[bool]]]:
    """The pauses of groups, for each new partition."""
    found = yield from groups.read_pauses(keyspaces, (yield from paused_names(keyspaces)))
    return [
        command
        for name, pause in found.items()
        for keys in there
        for command in groups.pause(keys, name, pause.since_ms, pause.by)
    ]


def audit(keyspaces: Keyspaces, there: Keyspaces) -> Plan[list[Command[object]]]:
    """The entries of the audit, in their order, for one new partition."""
    rows: list[tuple[tuple[int, int], list[bytes]]] = []
    for keys in keyspaces:
        entries = yield from _entries(keys.audit.encode())
        rows += [(streams.instant_of(entry), fields) for entry, fields in entries]
    found: list[Command[object]] = []
    latest = (0, 0)
    for at, fields in sorted(rows)[-LIMIT["audit_max"] :]:
        latest = at if at > latest else (latest[0], latest[1] + 1)
        found.append(streams.add_entry(there[0].audit.encode(), b"%d-%d" % latest, fields))
    return found


def _entries(stream: bytes) -> Plan[list[tuple[bytes, list[bytes]]]]:
    """All entries of a stream, as many as can be read."""
    found: list[tuple[bytes, list[bytes]]] = []
    after = b""
    while True:
        [page] = yield [streams.list_entries(stream, after=after, count=PAGE)]
        if isinstance(page, DurasleepError):
            return found
        found += page
        if len(page) < PAGE:
            return found
        after = page[-1][0]


Recent = tuple[Keyspace, bytes, list[bytes]]
"""The partition, the id and the fields of an entry in the list of the latest endings."""


def endings(keyspaces: Keyspaces, there: Keyspaces, list_name: str) -> Plan[list[Recent]]:
    """The entries of ``recent`` or ``failed`` for the new partitions, in their order."""
    rows: list[tuple[tuple[int, int], list[bytes]]] = []
    for keys in keyspaces:
        entries = yield from _entries(_list_of(keys, list_name))
        rows += [(streams.instant_of(entry), fields) for entry, fields in entries]
    found: list[Recent] = []
    latest: dict[int, tuple[int, int]] = {}
    for at, fields in sorted(rows):
        for partition, part in _split(fields, there).items():
            before = latest.get(partition, (0, 0))
            latest[partition] = at if at > before else (before[0], before[1] + 1)
            found.append((there[partition], b"%d-%d" % latest[partition], part))
    counts = Counter(keys.partition for keys, _, _ in found)
    kept: list[Recent] = []
    for one in found:
        counts[one[0].partition] -= 1
        if counts[one[0].partition] < LIMIT["recent_max"]:
            kept.append(one)
    return kept


def _list_of(keys: Keyspace, name: str) -> bytes:
    return (keys.failed if name == "failed" else keys.recent).encode()


def add_ending(one: Recent, list_name: str) -> Call:
    """Add it to the list of its partition; refused if it is there already."""
    keys, entry, fields = one
    return streams.add_entry(_list_of(keys, list_name), entry, fields)


def _split(fields: list[bytes], there: Keyspaces) -> dict[int, list[bytes]]:
    """The endings of an entry by the new partition of each: ``z`` and its time, then i, s, f and c of each."""
    parts: dict[int, list[bytes]] = {}
    head, rest = fields[:2], fields[2:]
    for at in range(0, len(rest), 8):
        ending = rest[at : at + 8]
        try:
            partition = there.of(to_text(ending[1])).partition
        except (InvalidId, IndexError):
            continue
        parts.setdefault(partition, list(head)).extend(ending)
    return parts


def clear(keyspaces: Keyspaces, found: Survey, *, is_empty: bool) -> Plan[None]:
    """Delete what is of no use any more; the list of the halted executions only if all have left."""
    whole = (*_WHOLE, "halted") if is_empty else _WHOLE
    for keys in keyspaces:
        mine = [key for owner, key in (*found.queues, *found.paused, *found.derived) if owner is keys]
        gone = [*(f"{keys.tag}{name}".encode() for name in whole), *mine]
        for start in range(0, len(gone), PAGE):
            [deleted] = yield [server.delete(gone[start : start + PAGE])]
            unwrap(deleted)
