"""``durasleep control``: what concerns a whole namespace."""

from __future__ import annotations

import asyncio

import typer

from durasleep.cli import address, view
from durasleep.cli.options import NamespaceOption, UrlOption

app = typer.Typer(help="Steer a whole namespace.", no_args_is_help=True)


@app.callback()
def _control() -> None:
    pass


@app.command("release-clock")
def release_clock(url: UrlOption = None, namespace: NamespaceOption = None) -> None:
    """Let timers fire by the clock of Redis, though it is far ahead of what the workers believe.

    For when it was put right; workers hold back what would fire by a clock that has jumped.
    """
    client = address.open_client(url, namespace)

    async def release() -> None:
        async with client:
            now = await client.release_clock()
        view.note(f"timers fire by the clock of Redis: {now:%Y-%m-%d %H:%M:%S} UTC")

    asyncio.run(release())
