"""Which workers are alive, and which leases they hold: joining, heartbeats, and taking over from dead workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from durasleep.model import PromiseId, levels_of
from durasleep.protocol import script
from durasleep.protocol.command import Command, key_list, pairs, to_number, to_text
from durasleep.protocol.commit import EntryKey, Lease
from durasleep.protocol.keys import LIMIT, Keyspace, W
from durasleep.protocol.streams import Read, Rows


@dataclass(frozen=True, slots=True)
class Peer:
    """A worker at its last heartbeat."""

    consumer: str
    beat: str
    client_id: str
    """Of its heartbeat connection; empty for a consumer that stands for a worker over HTTP, see ``lend``."""
    beat_ms: int | None = None
    """Between two of its heartbeats; None if it does not say."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer to a heartbeat."""

    server_us: int
    rank: int
    last_wake: bytes
    """Empty if another value has taken the key of that stream."""
    last_notified: bytes
    lost: list[EntryKey]
    """Those of the leases that it named and does not hold."""
    orders: dict[str, int]
    unnamed: list[EntryKey]
    peers: list[Peer]
    consumers: list[str]
    levels: list[str]
    """The queues of the group with entries, apart from that of the usual priority."""
    partition: int = 0
    """In which it was sent."""
    is_paused: bool = False
    """Whether the group is to take no more executions there."""

    def fresh(self, beat_ms: int) -> list[str]:
        """The workers with a recent heartbeat, apart from those over HTTP; one that does not say how often it sends
        heartbeats does so every ``beat_ms``.

        In both directions, as in ``heartbeat.lua``: the server's clock may have been set back.
        """
        now_ms = self.server_us // 1000
        return [
            peer.consumer
            for peer in self.peers
            if peer.client_id and abs(now_ms - int(peer.beat)) < LIMIT["beats_missed"] * (peer.beat_ms or beat_ms)
        ]


def _parse_beat(partition: int, answer: list[Any]) -> Beat:
    seconds, micros, rank, last_wake, last_notified, lost, orders, unnamed, peers, consumers, levels, paused = answer
    return Beat(
        server_us=int(seconds) * 1_000_000 + int(micros),
        rank=int(rank),
        last_wake=last_wake,
        last_notified=last_notified,
        lost=[(partition, to_text(queue), to_text(entry)) for queue, entry in pairs(lost)],
        orders={to_text(id): int(order) for id, order in pairs(orders)},
        unnamed=[(partition, to_text(queue), to_text(entry)) for queue, entry in pairs(unnamed)],
        peers=[
            Peer(to_text(name), to_text(beat), to_text(client), int(beat_ms) if beat_ms else None)
            for name, beat, client, beat_ms in zip(peers[::4], peers[1::4], peers[2::4], peers[3::4], strict=True)
        ],
        consumers=[to_text(name) for name in consumers],
        levels=[to_text(queue) for queue in levels],
        partition=partition,
        is_paused=bool(paused),
    )


def heartbeat(
    keys: Keyspace,
    consumer: str,
    group: str,
    *,
    client_id: int,
    info: str,
    knows: str,
    ttl_ms: int,
    held: Iterable[Lease],
    beat_ms: int | None = None,
    functions: str = "",
    lost_threads: int = 0,
    slots: int | None = None,
    blocked_ms: int = 0,
) -> Command[Beat]:
    """Note that a worker is alive, and return the state of its leases.

    The worker reports the time between its heartbeats, its functions (see ``Registry.fingerprint``), how many of its
    threads are lost, how many executions it runs at a time, and for how long its event loop has been blocked.
    """
    lua = script.load("heartbeat", keys.movable_clock)
    shared = lua.shared_args(
        consumer=consumer,
        group=group,
        client=str(client_id),
        info=info,
        knows=knows,
        ttl_ms=str(ttl_ms),
        beat_ms="" if beat_ms is None else str(beat_ms),
        functions=functions,
        lost_threads=str(lost_threads),
        slots="" if slots is None else str(slots),
        blocked_ms=str(blocked_ms),
    )
    named = [value for lease in held for value in (lease.queue, lease.entry, lease.id)]
    return Command(script.evalsha(lua, key_list(keys), [*shared, *named]), partial(_parse_beat, keys.partition), lua)


def join(keys: Keyspace, consumer: str, group: str, queues: Iterable[str]) -> Command[str]:
    """Become a consumer of a group in some queues; CorruptData if one of them is not a stream."""
    lua = script.load("join", keys.movable_clock)
    shared = lua.shared_args(consumer=consumer, group=group)
    return Command(script.evalsha(lua, key_list(keys), [*shared, *queues]), to_text, lua)


def queues_of(group: str, consumer: str) -> tuple[str, ...]:
    """The queues that a worker reads: its own, then those of its group, the first priority first."""
    return (f"{group}/{consumer.partition('/')[0]}", *levels_of(group))


def queues_to_reclaim(group: str, consumer: str) -> list[str]:
    """The same, in the order in which they are left: with the queue named like the group, the worker is gone."""
    return sorted(queues_of(group, consumer), key=lambda queue: queue == group)


def take(keys: Keyspace, consumer: str, group: str, *, free: int, shares: Sequence[tuple[str, int]]) -> Command[Read]:
    """At most ``free`` entries of some queues, in the order given, and of each at most its share. Returns the stream of
    each queue that had any, and its entries.
    """
    lua = script.load("take", keys.movable_clock)
    shared = lua.shared_args(consumer=consumer, group=group, free=str(free))
    words = [word for queue, share in shares for word in (queue, str(share))]
    taken = [keys.queue(queue).encode() for queue, _ in shares]

    def parse(answer: list[tuple[int, Rows]]) -> Read:
        return [(taken[at], rows) for at, rows in answer]

    return Command(script.evalsha(lua, key_list(keys), [*shared, *words]), parse, lua)


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What happened to a worker's entries; ``alive`` means that it had sent another heartbeat, and nothing was done."""

    alive: bool
    more: bool
    given: int
    poison: list[str]


def _parse_reclaimed(answer: list[Any]) -> Reclaimed:
    word, given, poison = answer
    return Reclaimed(word == b"alive", word == b"more", int(given), [to_text(id) for id in poison])


def reclaim(
    keys: Keyspace,
    consumer: str,
    queue: str,
    *,
    beat: str,
    release: Literal["", "some", "all"] = "",
    max_attempts: int,
    limit: int = 256,
    entries: Iterable[str] = (),
) -> Command[Reclaimed]:
    """Put the entries of a dead worker, or those that a worker releases itself, back into their stream, with a new
    epoch.

    ``beat`` is its last heartbeat that we have seen. A worker releases ``some`` entries, or ``all`` when it leaves.
    """
    lua = script.load("reclaim", keys.movable_clock)
    shared = lua.shared_args(
        consumer=consumer,
        queue=queue,
        beat=beat,
        release=release,
        max_attempts=str(max_attempts),
        limit=str(limit),
    )
    return Command(script.evalsha(lua, key_list(keys), [*shared, *entries]), _parse_reclaimed, lua)


@dataclass(frozen=True, slots=True)
class Lent:
    """The answer to ``lend``."""

    at_ms: int
    """The server's time."""
    is_canceled: bool
    deadline_ms: int
    """Of the execution; 0 if it has none."""


def _parse_lent(answer: list[bytes]) -> Lent:
    at, canceled, deadline = answer
    return Lent(int(at), canceled == b"1", int(deadline or 0))


def lend(
    keys: Keyspace, consumer: str, heir: str, lease: Lease, *, group: str, info: str, knows: str, lease_ms: int
) -> Command[Lent]:
    """Pass a lease on to a consumer ``heir`` that holds nothing else, or extend it if it has it already.

    The others of the group take it over when nobody has extended it for ``lease_ms``, if they do not wait longer for
    each worker. Fenced if ``consumer`` does not hold it.
    """
    return _lend(keys, consumer, heir, lease, group=group, info=info, knows=knows, lease_ms=lease_ms)


def note_waiting(keys: Keyspace, heir: str, *, group: str, info: str, knows: str, beat_ms: int) -> Command[Lent]:
    """Note that a worker over HTTP waits for executions, for people. This is forgotten after three beats."""
    nothing = Lease(PromiseId(""), "", "", 0)
    lease_ms = LIMIT["beats_missed"] * beat_ms
    return _lend(keys, "", heir, nothing, group=group, info=info, knows=knows, lease_ms=lease_ms)


def _lend(
    keys: Keyspace,
    consumer: str,
    heir: str,
    lease: Lease,
    *,
    group: str,
    info: str,
    knows: str,
    lease_ms: int,
) -> Command[Lent]:
    lua = script.load("lend", keys.movable_clock)
    shared = lua.shared_args(
        consumer=consumer,
        heir=heir,
        group=group,
        info=info,
        knows=knows,
        beat_ms=str(max(1, lease_ms // LIMIT["beats_missed"])),
        ttl_ms=str(max(lease_ms, LIMIT["inbox_ttl_ms"]) if lease.entry else lease_ms),
        queue=lease.queue,
        entry=lease.entry,
        id=lease.id,
        epoch=str(lease.epoch),
    )
    return Command(script.evalsha(lua, key_list(keys), shared), _parse_lent, lua)


def part(keys: Keyspace, consumer: str, queue: str) -> Command[bool]:
    """A consumer of ``lend`` or ``note_waiting`` is not needed any more; false if it still holds something."""
    lua = script.load("part", keys.movable_clock)
    shared = lua.shared_args(consumer=consumer, queue=queue)
    return Command(script.evalsha(lua, key_list(keys), shared), lambda word: word == b"gone", lua)


def read_beat(keys: Keyspace, consumer: str) -> Command[int | None]:
    """The time of a worker's last heartbeat, in ms of the server's clock; None if it has left."""
    return Command(
        [b"ZSCORE", keys.workers.encode(), consumer.encode()],
        lambda score: None if score is None else int(float(score)),
    )


def read_beat_ms(keys: Keyspace, consumer: str) -> Command[int]:
    """The time between two heartbeats of a worker, by its own report."""
    return Command([b"HGET", keys.worker(consumer).encode(), W["beat_ms"].encode()], to_number)


def read_lost_threads(keys: Keyspace, consumer: str) -> Command[int]:
    """How many threads a worker has lost, by its own report."""
    return Command([b"HGET", keys.worker(consumer).encode(), W["lost"].encode()], to_number)


def read_blocked_ms(keys: Keyspace, consumer: str) -> Command[int]:
    """For how many ms the event loop of a worker has been blocked, by its own report."""
    return Command([b"HGET", keys.worker(consumer).encode(), W["blocked"].encode()], to_number)


def read_functions(keys: Keyspace, consumer: str) -> Command[str]:
    """Which functions a worker has, as it reported with its last heartbeat here; empty if it leaves, or is gone."""
    return Command([b"HGET", keys.worker(consumer).encode(), W["functions"].encode()], to_text)


def read_group(keys: Keyspace, consumer: str) -> Command[tuple[str, str]]:
    """The group that a worker serves, and the schema and features that it knows, by its own report; empty if it is
    gone.
    """
    words = [b"HMGET", keys.worker(consumer).encode(), W["group"].encode(), W["knows"].encode()]
    return Command(words, lambda values: (to_text(values[0]), to_text(values[1])))
