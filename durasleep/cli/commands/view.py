"""``durasleep view``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from durasleep.cli import address
from durasleep.cli.options import JsonOption, NamespaceOption, UrlOption
from durasleep.cli.output import console, json_values

if TYPE_CHECKING:
    from durasleep.app import Durasleep


@address.explained
def view(
    id: Annotated[str, typer.Argument(metavar="ID", help="An execution.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show each change until it has ended.")] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Show what an execution publishes, and how far it has come. No code of it runs for that.

    With --follow and --json, each change is one line.
    """
    import asyncio

    client = address.open_client(url, namespace)
    asyncio.run(_follow(client, id, as_json) if follow else _show(client, id, as_json))


async def _show(client: Durasleep, id: str, as_json: bool) -> None:
    from durasleep.cli.output import views

    async with client:
        found = await client.view(id)
    if as_json:
        json_values.data(views.as_json(found))
    else:
        console.rows(views.rows(found))


async def _follow(client: Durasleep, id: str, as_json: bool) -> None:
    from contextlib import aclosing

    from durasleep.cli.output import views

    async with client, aclosing(client.watch(id)) as watching:
        if as_json:
            async for found in watching:
                json_values.data(views.as_json(found))
            return
        with views.following() as show:
            async for found in watching:
                show(found)
