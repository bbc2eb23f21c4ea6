"""``durasleep top``: a screen that shows what waits, runs, sleeps and has failed, once a second."""

from __future__ import annotations

import sys

from durasleep.cli import address
from durasleep.cli.options import NamespaceOption, UrlOption
from durasleep.errors import UsageError


@address.explained
def top(url: UrlOption = None, namespace: NamespaceOption = None) -> None:
    """Watch a namespace in the terminal: queues, workers, limits, what is due, and what has failed; q ends it."""
    import asyncio

    try:
        from durasleep.cli.top.app import Top
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise UsageError("durasleep top needs Textual: pip install 'durasleep[tui]'") from None
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("durasleep top needs a terminal; durasleep groups, workers and stats print the same once")
    from durasleep.cli.top import looking
    from durasleep.transport.connector import without_secret

    client = address.open_client(url, namespace)
    where = f"{without_secret(client.address.url)}, namespace {client.namespace}"

    async def run() -> None:
        async with client:
            await Top(client, await looking.read(client), where).run_async()

    asyncio.run(run())
