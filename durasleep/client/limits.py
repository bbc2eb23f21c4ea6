"""``app.limits``: limits as people see and change them. A script writes its sync twin from this file."""

# It uses private members of the client, which are not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from durasleep.client import requests
from durasleep.model import check_name
from durasleep.protocol.keys import Keyspace
from durasleep.query import limits
from durasleep.query.limits import LimitSummary
from durasleep.transport.store import Store

WORDS_MAX = 200  # of what was changed, in the audit


class Home(Protocol):
    """The parts of a client that are used here."""

    async def _opened(self) -> Store: ...

    async def _note(self, keys: Keyspace, verb: str, id: str = "", *, word: str = "") -> None: ...


class Limits:
    """Limits as they are kept: what waits, and their numbers, which a person may change."""

    def __init__(self, client: Home) -> None:
        self._client = client

    async def ls(self) -> list[LimitSummary]:
        """All limits of the namespace, by name."""
        store = await self._client._opened()
        return await store.run(limits.list_limits(store.keyspaces))

    async def get(self, name: str) -> LimitSummary:
        """One limit; NotFound if there is none of this ``name``."""
        store = await self._client._opened()
        return await store.run(limits.read_limit(store.keyspaces, check_name(name, "limit")))

    async def set(self, name: str, *, weights: Mapping[str, float | None] | None = None, **numbers: Any) -> None:
        """Change numbers of a limit, until ``reset``: the code does not change them back::

            await app.limits.set("per-customer", per_key=4, rate=None, weights={"7": 2})

        They are ``per_key``, ``total``, ``rate``, ``burst`` and ``parked_max``, as for ``Limit``; None is no such
        limit. ``weights`` are those of single keys, None for the one of the code. What waits begins at once if it may;
        what runs goes on. Raises NotFound if there is no such limit, UsageError for a number that cannot be.
        """
        requests.check_numbers(name, numbers, weights or {})
        store = await self._client._opened()
        await store.run(limits.set_limit(store.keyspaces, check_name(name, "limit"), numbers, weights or {}))
        changes = [f"{what}={value}" for what, value in (*numbers.items(), *(weights or {}).items())]
        await self._client._note(store.keyspaces[0], "set-limit", name, word=" ".join(changes)[:WORDS_MAX])

    async def pause(self, name: str) -> bool:
        """Let nothing more begin; what runs goes on. False if it was paused already; NotFound if there is none."""
        return await self._change(name, "pause")

    async def resume(self, name: str) -> bool:
        """End a pause; false if there was none. NotFound if there is no such limit."""
        return await self._change(name, "resume")

    async def reset(self, name: str) -> None:
        """Go back to the numbers and weights of the code. NotFound if there is no such limit."""
        await self._change(name, "reset")

    async def delete(self, name: str) -> None:
        """Forget a limit that is gone from the code. A worker whose code has it makes it again when it starts.

        Raises NotFound if there is no such limit, NotAllowed while an execution holds a slot or waits.
        """
        store = await self._client._opened()
        await store.run(limits.delete_limit(store.keyspaces, check_name(name, "limit")))
        await self._client._note(store.keyspaces[0], "delete-limit", name)

    async def _change(self, name: str, change: Literal["pause", "resume", "reset"]) -> bool:
        store = await self._client._opened()
        is_new = await store.run(limits.change_limit(store.keyspaces, check_name(name, "limit"), change))
        if is_new:
            await self._client._note(store.keyspaces[0], f"{change}-limit", name)
        return is_new
