"""``durasleep promise``: promises without an execution, for scripts and people."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from durasleep.cli import address
from durasleep.cli.durations import parse_duration
from durasleep.cli.options import ByOption, JsonOption, NamespaceOption, UrlOption
from durasleep.cli.output import console, json_values

if TYPE_CHECKING:
    from durasleep.app import Durasleep
    from durasleep.model import State

_EXIT_OTHERWISE = 1

app = typer.Typer(help="Create, resolve, reject or cancel a promise.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The promise.")]
ValueOption = Annotated[str | None, typer.Option("--value", metavar="JSON", help="The value: JSON, or else text.")]


@app.command("create")
@address.explained
def create(
    id: IdArgument,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="1h", help="It times out after this time.")
    ] = None,
    timer: Annotated[bool, typer.Option("--timer", help="After the timeout it is resolved, not timed out.")] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Make a promise, and print its id."""
    import asyncio

    limit = None if timeout is None else parse_duration(timeout)
    client = address.open_client(url, namespace)

    async def make() -> None:
        async with client:
            handle = await client.promises.create(id, timeout=limit, timer=timer)
        found = {"id": id, "disposition": str(handle.disposition)}
        json_values.data(json_values.as_json(found) if as_json else id)

    asyncio.run(make())


@app.command("resolve")
@address.explained
def resolve(
    id: IdArgument,
    value: ValueOption = None,
    as_json: JsonOption = False,
    by: ByOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> int:
    """Resolve a promise with a value, and print its state."""
    import asyncio

    from durasleep.model import State

    result = None if value is None else json_values.read_argument(value)
    client = address.open_client(url, namespace, by=address.find_by(by))
    return asyncio.run(_settle(client, id, State.RESOLVED, lambda: client.promises.resolve(id, result), as_json))


@app.command("reject")
@address.explained
def reject(
    id: IdArgument,
    value: ValueOption = None,
    as_json: JsonOption = False,
    by: ByOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> int:
    """Reject a promise with an error. The value is the text of the error."""
    import asyncio

    from durasleep.model import State

    text = "rejected" if value is None else json_values.as_text(json_values.read_argument(value))
    client = address.open_client(url, namespace, by=address.find_by(by))
    return asyncio.run(_settle(client, id, State.REJECTED, lambda: client.promises.reject(id, text), as_json))


@app.command("cancel")
@address.explained
def cancel(
    id: IdArgument,
    as_json: JsonOption = False,
    by: ByOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> int:
    """Cancel a promise."""
    import asyncio

    from durasleep.model import State

    client = address.open_client(url, namespace, by=address.find_by(by))
    return asyncio.run(_settle(client, id, State.CANCELED, lambda: client.promises.cancel(id), as_json))


async def _settle(
    client: Durasleep, id: str, wanted: State, settle: Callable[[], Awaitable[bool]], as_json: bool
) -> int:
    """Print its state now. A promise settles once: if the state is not the wanted one, the exit code is 1."""
    async with client:
        by_us = await settle()
        state = wanted if by_us else (await client.describe(id)).state
    json_values.data(
        json_values.as_json({"id": id, "state": str(state), "settled_by_this": by_us}) if as_json else str(state)
    )
    if not by_us:
        console.note(f"{id} had settled before: it is {state}, and stays so.")
    return 0 if state == wanted else _EXIT_OTHERWISE
