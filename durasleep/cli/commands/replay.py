"""``durasleep export`` and ``durasleep replay``: whether today's code still fits recorded journals."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from durasleep.cli import address
from durasleep.cli.commands.worker import ModuleArgument
from durasleep.cli.durations import parse_since
from durasleep.cli.labels import read_labels
from durasleep.cli.options import (
    FunctionOption,
    GroupFilter,
    JsonOption,
    LabelFilter,
    NamespaceOption,
    SinceFilter,
    StatusOption,
    UrlOption,
)
from durasleep.cli.output import console, json_values
from durasleep.errors import NotFound, UsageError
from durasleep.query.statuses import FOUND_MAX

if TYPE_CHECKING:
    from durasleep.app import Durasleep
    from durasleep.model import Recording

_EXIT_DIFFERS = 1


@address.explained
def export(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="The executions to write, unless a filter finds them.")
    ] = None,
    status: StatusOption = None,
    group: GroupFilter = None,
    function: FunctionOption = None,
    label: LabelFilter = None,
    since: SinceFilter = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=FOUND_MAX, help="Write at most this many.")
    ] = 100,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Write executions with their journals to stdout, one line of JSON each: `durasleep export --func order > file`.

    Arguments and results are written as they are in Redis: if a codec encrypts them, they stay encrypted.
    """
    import asyncio

    from durasleep.runtime import recording

    is_filter = bool(status or group or function or label or since)
    if bool(ids) == is_filter:
        raise UsageError("what to export? Give either IDs or a filter: --status, --group, --func, --label or --since")
    labels, until_now = read_labels(label or ()), None if since is None else parse_since(since)
    client = address.open_client(url, namespace)

    async def find() -> AsyncGenerator[str]:
        for id in ids or ():
            yield id
        if is_filter:
            found = await client.search(
                status=status or None, group=group, function=function, labels=labels, since=until_now, limit=limit
            )
            for one in found:
                yield one.id
            if not found.is_all:
                console.note(f"There are more than these {len(found)}: --limit writes more of them.")

    async def write() -> None:
        async with client:
            async for id in find():
                with suppress(NotFound) if is_filter else nullcontext():  # it has gone meanwhile
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
