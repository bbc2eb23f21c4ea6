"""Searches that go on: each cursor stands for the rest of one, which its gateway keeps for a while."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from durasleep.client import Client
from durasleep.client.client import next_page
from durasleep.gateway.api.problems import Problem
from durasleep.query.search import Search, SearchPage

_KEPT_MAX = 100
_KEPT_S = 300.0
_SEEN_MAX = 500_000  # executions that all searches together remember: some 100 MB


@dataclass(slots=True)
class Page:
    """What a request has found, and the cursor of the rest; None if there is none."""

    found: SearchPage
    cursor: str | None


@dataclass(slots=True, eq=False)
class Rest:
    """The rest of a search."""

    wanted: tuple[Any, ...]
    """What is searched for: a cursor is good for nothing else."""
    search: Search
    pages: int = 0
    """How many were read before."""
    page: Page | None = None
    """What was answered for this cursor already: a request that is repeated finds the same."""
    used_at: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Searches:
    """The searches that may go on. Those that nobody has used for five minutes are dropped, and the oldest if there are
    too many.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Rest] = {}

    async def begin(self, client: Client, wanted: tuple[Any, ...], search: Search, limit: int) -> Page:
        """The first page of a search."""
        return await self._read(client, Rest(wanted, search), limit)

    async def go_on(self, client: Client, wanted: tuple[Any, ...], cursor: str, limit: int) -> Page:
        """The next page; Problem for a cursor that is not known, or is one for something else."""
        self._drop_old()
        rest = self._kept.get(cursor)
        if rest is None:
            raise Problem(
                "cursor-gone",
                "this cursor is older than five minutes or than 100 others, or another gateway gave it: begin again "
                "without a cursor",
            )
        if rest.wanted != wanted:
            raise Problem("invalid", "query cursor: it belongs to a search with other parameters")
        async with rest.lock:
            if rest.page is None:
                rest.page = await self._read(client, rest, limit)
        rest.used_at = time.monotonic()
        return rest.page

    def clear(self) -> None:
        """Drop all."""
        self._kept.clear()

    async def _read(self, client: Client, rest: Rest, limit: int) -> Page:
        search = rest.search
        found = await next_page(client, search, limit)
        # While pages are read, executions move in the lists that are searched: a second search finds those missed.
        is_over = search.is_over and (rest.pages == 0 or not search.again())
        if not is_over and search.seen > _SEEN_MAX:
            found.notes.append("Too much was searched for this list. Search with more filters.")
            is_over, found.is_all = True, False
        return Page(found, None if is_over else self._keep(Rest(rest.wanted, search, rest.pages + 1)))

    def _keep(self, rest: Rest) -> str:
        self._drop_old()
        while self._kept and (len(self._kept) >= _KEPT_MAX or self._seen() > _SEEN_MAX):
            del self._kept[next(iter(self._kept))]
        rest.used_at = time.monotonic()
        cursor = secrets.token_urlsafe(12)
        self._kept[cursor] = rest
        return cursor

    def _seen(self) -> int:
        return sum(search.seen for search in {rest.search for rest in self._kept.values()})

    def _drop_old(self) -> None:
        oldest = time.monotonic() - _KEPT_S
        for cursor in [cursor for cursor, rest in self._kept.items() if rest.used_at < oldest]:
            del self._kept[cursor]
