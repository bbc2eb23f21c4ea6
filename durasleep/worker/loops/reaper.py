"""The reaper: finds dead workers of the group by their heartbeats, and gives their executions to living ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from durasleep.errors import StoreError
from durasleep.observe.meter import Meter
from durasleep.protocol import membership, server
from durasleep.protocol.keys import LIMIT, Keyspace
from durasleep.protocol.membership import Beat
from durasleep.settings import Settings
from durasleep.transport.store import Store

logger = logging.getLogger("durasleep")

BEAT_GAP_MAX = 1.5  # of heartbeat_s between two of our own beats: a longer gap counts as a break


@dataclass(slots=True)
class _Seen:
    beat: str
    since: float
    beat_s: float
    """Between two beats of this worker, which may differ from ours."""
    client_id: str = ""


class Reaper:
    """A worker is dead if its beat has not changed for ``dead_after_s`` of our own monotonic clock, and for three of
    its own beat intervals; or if it has missed one beat and its heartbeat connection is closed. A worker that has
    missed beats itself declares no other worker dead.
    """

    def __init__(
        self,
        store: Store,
        keys: Keyspace,
        *,
        consumer: str,
        group: str,
        settings: Settings,
        client_id: Callable[[], int],
        meter: Meter | None = None,
    ) -> None:
        self._meter = meter
        self._store = store
        self._keys = keys
        self._consumer = consumer
        self._group = group
        self._settings = settings
        self._client_id = client_id
        self._seen: dict[str, _Seen] = {}
        self._last_at = 0.0
        self._sees_connections: bool | None = None
        self._node: object = None
        self._listed: dict[str, bool] = {}
        """Whether this node of a cluster has listed a connection, as far as it was asked."""

    async def once(self, beat: Beat, at: float) -> list[str]:
        """Judge by one beat of our own, received at monotonic time ``at``; returns the workers found dead."""
        if at - self._last_at > self._settings.heartbeat_s * BEAT_GAP_MAX:
            self._seen.clear()
        self._last_at = at
        self._note(beat, at)
        await self._look_at_connections()
        dead = [name for name, seen in self._seen.items() if at - seen.since >= self._patience_s(seen)]
        missed = [
            (name, seen)
            for name, seen in self._seen.items()
            if name not in dead and seen.client_id and at - seen.since >= self._missed_s(seen)
        ]
        dead += [name for name, seen in missed if await self._is_disconnected(seen.client_id)]
        return [name for name in dead if await self._reap(name, self._seen.pop(name))]

    def _patience_s(self, seen: _Seen) -> float:
        return max(self._settings.dead_after_s, LIMIT["beats_missed"] * seen.beat_s)

    def _missed_s(self, seen: _Seen) -> float:
        """From here on it has missed a beat. Its last beat may be older than we know, by half of our interval."""
        look_s = self._settings.heartbeat_s / 2
        return max(look_s, seen.beat_s - look_s)

    def _note(self, beat: Beat, at: float) -> None:
        """Note for each other consumer of the group since when its beat has not changed."""
        peers = {peer.consumer: peer for peer in beat.peers}
        known = set(beat.consumers) - {self._consumer}
        for name in known:
            peer = peers.get(name)
            score = peer.beat if peer else ""
            seen = self._seen.get(name)
            if seen is None or seen.beat != score:
                beat_s = peer.beat_ms / 1000 if peer and peer.beat_ms else self._settings.heartbeat_s
                self._seen[name] = _Seen(score, at, beat_s, peer.client_id if peer else "")
        for name in self._seen.keys() - known:
            del self._seen[name]

    async def _look_at_connections(self) -> None:
        """In a cluster each node has ids of its own, and the partition may have moved to another one since a worker has
        told its id. So only an id that this node has listed tells anything when it is listed no more.
        """
        if self._store.connector.topology is None:
            return
        if (node := self._store.partitions.node_of(self._keys.slot)) != self._node:
            self._node, self._listed = node, {}
        ids = {seen.client_id for seen in self._seen.values() if seen.client_id}
        self._listed = {id: is_listed for id, is_listed in self._listed.items() if id in ids}
        for id in ids - self._listed.keys():
            self._listed[id] = await self._lists(id)

    async def _is_disconnected(self, client_id: str) -> bool:
        """Whether the server has no connection with this id. It is asked only if it has once listed our own."""
        if self._store.connector.topology is not None and not self._listed.get(client_id):
            return False
        if self._sees_connections is None:
            own = self._client_id()
            self._sees_connections = own != 0 and await self._lists(str(own))
        return self._sees_connections and not await self._lists(client_id)

    async def _lists(self, client_id: str) -> bool:
        try:
            return await self._store.call(server.has_client(client_id).at(self._keys.slot).optional())
        except StoreError as error:
            logger.info("CLIENT LIST is not available (%s): only missed heartbeats show that a worker is dead", error)
            self._sees_connections = False
            return True

    async def _reap(self, consumer: str, seen: _Seen) -> bool:
        """Give the executions of a dead worker to others; false if it is alive after all."""
        given = await take_over(
            self._store, self._keys, consumer, self._group, beat=seen.beat, max_attempts=self._settings.max_attempts
        )
        if given is None:
            return False
        if self._meter is not None:
            self._meter.takeovers += given
        where = "" if self._keys.partitions == 1 else f" in partition {self._keys.partition}"
        # What stands for a lease over HTTP may outlast the lease.
        level = logging.WARNING if given or seen.client_id else logging.INFO
        logger.log(
            level, "worker %s is dead: %d executions%s given to others", consumer.partition("/")[0], given, where
        )
        return True


async def take_over(
    store: Store, keys: Keyspace, consumer: str, group: str, *, beat: str, max_attempts: int
) -> int | None:
    """Give a dead worker's executions to others. Returns how many, or None if it has sent a beat since ``beat``."""
    given = 0
    for queue in membership.queues_to_reclaim(group, consumer):
        more = True
        while more:
            answer = await store.call(membership.reclaim(keys, consumer, queue, beat=beat, max_attempts=max_attempts))
            if answer.alive:
                return None
            given += answer.given
            for id in answer.poison:
                logger.error("%s halted: %d workers in a row died while running it", id, max_attempts)
            more = answer.more
    return given
