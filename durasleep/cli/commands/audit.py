"""``durasleep audit``: what people have done by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from durasleep.cli import address
from durasleep.cli.durations import parse_since
from durasleep.cli.options import JsonOption, NamespaceOption, UrlOption
from durasleep.cli.output import console, json_values

if TYPE_CHECKING:
    from durasleep.query.audit import AuditEntry

LIMIT_MAX = 10_000  # each partition keeps about as many


@address.explained
def audit(
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=LIMIT_MAX, help="Show at most this many.")
    ] = 100,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Nothing older than 2h, or than 2026-12-24T18:00+01:00."),
    ] = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Show what people have done by hand, the latest first: who, what and when."""
    import asyncio

    from durasleep.cli.output import tables

    client = address.open_client(url, namespace)

    async def fetch() -> list[AuditEntry]:
        async with client:
            return await client.audit(limit=limit, since=None if since is None else parse_since(since))

    found = asyncio.run(fetch())
    if as_json:
        json_values.data(json_values.as_json(found))
    elif found:
        tables.audit(found)
    else:
        console.note("There is none.")
