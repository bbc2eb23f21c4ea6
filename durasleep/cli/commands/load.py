"""``durasleep groups``, ``workers`` and ``stats``: what waits, who works, and what has ended."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from durasleep.cli import address
from durasleep.cli.durations import parse_since
from durasleep.cli.options import GroupFilter, JsonOption, NamespaceOption, UrlOption
from durasleep.cli.output import console, json_values

if TYPE_CHECKING:
    from durasleep.query.overview import Overview
    from durasleep.query.stats import Stats

PARTLY_ASKED = (
    "A part of the namespace could not be asked, or has too many keys to look at all: something may be missing."
)


@address.explained
def groups(as_json: JsonOption = False, url: UrlOption = None, namespace: NamespaceOption = None) -> None:
    """Show the groups: what waits for each by priority, what runs, and who serves it."""
    from durasleep.cli.output import load_tables

    found = _overview(url, namespace)
    if as_json:
        json_values.data(json_values.as_json({"groups": found.groups, "is_all": found.is_all}))
        return
    if found.groups:
        load_tables.groups(found)
    else:
        console.note("There is none: no worker is alive, and nothing is queued or runs.")
    _warn(found)


@address.explained
def workers(
    group: GroupFilter = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Show the workers that are alive: what each runs, of how much it can run at a time."""
    from durasleep.cli.output import load_tables

    found = _overview(url, namespace)
    shown = [worker for worker in found.workers if group in (None, worker.group)]
    if as_json:
        json_values.data(json_values.as_json({"workers": shown, "is_all": found.is_all}))
        return
    if shown:
        load_tables.workers(shown, found)
    else:
        of_group = "" if group is None else f" of group {group}"
        console.note(f"No worker{of_group} is alive: `durasleep worker` starts one.")
    _warn(found)


@address.explained
def stats(
    since: Annotated[
        str,
        typer.Option(
            "--since", metavar="TIME", help="Since 15m ago, or since 2026-12-24T18:00+01:00; at most 26 hours."
        ),
    ] = "1h",
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Show how many executions have ended, by function, and how long they took."""
    import asyncio

    from durasleep.cli.output import load_tables

    until_now = parse_since(since)
    client = address.open_client(url, namespace)

    async def fetch() -> Stats:
        async with client:
            return await client.stats(until_now)

    found = asyncio.run(fetch())
    if as_json:
        json_values.data(json_values.as_json(_document(found)))
        return
    load_tables.stats(found)
    if not found.is_all:
        console.warning("A part of the cluster was moving to another node, or did not answer: some are missing.")


def _document(found: Stats) -> dict[str, Any]:
    """With the sums that follow from the counters."""
    document = asdict(found)
    for shown, one in [
        (document["total"], found.total),
        *zip(document["functions"], found.functions, strict=True),
    ]:
        shown |= {"ended": one.ended, "failed": one.failed, "mean_ms": round(one.mean_ms, 1)}
    for shown, minute in zip(document["minutes"], found.minutes, strict=True):
        shown |= {"ended": minute.ended, "failed": minute.failed}
    return document


def _overview(url: str | None, namespace: str | None) -> Overview:
    import asyncio

    client = address.open_client(url, namespace)

    async def fetch() -> Overview:
        async with client:
            return await client.overview()

    return asyncio.run(fetch())


def _warn(found: Overview) -> None:
    if not found.is_all:
        console.warning(PARTLY_ASKED)
