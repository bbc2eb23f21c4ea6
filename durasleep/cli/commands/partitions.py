"""``durasleep init`` and ``partitions``: into how many parts a namespace is divided, and what is in each."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from durasleep.cli import address
from durasleep.cli.options import JsonOption, NamespaceOption, UrlOption
from durasleep.cli.output import console, json_values


@address.explained
def init(
    partitions: Annotated[
        int,
        typer.Option("--partitions", metavar="N", min=1, help="How many partitions it gets, 1 to 256."),
    ] = 1,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Make a namespace, before anything uses it.

    One partition is enough for one Redis. With several, a Redis Cluster can share the namespace among its nodes. The
    number is chosen once.
    """
    import asyncio

    client = address.open_client(url, namespace)

    async def make() -> None:
        await client.init(partitions=partitions)
        await client.aclose()

    asyncio.run(make())
    console.note(f"namespace {client.namespace!r} has {partitions} partition{'s' * (partitions > 1)}")


@address.explained
def partitions(as_json: JsonOption = False, url: UrlOption = None, namespace: NamespaceOption = None) -> None:
    """Show what is in each partition of a namespace."""
    import asyncio

    from durasleep.cli.output import tables
    from durasleep.query.partitions import PartitionSummary

    client = address.open_client(url, namespace)

    async def fetch() -> list[PartitionSummary]:
        async with client:
            return await client.partitions()

    found = asyncio.run(fetch())
    if as_json:
        json_values.data(json_values.as_json([asdict(one) for one in found]))
    else:
        tables.partitions(found)
