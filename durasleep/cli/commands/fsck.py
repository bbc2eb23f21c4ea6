"""``durasleep fsck``: checks the data in Redis against the laws."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from durasleep.cli import address
from durasleep.cli.options import ByOption, JsonOption, NamespaceOption, UrlOption
from durasleep.cli.output import console, fsck_words, json_values

_EXIT_BROKEN = 1


@address.explained
def fsck(
    repair: Annotated[bool, typer.Option("--repair", help="Repair everything that needs no guess.")] = False,
    as_json: JsonOption = False,
    by: ByOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> int:
    """Check all data of a namespace. Workers may go on meanwhile.

    Exit code 1 if something is wrong and was not repaired. docs/operate/troubleshooting.md explains each finding.
    """
    import asyncio

    from durasleep.cli.output import tables
    from durasleep.query.search import PARTLY_ASKED

    client = address.open_client(url, namespace, by=address.find_by(by))

    async def fetch() -> int:
        async with client:
            report = await client.fsck(repair=repair)
        if as_json:
            json_values.data(json_values.as_json(asdict(report) | {"is_clean": report.is_clean}))
            return 0 if report.is_clean else _EXIT_BROKEN
        tables.findings(report.findings)
        if report.left_out:
            console.note(f"and {report.left_out:,} more")
        console.note(f"Checked {fsck_words.counted(report.checked) or 'nothing: this namespace is empty'}.")
        if not report.is_whole:
            console.note(f"{PARTLY_ASKED}: run it again, to check that, too.")
        if report.is_clean:
            console.note("Everything is repaired." if report.findings else "Everything is well.")
        elif not repair and any(finding.repairable for finding in report.findings):
            console.note("`durasleep fsck --repair` repairs everything that needs no guess.")
        return 0 if report.is_clean else _EXIT_BROKEN

    return asyncio.run(fetch())
