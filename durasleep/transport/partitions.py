"""What all stores of one worker or client know together: how many partitions the namespace has, and their clocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from durasleep.errors import DurasleepError, StoreUnavailable
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.protocol.partitions import slot_of
from durasleep.protocol.slots import Address, Location
from durasleep.settings import DEFAULTS, Settings
from durasleep.transport.server_clock import Clock

if TYPE_CHECKING:  # imported only for the few who use a cluster
    from durasleep.transport.topology import Topology


class Partitions:
    """The partitions of a namespace. Until it was asked how many it has, it is taken for one that has one."""

    def __init__(self, namespace: str, settings: Settings, topology: Topology | None) -> None:
        self._namespace = namespace
        self._settings = settings
        self._topology = topology
        self.meta_slot = slot_of(namespace)
        """The hash slot of what is known of the namespace as a whole."""
        self.features: set[str] = set()
        """What the namespace needs of the versions that use it, as far as this program knows."""
        self._take(1)

    def set_count(self, count: int) -> None:
        """So many has the namespace."""
        if count != len(self.keyspaces):
            self._take(count)

    def node_of(self, slot: int) -> Address | None:
        """See ``Topology.last_known``; None outside a cluster."""
        return None if self._topology is None else self._topology.last_known(slot)

    def locate(self, moving: Mapping[Address, dict[int, str] | DurasleepError]) -> list[Location]:
        """Where each partition is; ``moving`` are the slots that each node is moving, as far as it says."""
        going: dict[int, str] = {}
        silent = set[Address]()
        for node, answer in moving.items():
            if not isinstance(answer, DurasleepError):
                going |= answer
            elif isinstance(answer, StoreUnavailable):
                silent.add(node)
        found = [(keys.slot, self.node_of(keys.slot)) for keys in self.keyspaces]
        return [
            Location(f"{node[0]}:{node[1]}" if node else "", going.get(slot, ""), node not in silent)
            for slot, node in found
        ]

    def _take(self, count: int) -> None:
        settings = self._settings
        self.keyspaces = Keyspaces(
            self._namespace,
            count,
            node_of=self.node_of,
            movable_clock=settings.movable_clock,
            # Values of others may be as large as the defaults allow, whatever our own limits are.
            value_bytes_max=2 * max(settings.payload_bytes_max, DEFAULTS.payload_bytes_max),
            journal_bytes_max=2 * max(settings.journal_bytes_max, DEFAULTS.journal_bytes_max),
        )
        self.clocks = tuple(Clock(settings.clock_ahead_max_s) for _ in self.keyspaces)
        """The clock of the node that each partition is on."""
