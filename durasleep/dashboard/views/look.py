"""One look at a view, and what a view is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from durasleep.client import Client
from durasleep.errors import UsageError
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.query.overview import Finder, Overview, read
from durasleep.query.search import Known
from durasleep.transport.store import Store

ROWS_MAX = 1_600  # looked at for one page, so that it takes fewer than 2,000 commands; a list ends there


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a view."""

    client: Client
    store: Store
    """The store of this client."""
    keyspaces: Keyspaces
    """Those partitions that can be asked now."""
    finder: Finder
    """What the dashboard knows of names that no worker says."""
    path: Mapping[str, str]
    """The variable parts of the path."""
    query: Mapping[str, str]
    """The last value of each name in the query."""
    now_ms: int
    """The server's clock."""
    show_values: bool
    """Whether arguments, results and published values may be shown."""

    def choice(self, name: str, choices: Mapping[str, Any] | tuple[str, ...]) -> str:
        """The value of a name in the query, the first of ``choices`` by default; UsageError for any other."""
        given = self.query.get(name) or next(iter(choices))
        if given not in choices:
            raise UsageError(f"{name} {given!r}: there are {', '.join(choices)}")
        return given

    def number(self, name: str, default: int, most: int) -> int:
        """The value of a name in the query, from 1 to ``most``; UsageError for any other."""
        given = self.query.get(name) or str(default)
        if not (given.isascii() and given.isdigit() and len(given) < 16 and 1 <= int(given) <= most):
            raise UsageError(f"{name} {given!r}: use a number from 1 to {most:,}")
        return int(given)

    async def overview(self) -> Overview:
        """How the namespace does now."""
        return await self.store.run(read(self.store.keyspaces, await self.store.locate(), self.finder))

    async def known(self) -> Known:
        """The queues there are, and whether anything is parked, without a search among all keys each time."""
        overview = await self.overview()
        groups = {group.name for group in overview.groups}
        of_workers = {f"{group.name}/{worker.name}" for group in overview.groups for worker in group.workers}
        return Known(groups | of_workers | set(self.finder.names), overview.parked > 0)


@dataclass(frozen=True, slots=True)
class View:
    """A page: ``load`` gives what its templates show, with the ``title`` among it.

    ``live/<template>.html`` is what is kept current; ``above/<template>.html`` stands above it, if there is one.
    """

    path: str
    section: str
    template: str
    load: Callable[[Look], Awaitable[dict[str, Any]]]
    is_live: bool = True
