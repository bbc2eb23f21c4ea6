"""The keys of all partitions of a namespace."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from copy import copy
from typing import Any

from durasleep.protocol.keys import Keyspace
from durasleep.protocol.partitions import partition_of


class Keyspaces:
    """One ``Keyspace`` for each partition, in their order."""

    def __init__(
        self, namespace: str, count: int = 1, *, node_of: Callable[[int], object] = lambda _slot: None, **limits: Any
    ) -> None:
        """``node_of`` says which node of a cluster serves a slot; ``limits`` are other fields of each ``Keyspace``."""
        self._node_of = node_of
        self._all = tuple(Keyspace(namespace, partition, count, **limits) for partition in range(count))
        self._chosen = self._all
        self._count = count
        self._only = self._all[0] if count == 1 else None
        self._by_tag = {keys.tag.encode(): keys for keys in self._all}
        self._tags = self._all[0].tag if count == 1 else f"{{{namespace}:*}}:"

    def of(self, id: str) -> Keyspace:
        """The partition of an id; InvalidId if there are several, and the braces of the id do not match."""
        return self._only or self._all[partition_of(id, self._count)]

    def pattern(self, name: str) -> str:
        """What SCAN matches for the keys with this name in any partition. Use ``parse`` on what is found: a namespace
        whose name begins as ours may have keys that match, too.
        """
        return f"{self._tags}{name}"

    def parse(self, key: bytes) -> tuple[Keyspace, bytes] | None:
        """The partition of a key, and its name there; None for a key that is not ours."""
        tag, mark, name = key.partition(b"}:")
        keys = self._by_tag.get(tag + mark)
        return None if keys is None else (keys, name)

    def without(self, partitions: Collection[int]) -> Keyspaces:
        """The same, but these partitions are left out of what goes over all of them, and of what ``parse`` finds."""
        if not partitions:
            return self
        others = copy(self)
        others._chosen = tuple(keys for keys in self._chosen if keys.partition not in partitions)
        others._by_tag = {keys.tag.encode(): keys for keys in others._chosen}
        return others

    def by_node(self) -> list[list[Keyspace]]:
        """The partitions that are on the same node now, for each node that has any."""
        found: dict[object, list[Keyspace]] = {}
        for keys in self._chosen:
            found.setdefault(self._node_of(keys.slot), []).append(keys)
        return list(found.values())

    def __getitem__(self, partition: int) -> Keyspace:
        return self._all[partition]

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Keyspace]:
        return iter(self._chosen)
