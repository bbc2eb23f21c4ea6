"""The scripts of Resonate's protocol: what each is asked, and what its answer means.

A request is JSON, and its answer is, too; ``resonate_requests`` divides those that concern several partitions.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from durasleep.errors import InvalidId
from durasleep.protocol import partitions as partitions_
from durasleep.protocol import script
from durasleep.protocol.command import BatchItem, Command, Route, pairs, to_text
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.protocol.script import Script, Value

VERSION = "2026-04-01"
"""The version of the protocol."""
OURS = "durasleep://"
"""The address of durasleep itself, see ``bridge``: with the name of a group behind it, it is a target."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request: an HTTP status, and the body."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class DueSchedule:
    """A schedule whose time has come. ``param`` and ``tags`` are JSON."""

    id: str
    due_ms: int
    cron: str
    promise_id: str
    timeout_ms: int
    param: bytes
    tags: bytes


@dataclass(frozen=True, slots=True)
class Tell:
    """A task waits for a promise of another partition, which has settled."""

    awaiter: str
    awaited: str


@dataclass(frozen=True, slots=True)
class Ticked:
    """What was due in a partition."""

    server_us: int
    """The server's time, or the one that was given."""
    due: int
    """How many timers. If they are as many as asked for, there may be more."""
    next_due_ms: int | None
    """When the next timer is due; None if there is none."""
    schedules: list[DueSchedule]
    tells: list[Tell]
    problems: list[str] = field(default_factory=list[str])
    """What of this could not be done, in sentences: whoever follows a tick finds it."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message for an address, as JSON."""

    preferred: str
    """The process of the group that should get it; empty if it is all the same."""
    body: bytes


class Messages(list[Message]):
    """The messages of one address."""

    problem = ""
    """What is wrong with its keys, if anything is; then some may be missing."""


@dataclass(frozen=True, slots=True)
class Retained:
    """What has become of promises that settled some time ago."""

    looked_at: int
    """If they are as many as asked for, there may be more."""
    removed: int
    foreign: list[Tell] = field(default_factory=list[Tell])
    """Promises that are kept because a task of another partition may need them: whoever follows asks for it."""
    failures: list[str] = field(default_factory=list[str])
    """Promises that could not be looked at, in sentences. They are looked at again a day later."""


# -- partitions


def root_of(id: str) -> str:
    """What the ids of a promise and of all below it begin with: the text before the first ``.`` or ``:``."""
    return id.partition(":")[0].partition(".")[0]


def partition_of(id: str, partitions: int) -> int:
    """The number of the partition of an id, from 0: that of its root.

    An execution with the id of the root is in the same one. An id whose braces do not match is whole.
    """
    root = root_of(id)
    try:
        return partitions_.partition_of(root, partitions)
    except InvalidId:
        return crc_hqx(root.encode("utf-8", "surrogatepass"), 0) % partitions


def keys_of(keyspaces: Keyspaces, id: str) -> Keyspace:
    """The partition of an id."""
    return keyspaces[partition_of(id, len(keyspaces))]


# -- the scripts


@lru_cache(maxsize=4 * partitions_.PARTITIONS_MAX)
def _beginning(keys: Keyspace, name: str) -> tuple[Script, list[Value]]:
    """A script, and its command up to the arguments: they are the same in each call."""
    lua, own = script.load(name, keys.movable_clock, keys.value_bytes_max), keys.resonate
    return lua, script.evalsha(lua, (own.encode(), f"{own}timers".encode()), ())


def _command(keys: Keyspace, name: str, args: Sequence[Value], parse: Any) -> Command[Any]:
    lua, beginning = _beginning(keys, name)
    return Command([*beginning, *args], parse, lua, keys.slot)


def _time(ms: int | None) -> str:
    return "" if ms is None else str(ms)


def _parse_answer(answer: list[Any]) -> Answer:
    return Answer(int(answer[0]), answer[1])


def rpc(
    keys: Keyspace,
    request: bytes,
    *,
    now_ms: int | None = None,
    next_run_at: int | None = None,
    part: str = "",
    others: Sequence[str] = (),
) -> Command[Answer]:
    """Do a request in one partition.

    ``now_ms`` is for simulations; ``next_run_at`` is when a schedule that is to be created is due first. For ``part``
    and ``others`` see ``resonate_rpc.lua``.
    """
    args = [request, _time(now_ms), _time(next_run_at), part, *others]
    return _command(keys, "resonate_rpc", args, _parse_answer)


def tick(
    keys: Keyspace, *, limit: int = 100, now_ms: int | None = None, notes: Sequence[Sequence[str]] = ()
) -> Command[Ticked]:
    """Do what is due, after some notes: see ``advance``, ``settled`` and ``told``."""
    said = [word for note in notes for word in (str(len(note)), *note)]

    def parse(answer: list[Any]) -> Ticked:
        ms, micros, due, first, schedules, tells, failures = answer
        return Ticked(
            int(ms) * 1000 + (int(micros) % 1000 if now_ms is None else 0),
            int(due),
            int(first) if first else None,
            [_parse_schedule(*one) for one in schedules],
            [Tell(to_text(awaiter), to_text(awaited)) for awaiter, awaited in tells],
            [f"the timer {to_text(name)} fails: {to_text(problem)}" for name, problem in failures],
        )

    return _command(keys, "resonate_tick", [str(limit), _time(now_ms), *said], parse)


def advance(schedule: DueSchedule, next_due_ms: int, last_ms: int) -> Sequence[str]:
    """Note that the promises of a schedule were made; it is due again at another time."""
    return "advance", schedule.id, str(schedule.due_ms), str(next_due_ms), str(last_ms)


def settled(one: Tell) -> Sequence[str]:
    """Note for the partition of a task that what it waits for has settled elsewhere."""
    return "settled", one.awaiter, one.awaited


def told(one: Tell) -> Sequence[str]:
    """Note for the partition of a promise that the task has heard."""
    return "told", one.awaiter, one.awaited


def _parse_schedule(
    id: bytes, due_ms: bytes, cron: bytes, promise_id: bytes, timeout_ms: bytes, param: bytes, tags: bytes
) -> DueSchedule:
    return DueSchedule(to_text(id), int(due_ms), to_text(cron), to_text(promise_id), int(timeout_ms), param, tags)


def take(
    keys: Keyspace, addresses: Sequence[str], *, limit: int = 100, now_ms: int | None = None
) -> Command[list[Messages]]:
    """Take the messages of some addresses, at most ``limit`` of each, in their order.

    An address is ``poll://any@GROUP``, ``poll://uni@GROUP/PID``, ``OURS`` or another one with a scheme.
    """

    def parse(answer: list[list[bytes]]) -> list[Messages]:
        return [_messages(one) for one in answer]

    return _command(keys, "resonate_take", [str(limit), _time(now_ms), *addresses], parse)


def _messages(words: list[bytes]) -> Messages:
    problem = to_text(words.pop()) if len(words) % 2 else ""
    messages = Messages(Message(to_text(preferred), body) for preferred, body in pairs(words))
    messages.problem = problem
    return messages


def carried(keys: Keyspace, id: str) -> Command[bool]:
    """What a promise has to tell durasleep was carried: it leaves the queue ``OURS``."""
    return Command([b"ZREM", f"{keys.resonate}queue:{OURS}".encode(), id.encode()], bool)


def keep_telling(keys: Keyspace, id: str) -> Command[int]:
    """What a promise has to tell durasleep could not be carried by whoever calls this: a gateway does."""
    return Command([b"ZADD", f"{keys.resonate}queue:{OURS}".encode(), b"NX", b"0", id.encode()], int)


def look_later(keys: Keyspace, id: str, more_ms: int) -> Command[bytes | None]:
    """What a promise has to tell durasleep is taken again so much later than it would be."""
    more = b"%d" % more_ms
    return Command([b"ZADD", f"{keys.resonate}queue:{OURS}".encode(), b"XX", b"INCR", more, id.encode()], bytes)


def retain(
    keys: Keyspace, *, limit: int = 100, now_ms: int | None = None, ended: Sequence[Tell] = ()
) -> Command[Retained]:
    """Remove promises that settled long enough ago. Those for which a task of another partition has ``ended`` do not
    wait for it any more.
    """
    words = [word for one in ended for word in (one.awaiter, one.awaited)]

    def parse(answer: list[Any]) -> Retained:
        looked_at, removed, foreign, failures = answer
        return Retained(
            looked_at,
            removed,
            [Tell(to_text(awaiter), to_text(awaited)) for awaiter, awaited in foreign],
            [f"the promise {to_text(id)} cannot be removed: {to_text(problem)}" for id, problem in failures],
        )

    return _command(keys, "resonate_retain", [str(limit), _time(now_ms), *words], parse)


@lru_cache(maxsize=2 * partitions_.PARTITIONS_MAX)
def _fsck_route(keys: Keyspace, repair: bool) -> Route:
    lua, start = _beginning(keys, "resonate_fsck")
    return Route(lua, (*start, "1" if repair else ""), keys.slot)


def check(keys: Keyspace, what: str, name: bytes, at: bytes, *, repair: bool, parse: Any) -> BatchItem[Any]:
    """Check one thing, see ``resonate_fsck.lua`` and ``query.fsck``."""
    to = _fsck_route(keys, repair)
    return BatchItem(to, to.script.item(what=what, name=name, at=at), parse)
