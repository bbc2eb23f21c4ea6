"""``durasleep move``: a namespace gets another server, another name, or another number of partitions."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from durasleep.cli import address
from durasleep.cli.options import FsyncOption, NamespaceOption, ReplicasOption
from durasleep.cli.output import console
from durasleep.errors import UsageError

if TYPE_CHECKING:
    from durasleep.client.carrier import Report
    from durasleep.query.moving import Survey

_EXIT_LEFT = 1
_SHOWN_MAX = 20  # of what is left behind: one screen


@address.explained
def move(
    to: Annotated[str, typer.Option("--to", metavar="URL", help="The Redis that gets the namespace.")],
    partitions: Annotated[
        int,
        typer.Option("--partitions", metavar="N", min=1, help="How many partitions it gets there, 1 to 256."),
    ],
    url: Annotated[
        str | None,
        typer.Option("--from", "--url", metavar="URL", help="The Redis that has it now, see --explain-address."),
    ] = None,
    namespace: NamespaceOption = None,
    to_namespace: Annotated[
        str | None, typer.Option("--to-namespace", metavar="NAME", help="Its new name; by default it keeps its name.")
    ] = None,
    leave_own_keys: Annotated[
        bool, typer.Option("--leave-own-keys", help="Move although there are keys of ctx.key, which stay behind.")
    ] = False,
    leave_others: Annotated[
        bool,
        typer.Option("--leave-others", help="Move although there are promises of other languages, which stay behind."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Move it without asking.")] = False,
    min_replicas: ReplicasOption = None,
    fsync: FsyncOption = None,
) -> int:
    """Move a namespace to another Redis, or to another number of partitions.

    Stop its workers first. The move makes a new namespace; nobody can use either of the two until it has ended. If it
    is interrupted, run it again. docs/operate/moving.md explains it.

    Exit code 1 if something was left behind.
    """
    import asyncio

    from durasleep.client.move import between

    old = address.find_namespace(namespace)
    ends = (address.find_url(url).url, old, to, to_namespace or old)

    async def look() -> Survey:
        async with between(
            *ends, partitions=partitions, leave_own_keys=leave_own_keys, leave_others=leave_others
        ) as moving:
            found = await moving.survey()
        console.note(f"Move {moving}:")
        return found

    async def carry_out() -> Report:
        with console.waiting("moving") as spinner:
            async with between(
                *ends,
                partitions=partitions,
                leave_own_keys=leave_own_keys,
                leave_others=leave_others,
                min_replicas=min_replicas,
                fsync=fsync,
                on_progress=lambda report: spinner.show(f"moved {report.done:,} of {found.total:,}"),
            ) as moving:
                return await moving.run()

    found = asyncio.run(look())
    _preview(found)
    if not _is_meant(yes):  # asked outside a running loop, where Ctrl-C would not end the question
        console.note("Nothing was moved.")
        return _EXIT_LEFT
    return _report(asyncio.run(carry_out()))


def _preview(found: Survey) -> None:
    counts = (
        (found.promises, "executions and promises"),
        (found.members, "parts of these executions"),
        (found.schedules, "schedules"),
        (found.timers, "timers"),
        (found.queued, "entries in queues"),
        (found.halted, "halted executions and quarantined names"),
    )
    for count, what in counts:
        console.note(f"{count:>12,} {what}")
    if found.own:
        console.note(
            f"{len(found.own):,} key{'s' * (len(found.own) > 1)} of ctx.key stay{'s' * (len(found.own) == 1)} behind."
        )
    if found.others:
        console.note(f"{len(found.others):,} promises and schedules of other languages stay behind.")


def _is_meant(yes: bool) -> bool:
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("nothing was moved; to move it, add --yes")
    return console.ask("Move it? Nobody can use it until all of it is moved.")


def _report(report: Report) -> int:
    console.note(f"Moved {report.moved:,} executions and promises, and {report.schedules:,} schedules.")
    if report.attached:
        console.note(f"{report.attached:,} new calls were dropped: the new namespace has an execution for each.")
    for name, why in list(report.left.items())[:_SHOWN_MAX]:
        console.error(f"{name} is left behind: {why}")
    more = len(report.left) - _SHOWN_MAX
    if more > 0:
        console.note(f"and {more:,} more")
    if not report.is_all:
        console.note("Clients still write to the old namespace. Run it again when they have stopped.")
    return 0 if report.is_all and not report.left else _EXIT_LEFT
