"""``durasleep namespace``: commands for a whole namespace; ``durasleep control`` is its old name."""

from __future__ import annotations

from typing import Annotated

import typer

from durasleep.cli import address
from durasleep.cli.options import ByOption, NamespaceOption, UrlOption
from durasleep.cli.output import console, json_values
from durasleep.errors import NotAllowed

EXIT_FAILED = 1

app = typer.Typer(help="Commands for a whole namespace.", no_args_is_help=True)
old_app = typer.Typer(help="The old name of `namespace`.", no_args_is_help=True)


@app.callback()
def _namespace() -> None:
    pass


@old_app.callback()
def _control() -> None:
    console.warning("`durasleep control` is called `durasleep namespace` now, and its `forget` is called `discard`")


@app.command()
@old_app.command("forget")
@address.explained
def discard(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", help="A name that `durasleep fsck` shows, or its part before ': '.")
    ],
    by: ByOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> int:
    """Delete quarantined names. Look at the data that they name first.

    A quarantined name is no execution. It stands for something that could not be served: an entry or timer that
    durasleep did not write, or a key of another type.
    """
    import asyncio

    client = address.open_client(url, namespace, by=address.find_by(by))

    async def discard_one(name: str) -> bool:
        try:
            is_known = await client.discard_quarantined(name)
        except NotAllowed as error:
            console.error(str(error))
            return False
        if is_known:
            json_values.data(f"{name}: discarded")
        else:
            console.error(f"{name!r} was not quarantined")
        return is_known

    async def discard_all() -> bool:
        async with client:
            return all([await discard_one(name) for name in names])

    return 0 if asyncio.run(discard_all()) else EXIT_FAILED


@app.command("release-clock")
@old_app.command("release-clock")
@address.explained
def release_clock(by: ByOption = None, url: UrlOption = None, namespace: NamespaceOption = None) -> None:
    """Let timers fire by the clock of Redis, although it is far ahead of the workers' clocks.

    Use it if the clock of Redis is right. When that clock jumps ahead, workers fire no timers until somebody confirms
    it.
    """
    import asyncio

    client = address.open_client(url, namespace, by=address.find_by(by))

    async def release() -> None:
        async with client:
            now = await client.release_clock()
        console.note(f"timers fire by the clock of Redis: {now:%Y-%m-%d %H:%M:%S} UTC")

    asyncio.run(release())
