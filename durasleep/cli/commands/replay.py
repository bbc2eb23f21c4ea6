"""``durasleep export`` and ``durasleep replay``: whether today's code still fits recorded journals."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from durasleep.cli import address
from durasleep.cli.commands.worker import ModuleArgument
from durasleep.cli.options import JsonOption, NamespaceOption, UrlOption
from durasleep.cli.output import console, json_values
from durasleep.errors import UsageError

if TYPE_CHECKING:
    from durasleep.app import Durasleep
    from durasleep.model import Recording

_EXIT_DIFFERS = 1


@address.explained
def export(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="The executions to write.")],
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Write executions with their journals to stdout, one line of JSON each: `durasleep export ID > file`.

    Arguments and results are written as they are in Redis: if a codec encrypts them, they stay encrypted.
    """
    import asyncio

    from durasleep.runtime import recording

    client = address.open_client(url, namespace)

    async def write() -> None:
        async with client:
            for id in ids:
                json_values.data(recording.dumps(await client.export(id)))

    asyncio.run(write())


@address.explained
def replay(
    source: Annotated[
        str,
        typer.Argument(
            metavar="ID|FILE", help="The id of an execution, or a file that `export` has written; - is stdin."
        ),
    ],
    module: ModuleArgument = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
) -> int:
    """Run today's code over recorded journals. No step is run, and nothing is written.

    Exit code 0 if every execution would go on as before, 1 if one would be halted or would end differently.
    """
    import asyncio

    from durasleep.cli.output import tables
    from durasleep.runtime import recording

    app = address.load_app(address.find_app(module))
    recorded = _read(source) if source == "-" or Path(source).is_file() else [asyncio.run(_load(app, source, url))]
    verdicts = [recording.check(one, app.registry, app.codec, app.settings) for one in recorded]
    if as_json:
        json_values.data(json_values.as_json([asdict(verdict) for verdict in verdicts]))
    else:
        tables.verdicts(verdicts)
    differing = sum(not verdict.ok for verdict in verdicts)
    if differing:
        console.error(f"{differing} of {len(verdicts)} would not go on as before")
    return _EXIT_DIFFERS if differing else 0


def _read(source: str) -> list[Recording]:
    from durasleep.runtime import recording

    text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    found = [recording.loads(line) for line in text.splitlines() if line.strip()]
    if not found:
        raise UsageError(f"there is no recording in {source}")
    return found


async def _load(app: Durasleep, id: str, url: str | None) -> Recording:
    address.point(app, url)
    async with app:
        return await app.export(id)
