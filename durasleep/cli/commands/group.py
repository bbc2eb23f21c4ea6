"""``durasleep group``: pausing the workers of a group, and listing groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from durasleep.cli import address
from durasleep.cli.options import ByOption, JsonOption, NamespaceOption, UrlOption
from durasleep.cli.output import console, json_values

if TYPE_CHECKING:
    from durasleep.query.groups import GroupSummary

app = typer.Typer(help="Pause the workers of a group, and list groups.", no_args_is_help=True)

GroupArgument = Annotated[str, typer.Argument(metavar="GROUP", help="The name of a group of workers.")]


@app.command()
@address.explained
def pause(
    group: GroupArgument,
    as_json: JsonOption = False,
    by: ByOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Let the workers of a group take no more executions. What runs goes on, and timers fire."""
    import asyncio

    client = address.open_client(url, namespace, by=address.find_by(by))

    async def do() -> tuple[bool, list[str]]:
        async with client:
            is_new = await client.pause_group(group)
            return is_new, [name for one in await client.groups() if one.name == group for name in one.unaware]

    is_new, unaware = asyncio.run(do())
    _show(group, "paused" if is_new else "paused already", is_new, as_json)
    if unaware:
        console.warning(f"{', '.join(unaware)}: of an earlier version, which knows no pause, and goes on")


@app.command()
@address.explained
def resume(
    group: GroupArgument,
    as_json: JsonOption = False,
    by: ByOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Let the workers of a paused group take executions again."""
    import asyncio

    client = address.open_client(url, namespace, by=address.find_by(by))

    async def do() -> bool:
        async with client:
            return await client.resume_group(group)

    was_paused = asyncio.run(do())
    _show(group, "resumed" if was_paused else "not paused", was_paused, as_json)


def _show(group: str, word: str, is_changed: bool, as_json: bool) -> None:
    shown = json_values.as_json({"group": group, "word": word, "changed": is_changed})
    json_values.data(shown if as_json else f"{group}: {word}")


@app.command()
@address.explained
def ls(as_json: JsonOption = False, url: UrlOption = None, namespace: NamespaceOption = None) -> None:
    """List the groups: their workers, what waits there, and who has paused them."""
    import asyncio

    from durasleep.cli.output import tables

    client = address.open_client(url, namespace)

    async def fetch() -> list[GroupSummary]:
        async with client:
            return await client.groups()

    found = asyncio.run(fetch())
    if as_json:
        json_values.data(json_values.as_json(found))
    elif found:
        tables.groups(found)
    else:
        console.note("There is none.")
