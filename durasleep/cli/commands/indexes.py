"""``durasleep index``: indexes by label, with which lists find executions at once."""

from __future__ import annotations

from typing import Annotated

import typer

from durasleep.cli import address
from durasleep.cli.options import ByOption, JsonOption, NamespaceOption, UrlOption
from durasleep.cli.output import console, json_values

app = typer.Typer(help="Indexes by label, with which lists find executions at once.", no_args_is_help=True)

LabelArgument = Annotated[str, typer.Argument(metavar="LABEL", help="The name of a label, or func for the functions.")]


@app.callback()
def _index() -> None:
    pass


@app.command()
@address.explained
def ls(as_json: JsonOption = False, url: UrlOption = None, namespace: NamespaceOption = None) -> None:
    """List the labels that have an index."""
    import asyncio

    client = address.open_client(url, namespace)

    async def fetch() -> list[str]:
        async with client:
            return await client.indexes.ls()

    found = asyncio.run(fetch())
    if as_json:
        json_values.data(json_values.as_json(found))
        return
    for label in found:
        json_values.data(label)
    if not found:
        console.note("There is none: `durasleep index build LABEL` makes one.")


@app.command()
@address.explained
def build(label: LabelArgument, by: ByOption = None, url: UrlOption = None, namespace: NamespaceOption = None) -> None:
    """Make an index, and add all executions that are there. Each takes about a hundred bytes of Redis."""
    import asyncio

    client = address.open_client(url, namespace, by=address.find_by(by))

    async def fill() -> int:
        async with client:
            return await client.indexes.build(label)

    json_values.data(f"{label}: built, {asyncio.run(fill()):,} promises looked at")


@app.command()
@address.explained
def drop(label: LabelArgument, by: ByOption = None, url: UrlOption = None, namespace: NamespaceOption = None) -> None:
    """Remove an index. An application that names it makes it again."""
    import asyncio

    client = address.open_client(url, namespace, by=address.find_by(by))

    async def remove() -> bool:
        async with client:
            return await client.indexes.drop(label)

    json_values.data(f"{label}: {'dropped' if asyncio.run(remove()) else 'had none'}")
