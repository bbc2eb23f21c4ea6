"""Pausing groups, and what there is to know of each, with no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from durasleep.errors import DurasleepError
from durasleep.model import group_of
from durasleep.protocol import groups, membership, server, sorted_sets, streams
from durasleep.protocol.command import Plan, to_text, unwrap
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.query import search
from durasleep.query.search import SearchPage

_WORKERS_MAX = 1_000  # looked at in each partition
_GONE_MS = 10_000  # without a heartbeat for so long, a worker is dead
_SCAN_COUNT = 5_000  # keys in one step of a scan


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """A group: who serves it, and what waits for it."""

    name: str
    """Its name."""
    workers: list[str] = field(default_factory=list[str])
    """Names of its workers that have sent a heartbeat lately."""
    queued: int = 0
    """How many of its executions wait for a worker, or run."""
    paused_since_ms: int | None = None
    """Since when it is paused, in ms since 1970; None if it is not."""
    paused_by: str | None = None
    """Who has paused it."""
    unaware: list[str] = field(default_factory=list[str])
    """Those of its workers that are of an earlier version and do not know of pauses: they go on."""


def pause(keyspaces: Keyspaces, group: str, by: str) -> Plan[bool]:
    """Pause a group in all partitions; returns whether it was not paused in one of them."""
    now_ms = yield from server.now_ms(keyspaces[0])
    answers = yield [command for keys in keyspaces for command in groups.pause(keys, group, now_ms, by)]
    were_new = [unwrap(answer) for answer in answers]
    return any(were_new[::2])


def resume(keyspaces: Keyspaces, group: str) -> Plan[bool]:
    """Let a group go on in all partitions; returns whether it was paused in one of them."""
    answers = yield [groups.resume(keys, group) for keys in keyspaces]
    were_paused = [unwrap(answer) for answer in answers]
    return any(were_paused)


def summarize(keyspaces: Keyspaces) -> Plan[list[GroupSummary]]:
    """All groups that have workers, queues, or a pause; by name."""
    found: dict[str, GroupSummary] = {}
    queues = yield from search.queues(keyspaces, None, SearchPage())
    lengths = (yield [streams.count_entries(keys.queue(queue)) for keys, queue in queues]) if queues else []
    for (_, queue), length in zip(queues, lengths, strict=True):
        one = _of(found, group_of(queue))
        if not isinstance(length, DurasleepError):
            found[one.name] = replace(one, queued=one.queued + length)
    for name, worker, knows in (yield from _workers(keyspaces)):
        one = _of(found, name)
        one.workers.append(worker)
        if groups.PAUSE not in knows:
            one.unaware.append(worker)
    for name in (yield from paused_names(keyspaces)):
        _of(found, name)
    for name, paused in (yield from groups.read_pauses(keyspaces, found)).items():
        found[name] = replace(found[name], paused_since_ms=paused.since_ms, paused_by=paused.by)
    return [
        replace(one, workers=sorted(set(one.workers)), unaware=sorted(set(one.unaware)))
        for _, one in sorted(found.items())
    ]


def _of(found: dict[str, GroupSummary], name: str) -> GroupSummary:
    return found.setdefault(name, GroupSummary(name))


def _workers(keyspaces: Keyspaces) -> Plan[list[tuple[str, str, list[str]]]]:
    """The living workers of all groups: the group and the name of each, and what it knows."""
    consumers: dict[str, Keyspace] = {}
    for keys in keyspaces:
        now_ms = yield from server.now_ms(keys)
        [beats] = yield [sorted_sets.list_members(keys.workers, count=_WORKERS_MAX)]
        consumers |= {name: keys for name, at_ms in unwrap(beats) if now_ms - at_ms <= _GONE_MS}
    asked = [membership.read_group(keys, name) for name, keys in consumers.items()]
    answers: list[tuple[str, str] | DurasleepError] = (yield asked) if asked else []
    found: list[tuple[str, str, list[str]]] = []
    for answer, name in zip(answers, consumers, strict=True):
        if not isinstance(answer, DurasleepError) and answer[0]:
            found.append((answer[0], name.partition("/")[0], answer[1].split()))
    return found


def paused_names(keyspaces: Keyspaces) -> Plan[set[str]]:
    """The names of all groups that are paused in any partition."""
    found: set[str] = set()
    for at, *_ in keyspaces.by_node():
        cursor = b"0"
        while True:
            [page] = yield [server.scan(keyspaces.pattern("group:*"), cursor, count=_SCAN_COUNT).at(at.slot)]
            cursor, names = unwrap(page)
            ours = [one[1] for name in names if (one := keyspaces.parse(name)) is not None]
            found |= {to_text(name).removeprefix("group:") for name in ours}
            if cursor == b"0":
                break
    return found
