"""The heartbeats to the nodes of a cluster: which partitions each is for, as partitions move and nodes come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, cast

import pytest

from durasleep.errors import StoreUnavailable
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.slots import Address
from durasleep.transport.topology import Topology
from durasleep.worker.loops.heartbeat import Heartbeat
from durasleep.worker.loops.heartbeats import Heartbeats

ONE, TWO, THREE = ("one", 1), ("two", 2), ("three", 3)
SPACES = [Keyspace("n", number, 4) for number in range(4)]
META_SLOT = 7


class Map:
    """Says which node has a slot, as a topology does."""

    def __init__(self) -> None:
        self.nodes: dict[int, Address | None] = {keys.slot: (ONE, TWO)[keys.partition % 2] for keys in SPACES}
        self.nodes[META_SLOT] = ONE
        self.asked = 0

    def known(self, slot: int) -> Address | None:
        return self.nodes[slot]

    def ask_soon(self) -> None:
        self.asked += 1

    def distrust(self, slot: int, node: Address | None) -> None:
        assert node is not None
        self.nodes[slot] = None


class Beating:
    """A heartbeat whose beats are made by the test."""

    def __init__(self, node: Address | None, served: Callable[[], Iterable[Keyspace]], fails: bool) -> None:
        self.node = node
        self.served = served
        self.fails = fails
        self.client_id = 5
        self.is_closed = False

    def start(self) -> Future[None]:
        first = Future[None]()
        if self.fails:
            first.set_exception(StoreUnavailable("not yet"))
        else:
            first.set_result(None)
        return first

    def partitions(self) -> list[int]:
        return [keys.partition for keys in self.served()]

    def close(self) -> None:
        self.is_closed = True


class Nodes:
    """The heartbeats that were made, and which nodes do not answer."""

    def __init__(self) -> None:
        self.map = Map()
        self.made: list[Beating] = []
        self.silent: set[Address] = set()
        self.heartbeats = Heartbeats(cast("Topology", self.map), self._make, lambda: SPACES, META_SLOT)

    def _make(self, node: Address | None, served: Callable[[], Iterable[Keyspace]]) -> Heartbeat:
        beating = Beating(node, served, node in self.silent)
        self.made.append(beating)
        return cast("Any", beating)

    def at(self, node: Address) -> Beating:
        return next(one for one in reversed(self.made) if one.node == node)


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


async def test_each_node_is_told_of_the_partitions_it_has(nodes: Nodes) -> None:
    await nodes.heartbeats.start()
    assert [one.node for one in nodes.made] == [ONE, TWO]
    assert (nodes.at(ONE).partitions(), nodes.at(TWO).partitions()) == ([0, 2], [1, 3])
    assert [nodes.heartbeats.knows_namespace(node) for node in (ONE, TWO)] == [True, False]
    assert nodes.heartbeats.client_id(SPACES[0]) == 5


async def test_a_partition_that_moves_is_told_to_its_new_node(nodes: Nodes) -> None:
    await nodes.heartbeats.start()
    nodes.map.nodes[SPACES[0].slot] = THREE
    assert nodes.at(TWO).partitions() == [1, 3], "any beat notices it"
    assert nodes.at(THREE).partitions() == [0]
    assert nodes.at(ONE).partitions() == [2]


async def test_a_partition_whose_node_is_not_known_is_looked_for_and_told_to_nobody(nodes: Nodes) -> None:
    await nodes.heartbeats.start()
    nodes.heartbeats.note_unserved(ONE, SPACES[0])
    assert nodes.map.asked == 1
    assert nodes.at(ONE).partitions() == [2]
    assert nodes.map.asked == 2, "as long as it is not known"
    nodes.map.nodes[SPACES[0].slot] = TWO
    assert nodes.at(TWO).partitions() == [0, 1, 3]


async def test_a_node_whose_first_beat_failed_is_told_by_another_heartbeat(nodes: Nodes) -> None:
    """At the beginning, and where a replica has just taken over."""
    nodes.silent = {TWO}
    with pytest.raises(StoreUnavailable):
        await nodes.heartbeats.start()
    failed = nodes.at(TWO)
    assert failed.is_closed
    nodes.silent = {THREE}
    await nodes.heartbeats.start()
    assert [one.node for one in nodes.made] == [ONE, TWO, TWO]
    nodes.map.nodes[SPACES[0].slot] = THREE
    nodes.at(ONE).partitions()
    assert nodes.at(THREE).is_closed
    nodes.silent = set()
    nodes.at(ONE).partitions()
    assert not nodes.at(THREE).is_closed
    assert nodes.at(THREE).partitions() == [0]


async def test_after_its_end_it_begins_nothing(nodes: Nodes) -> None:
    nodes.heartbeats.stop()
    await nodes.heartbeats.start()
    assert nodes.made == []
    await asyncio.sleep(0)
