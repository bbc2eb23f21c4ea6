"""``durasleep ls``, ``tree`` and ``timers``: what runs, and what falls due."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Annotated

import typer

from durasleep.cli import address, tables, values, view
from durasleep.cli.options import FunctionOption, GroupFilter, JsonOption, NamespaceOption, StatusOption, UrlOption
from durasleep.store.search import FOUND_MAX, TIMERS_MAX, Found


@address.explained
def ls(
    status: StatusOption = None,
    group: GroupFilter = None,
    function: FunctionOption = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=FOUND_MAX, help="Show no more.")] = 100,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """List executions, what needs a person first; all that are pending unless told otherwise."""
    client = address.open_client(url, namespace)

    async def look() -> Found:
        async with client:
            return await client.search(status=status or None, group=group, function=function, limit=limit)

    found = asyncio.run(look())
    if as_json:
        values.data(values.as_json({"executions": list(found), "is_all": found.is_all, "notes": found.notes}))
        return
    if found:
        tables.executions(found, _now_ms())
    if not found and found.is_all:
        view.note("There is none.")
    if not found.is_all:
        view.note("Not all are shown: --limit shows more, --status, --group and --func fewer.")
    for note in found.notes:
        view.warning(note)


@address.explained
def tree(
    id: Annotated[str, typer.Argument(metavar="ID", help="An execution.")],
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Show an execution and all it has called: states, due times and durations."""
    client = address.open_client(url, namespace)

    async def look() -> None:
        async with client:
            found = await client.tree(id)
        if as_json:
            values.data(values.as_json(asdict(found)))
            return
        tables.tree(found, _now_ms())
        if not found.is_all:
            view.note("This is not all of it: `durasleep tree` of one of its children shows more.")

    asyncio.run(look())


@address.explained
def timers(
    count: Annotated[int, typer.Option("--next", metavar="N", min=1, max=TIMERS_MAX, help="Show this many.")] = 20,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Show what falls due next: sleeps, deadlines, delayed starts and schedules."""
    client = address.open_client(url, namespace)

    async def look() -> None:
        async with client:
            found = await client.timers(count)
        if as_json:
            values.data(values.as_json(found))
        elif found:
            tables.timers(found, _now_ms())
        else:
            view.note("There is none.")

    asyncio.run(look())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
