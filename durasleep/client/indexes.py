"""``app.indexes``: indexes by label. A script writes its sync twin from this file."""

# It uses private members of the client, which are not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Protocol

from durasleep.protocol.keys import Keyspace
from durasleep.protocol.versions import FLOW
from durasleep.query import indexes
from durasleep.traits import check_index
from durasleep.transport.store import Store


class Home(Protocol):
    """The parts of a client that are used here."""

    async def _opened(self) -> Store: ...

    async def _require(self, store: Store, feature: str) -> None: ...

    async def _note(self, keys: Keyspace, verb: str, id: str = "", *, word: str = "") -> None: ...


class Indexes:
    """Indexes by label, with which ``search`` finds executions at once."""

    def __init__(self, client: Home) -> None:
        self._client = client

    async def ls(self) -> list[str]:
        """The labels that have one, ``func`` for the functions."""
        store = await self._client._opened()
        return await store.run(indexes.read_indexed(store.keyspaces))

    async def build(self, label: str) -> int:
        """Make one for a ``label``, or for ``func``, and add all executions that are there; answers how many promises
        were looked at. It may be repeated. UsageError for a name that no label has, NotAllowed while workers of an
        older version are left.
        """
        store = await self._client._opened()
        await self._client._require(store, FLOW)
        looked_at = await store.run(indexes.build(store.keyspaces, check_index(label)))
        await self._client._note(store.keyspaces[0], "build-index", label)
        return looked_at

    async def drop(self, label: str) -> bool:
        """Remove the one of a ``label``; false if there is none. An application that names it makes it again."""
        store = await self._client._opened()
        is_new = await store.run(indexes.drop(store.keyspaces, check_index(label)))
        if is_new:
            await self._client._note(store.keyspaces[0], "drop-index", label)
        return is_new
