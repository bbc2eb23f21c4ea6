"""``durasleep schedule``: executions that are started again and again."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from durasleep.cli import address
from durasleep.cli.durations import parse_duration, parse_instant
from durasleep.cli.options import ANY_WORKER, ByOption, JsonOption, NamespaceOption, UrlOption
from durasleep.cli.output import console, json_values

if TYPE_CHECKING:
    from durasleep.app import Durasleep
    from durasleep.query.schedules import ScheduleDescription

EXIT_FAILED = 1

app = typer.Typer(help="Start executions again and again: cron lines and other times.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The name of the schedule.")]
NoteOption = Annotated[str | None, typer.Option("--note", metavar="TEXT", help="A text for people.")]


def _run(
    url: str | None, namespace: str | None, ask: Callable[[Durasleep], Awaitable[Any]], by: str | None = None
) -> Any:
    """The answer of the client; ``by`` is who changes something."""
    import asyncio

    client = address.open_client(url, namespace, by=by)

    async def run() -> Any:
        async with client:
            return await ask(client)

    return asyncio.run(run())


def _show(found: ScheduleDescription, as_json: bool) -> None:
    if as_json:
        json_values.data(json_values.as_json(asdict(found)))
    else:
        from durasleep.cli.output import tables

        tables.schedule(found, time.time_ns() // 1_000_000)


CronOption = Annotated[
    list[str] | None,
    typer.Option("--cron", metavar="LINE", help="A cron line, or a name such as @daily. May be repeated."),
]
EveryOption = Annotated[
    str | None, typer.Option("--every", metavar="1h", help="Instead: at multiples of this, counted from 1970.")
]
ZoneOption = Annotated[str, typer.Option("--zone", metavar="ZONE", help="The time zone of the lines.")]
StartOption = Annotated[str | None, typer.Option("--start", metavar="TIME", help="Nothing before this time.")]
EndOption = Annotated[str | None, typer.Option("--end", metavar="TIME", help="Nothing after this time.")]
JitterOption = Annotated[
    str | None, typer.Option("--jitter", metavar="30s", help="Put each start off by a part of this.")
]
OverlapOption = Annotated[
    str,
    typer.Option(
        "--overlap",
        metavar="POLICY",
        help="If the execution before has not ended: skip, queue, queue_all, allow or cancel.",
    ),
]
CatchUpOption = Annotated[
    str,
    typer.Option("--catch-up", metavar="POLICY", help="Missed times to make up for: last, first, none or all."),
]
WindowOption = Annotated[
    str, typer.Option("--window", metavar="1d", help="Drop times that were missed by more; or forever.")
]
RemainingOption = Annotated[int | None, typer.Option("--remaining", metavar="N", help="End after so many starts.")]
PausedOption = Annotated[
    bool | None, typer.Option("--paused/--not-paused", help="Whether it is paused.", show_default=False)
]
TargetOption = Annotated[
    str, typer.Option("--target", metavar="TARGET", help="The group or the worker that runs FUNC.")
]
RetentionOption = Annotated[
    str | None, typer.Option("--retention", metavar="30d", help="How long executions are kept; or forever.")
]


@app.command("put")
@address.explained
def put(
    name: NameArgument,
    function: Annotated[str, typer.Argument(metavar="FUNC", help="The name of a workflow or task.")],
    args: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARG", help="An argument of FUNC: JSON, or else text. After -- it may begin with a dash."
        ),
    ] = None,
    cron: CronOption = None,
    every: EveryOption = None,
    zone: ZoneOption = "UTC",
    start: StartOption = None,
    end: EndOption = None,
    jitter: JitterOption = None,
    overlap: OverlapOption = "skip",
    catch_up: CatchUpOption = "last",
    window: WindowOption = "365d",
    note: NoteOption = None,
    remaining: RemainingOption = None,
    paused: PausedOption = None,
    target: TargetOption = ANY_WORKER,
    retention: RetentionOption = None,
    by: ByOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Start FUNC at all times of some cron lines. A schedule of the same name is replaced.

    With the same times it keeps its next time, even if that has passed.
    """
    options: dict[str, Any] = {
        "cron": cron or None,
        "every": None if every is None else parse_duration(every),
        "zone": zone,
        "args": [json_values.read_argument(arg) for arg in args or ()],
        "start": None if start is None else parse_instant(start),
        "end": None if end is None else parse_instant(end),
        "jitter": None if jitter is None else parse_duration(jitter),
        "overlap": overlap,
        "catch_up": catch_up,
        "window": _duration(window),
        "note": note or "",
        "remaining": remaining,
        "paused": paused,
        "target": target,
        "retention": None if retention is None else _duration(retention),
    }
    _check(options)
    _show(
        _run(url, namespace, lambda client: client.schedules.put(name, function, **options), address.find_by(by)),
        as_json,
    )


def _duration(text: str) -> Any:
    return text if text == "forever" else parse_duration(text)


def _check(options: dict[str, Any]) -> None:
    """UsageError for options that cannot be used, before anything is connected."""
    from durasleep.client.schedule_options import KeptOptions

    kept = KeptOptions(**options)
    kept.spec()
    kept.check()


@app.command("get")
@address.explained
def get(
    name: NameArgument, as_json: JsonOption = False, url: UrlOption = None, namespace: NamespaceOption = None
) -> None:
    """Show a schedule and its next five times."""
    _show(_run(url, namespace, lambda client: client.schedules.get(name)), as_json)


@app.command("ls")
@address.explained
def ls(
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="Show at most this many.")
    ] = 100,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """List the schedules by name, each with its next time."""
    found = _run(url, namespace, lambda client: client.schedules.ls(limit))
    if as_json:
        shown = {"schedules": [asdict(one) for one in found], "is_all": found.is_all, "notes": found.notes}
        json_values.data(json_values.as_json(shown))
        return
    if found:
        from durasleep.cli.output import tables

        tables.schedules(found, time.time_ns() // 1_000_000)
    else:
        console.note("There is none.")
    if not found.is_all:
        console.note("Not all are shown: --limit shows more.")
    for note in found.notes:
        console.warning(note)


@app.command("pause")
@address.explained
def pause(
    name: NameArgument,
    note: NoteOption = None,
    by: ByOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Start nothing until the schedule is resumed. What runs goes on."""
    _show(_run(url, namespace, lambda client: client.schedules.pause(name, note), address.find_by(by)), as_json)


@app.command("resume")
@address.explained
def resume(
    name: NameArgument,
    note: NoteOption = None,
    by: ByOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Go on with the next time. Times that have passed meanwhile are not made up for."""
    _show(_run(url, namespace, lambda client: client.schedules.resume(name, note), address.find_by(by)), as_json)


@app.command("trigger")
@address.explained
def trigger(
    name: NameArgument,
    by: ByOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Start one execution now, even if the schedule is paused, and print its id."""
    id = _run(url, namespace, lambda client: client.schedules.trigger(name), address.find_by(by))
    json_values.data(json_values.as_json({"id": id}) if as_json else id)


@app.command("backfill")
@address.explained
def backfill(
    name: NameArgument,
    start: Annotated[str, typer.Option("--start", metavar="TIME", help="The first time, with its zone.")],
    end: Annotated[str, typer.Option("--end", metavar="TIME", help="The last time, with its zone.")],
    by: ByOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Start the executions of all times from one time to another, and print their ids."""
    first, last = parse_instant(start), parse_instant(end)
    ids = _run(url, namespace, lambda client: client.schedules.backfill(name, first, last), address.find_by(by))
    if as_json:
        json_values.data(json_values.as_json({"ids": ids}))
        return
    for id in ids:
        json_values.data(id)
    if not ids:
        console.note("There are no times between them.")


@app.command("delete")
@address.explained
def delete(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="The name of a schedule.")],
    by: ByOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> int:
    """Remove schedules. Executions that they started go on."""

    async def delete_all(client: Durasleep) -> int:
        code = 0
        for name in names:
            if await client.schedules.delete(name):
                json_values.data(f"{name}: deleted")
            else:
                console.error(f"there is no schedule {name}")
                code = EXIT_FAILED
        return code

    code: int = _run(url, namespace, delete_all, address.find_by(by))
    return code
