"""The slots of a cluster: which of its nodes serves each, and which are moving.

Sources: CLUSTER SLOTS and CLUSTER NODES, in the documentations of Redis and Valkey.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from durasleep.protocol.command import Command, pairs, to_text
from durasleep.protocol.partitions import SLOTS

Address = tuple[str, int]
"""Host and port."""

_UNKNOWN_HOST = "?"
_MOVING = re.compile(r"\[(\d+)->-(\w+)\]")


@dataclass(frozen=True, slots=True)
class SlotRange:
    """Slots that one master serves. A node has no host if that is the host at which we asked."""

    first: int
    last: int
    master: Address
    replicas: tuple[Address, ...] = ()

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Location:
    """Where a partition is in a cluster; without a node outside one."""

    node: str = ""
    """The node that serves it, as host and port."""
    moving_to: str = ""
    """The node to which its slot is moving."""
    answers: bool = True
    """Whether its node answers us."""

    @property
    def rests(self) -> bool:
        """Whether it can be asked now: one that is moving would answer only when it has arrived."""
        return self.answers and not self.moving_to


def read_slots() -> Command[list[SlotRange]]:
    """All slots that are served, as one node of the cluster knows it."""
    return Command([b"CLUSTER", b"SLOTS"], lambda reply: [_range(*entry) for entry in reply])


def read_moving() -> Command[dict[int, str]]:
    """The slots that the asked node is moving to others, and the address of the other one, as text."""
    return Command([b"CLUSTER", b"NODES"], lambda reply: _moving(to_text(reply)))


def _moving(text: str) -> dict[int, str]:
    lines = [line.split() for line in text.splitlines()]
    addresses = {id: address.partition("@")[0] for id, address, *_ in lines}
    [mine] = [line for line in lines if "myself" in line[2]]
    found = [_MOVING.fullmatch(word) for word in mine[8:]]
    return {int(one[1]): addresses.get(one[2], "?") for one in found if one}


def _range(first: int, last: int, master: list[Any], *replicas: list[Any]) -> SlotRange:
    if not 0 <= first <= last < SLOTS:
        raise ValueError(f"slots {first} to {last}")
    return SlotRange(first, last, _address(*master), tuple(_address(*replica) for replica in replicas))


def _address(host: bytes | None, port: int, _id: bytes = b"", others: Any = (), *_: object) -> Address:
    """A node that is set to announce a host name and has none gives ``?``, and its IP address among the others."""
    name = to_text(host)
    if name == _UNKNOWN_HOST:
        name = to_text(dict(pairs(others)).get(b"ip"))
    return name, port
