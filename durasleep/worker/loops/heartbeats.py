"""The heartbeats of a worker to the nodes of a cluster, each in a thread of its own: a node that does not answer must
not hold up the leases of the others.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial

from durasleep.protocol.keys import Keyspace
from durasleep.protocol.slots import Address
from durasleep.transport.topology import Topology
from durasleep.worker.loops.heartbeat import Heartbeat

Make = Callable[[Address | None, Callable[[], Iterable[Keyspace]]], Heartbeat]
"""Makes the heartbeat to a node, or to the only server, in the partitions that are served and that it has."""


class Heartbeats:
    """One ``Heartbeat`` for each node that has a partition which is served. Outside a cluster there is one."""

    def __init__(
        self,
        topology: Topology | None,
        make: Make,
        served: Callable[[], Iterable[Keyspace]],
        meta_slot: int,
    ) -> None:
        """``served`` are the partitions to beat in. The node of ``meta_slot`` also says if the namespace still fits."""
        self._topology = topology
        self._make = make
        self._served = served
        self._meta_slot = meta_slot
        self._lock = threading.Lock()
        self._all: dict[Address | None, Heartbeat] = {}
        self._has_ended = False

    def client_id(self, keys: Keyspace) -> int:
        """The id of the connection over which the heartbeats in a partition come; 0 if there was none yet."""
        heartbeat = self._all.get(self._node_of(keys.slot))
        return 0 if heartbeat is None else heartbeat.client_id

    def _node_of(self, slot: int) -> Address | None:
        return None if self._topology is None else self._topology.known(slot)

    async def start(self) -> None:
        """Beat from now on. Raises what the first beat to any node raises; then it may be called again."""
        await asyncio.gather(*[asyncio.wrap_future(first) for first in self._start_missing()])

    def _start_missing(self) -> list[Future[None]]:
        """Begin to beat to nodes to which there are no beats yet; the results are those of the first beats."""
        firsts: list[Future[None]] = []
        for node, one in self._make_missing():
            first = one.start()
            first.add_done_callback(partial(self._drop_failed, node, one))
            firsts.append(first)
        return firsts

    def _drop_failed(self, node: Address | None, one: Heartbeat, first: Future[None]) -> None:
        """If a first beat fails, there are no more: the next one to this node comes from another heartbeat."""
        if first.cancelled() or first.exception() is not None:
            with self._lock:
                if self._all.get(node) is one:
                    del self._all[node]
            one.close()

    def _make_missing(self) -> list[tuple[Address | None, Heartbeat]]:
        slots = [keys.slot for keys in self._served()]
        nodes = dict.fromkeys(map(self._node_of, (*slots, self._meta_slot)))
        with self._lock:
            if self._has_ended:
                return []
            missing = [node for node in nodes if node not in self._all and (node is not None or self._topology is None)]
            made = {node: self._make(node, lambda node=node: self._served_by(node)) for node in missing}
            self._all.update(made)
        return list(made.items())

    def _served_by(self, node: Address | None) -> list[Keyspace]:
        """The partitions to beat in on this node. New nodes get a heartbeat of their own."""
        if self._topology is None:
            return list(self._served())
        self._start_missing()
        nodes = [(keys, self._topology.known(keys.slot)) for keys in self._served()]
        if any(found is None for _, found in nodes):
            self._topology.ask_soon()
        return [keys for keys, found in nodes if found == node]

    def stop(self) -> None:
        """End after the current beats."""
        for one in self._end():
            one.stop()

    async def leave(self) -> None:
        """The same, waiting in the event loop."""
        await asyncio.gather(*[one.leave() for one in self._end()])

    def _end(self) -> list[Heartbeat]:
        with self._lock:
            self._has_ended = True
            return list(self._all.values())

    async def settled(self) -> None:
        """Wait for the beats under way, which may not know yet what is served now."""
        await asyncio.gather(*[one.settled() for one in tuple(self._all.values())])

    def knows_namespace(self, node: Address | None) -> bool:
        """Whether this is the node that knows the namespace as a whole."""
        return self._node_of(self._meta_slot) == node

    def note_unserved(self, node: Address | None, keys: Keyspace) -> None:
        """A beat was not served there. As soon as it is known which node has the partition now, its beats go there."""
        if self._topology is not None:
            self._topology.distrust(keys.slot, node)
            self._topology.ask_soon()
