"""``durasleep promise``: promises on their own, for scripts and people."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from durasleep.app import Durasleep
from durasleep.cli import view
from durasleep.cli.durations import parse_duration
from durasleep.cli.rpc import JsonOption, open_app, read_argument
from durasleep.cli.worker import NamespaceOption, UrlOption

app = typer.Typer(help="Create, resolve, reject or cancel a promise.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The promise.")]
ValueOption = Annotated[str | None, typer.Option("--value", metavar="JSON", help="Its value: JSON, or else text.")]


@app.command("create")
def create(
    id: IdArgument,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="1h", help="After this long it is timed out.")
    ] = None,
    timer: Annotated[bool, typer.Option("--timer", help="The timeout resolves it.")] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Make a promise, and print its id."""
    limit = parse_duration(timeout) if timeout else None

    async def act(client: Durasleep) -> None:
        handle = await client.promises.create(id, timeout=limit, timer=timer)
        found = {"id": id, "disposition": str(handle.disposition)}
        view.data(view.as_json(found) if as_json else id)

    asyncio.run(_with(open_app(url, namespace), act))


@app.command("resolve")
def resolve(
    id: IdArgument,
    value: ValueOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Resolve a promise with a value."""
    result = read_argument(value) if value is not None else None

    async def act(client: Durasleep) -> None:
        await _say(client, id, await client.promises.resolve(id, result), as_json)

    asyncio.run(_with(open_app(url, namespace), act))


@app.command("reject")
def reject(
    id: IdArgument,
    value: ValueOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Reject a promise; the value is the text of the error."""
    text = view.as_text(read_argument(value)) if value is not None else "rejected"

    async def act(client: Durasleep) -> None:
        await _say(client, id, await client.promises.reject(id, text), as_json)

    asyncio.run(_with(open_app(url, namespace), act))


@app.command("cancel")
def cancel(
    id: IdArgument, as_json: JsonOption = False, url: UrlOption = None, namespace: NamespaceOption = None
) -> None:
    """Cancel a promise."""

    async def act(client: Durasleep) -> None:
        await _say(client, id, await client.promises.cancel(id), as_json)

    asyncio.run(_with(open_app(url, namespace), act))


async def _with(client: Durasleep, act: Any) -> None:
    async with client:
        await act(client)


async def _say(client: Durasleep, id: str, by_us: bool, as_json: bool) -> None:
    """The state it has now; the first settlement stays, so it may not be the one asked for."""
    state = (await client.describe(id)).state
    view.data(view.as_json({"id": id, "state": state, "settled_by_this": by_us}) if as_json else state)
    if not by_us:
        view.note(f"{id} had settled before: it is {state}, and stays so.")
