"""Pausing groups, and what there is to know of each, with no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from durasleep.errors import DurasleepError
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


def pause(keyspaces: Keyspaces, group: str, by: str) -> Plan[bool]:
    """Pause a group in all partitions; returns whether it was not paused in one of them."""
    is_new = False
    now_ms = yield from server.now_ms(keyspaces[0])
    for keys in keyspaces:
        since, by_whom = yield groups.pause(keys, group, now_ms, by)
        unwrap(by_whom)
        is_new = unwrap(since) or is_new
    return is_new


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
        one = _of(found, queue.partition("/")[0])
        if not isinstance(length, DurasleepError):
            found[one.name] = replace(one, queued=one.queued + length)
    for name, worker in (yield from _workers(keyspaces)):
        _of(found, name).workers.append(worker)
    for name in (yield from paused_names(keyspaces)):
        _of(found, name)
    for name, paused in (yield from groups.read_pauses(keyspaces, found)).items():
        found[name] = replace(found[name], paused_since_ms=paused.since_ms, paused_by=paused.by)
    return [replace(found[name], workers=sorted(set(found[name].workers))) for name in sorted(found)]


def _of(found: dict[str, GroupSummary], name: str) -> GroupSummary:
    return found.setdefault(name, GroupSummary(name))


def _workers(keyspaces: Keyspaces) -> Plan[list[tuple[str, str]]]:
    """The living workers of all groups: the group and the name of each."""
    consumers: dict[str, Keyspace] = {}
    for keys in keyspaces:
        now_ms = yield from server.now_ms(keys)
        [beats] = yield [sorted_sets.list_members(keys.workers, count=_WORKERS_MAX)]
        consumers |= {name: keys for name, at_ms in unwrap(beats) if now_ms - at_ms <= _GONE_MS}
    asked = [membership.read_group(keys, name) for name, keys in consumers.items()]
    answers = (yield asked) if asked else []
    pairs = zip(answers, consumers, strict=True)
    return [(group, name.partition("/")[0]) for group, name in pairs if isinstance(group, str) and group]


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
