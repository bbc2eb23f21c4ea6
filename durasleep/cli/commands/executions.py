"""``durasleep wake``, ``reschedule``, ``cancel``, ``halt``, ``resume``, ``retry``: on ids or on what a filter finds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from durasleep.cli import address
from durasleep.cli.durations import parse_duration, parse_instant, parse_since
from durasleep.cli.labels import read_labels
from durasleep.cli.options import (
    ByOption,
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
from durasleep.errors import DurasleepError, UsageError

if TYPE_CHECKING:
    from durasleep.app import Durasleep
    from durasleep.client.bulk import Answer, Verb
    from durasleep.query.search import Search, SearchPage

EXIT_FAILED = 1

_PREVIEW_MAX = 20  # of the executions that a filter found: one screen

YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Do it to everything that the filter finds, without asking.")
]


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The executions: ids, or those that a filter finds."""

    ids: list[str] | None
    status: list[str] | None
    group: str | None
    function: str | None
    label: list[str] | None
    since: str | None
    yes: bool
    as_json: bool
    by: str
    """Who does it."""

    def check(self, verb: Verb) -> None:
        """UsageError unless exactly one of the two is given."""
        is_filter = bool(self.status or self.group or self.function or self.label or self.since)
        if self.ids and is_filter:
            raise UsageError(f"give IDs or a filter to {verb.name}, not both")
        if not self.ids and not is_filter:
            raise UsageError(f"what to {verb.name}? Give IDs, or a filter: --status, --group, --func or --label")
        if verb.only_ended and (wrong := [one for one in self.status or () if one not in verb.only_ended]):
            raise UsageError(f"--status {wrong[0]}: there is nothing to {verb.name}; use {', '.join(verb.only_ended)}")

    def search(self, verb: Verb) -> Search:
        """What the filter finds; UsageError for one that cannot be used."""
        from durasleep.client import requests
        from durasleep.query.search import Search

        return Search(
            status=self.status or verb.statuses,
            group=self.group,
            function=self.function,
            labels=read_labels(self.label or ()),
            since_ms=None if self.since is None else requests.since_ms(parse_since(self.since)),
            only_roots=verb.only_roots,
        )

    def filter(self, statuses: Sequence[str]) -> str:
        """The filter as options, for the audit."""
        options = {"--group": self.group, "--func": self.function, "--since": self.since}
        return _bulk().filter_text(statuses, options, self.label or ())


@dataclass(slots=True)
class _Tally:
    """What has become of the executions so far."""

    verb: str
    changed: int = 0
    unchanged: int = 0
    """Those that were so already."""
    failed: int = 0
    """Those to which it could not be done."""
    executions: list[dict[str, str | None]] = field(default_factory=list[dict[str, "str | None"]])
    """Each of them, for --json."""

    @property
    def code(self) -> int:
        """The exit code."""
        return EXIT_FAILED if self.failed else 0

    def __str__(self) -> str:
        more = [(self.unchanged, "needed no change"), (self.failed, "failed")]
        return ", ".join([f"{self.changed:,} done", *(f"{count:,} {what}" for count, what in more if count)])


@address.explained
def wake(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="The timers or sleeping executions to wake, unless a filter finds them."),
    ] = None,
    status: StatusOption = None,
    group: GroupFilter = None,
    function: FunctionOption = None,
    label: LabelFilter = None,
    since: SinceFilter = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
    by: ByOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> int:
    """End a sleep now, or start a delayed execution now.

    An ID is that of a timer, of a delayed execution, or of an execution that waits for exactly one timer.
    """
    verb = _bulk().wake()
    return _control(
        verb, _Chosen(ids, status, group, function, label, since, yes, as_json, address.find_by(by)), url, namespace
    )


@address.explained
def reschedule(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="The timers, promises or executions to move, unless a filter finds them."),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="A time with its zone, such as 2026-12-24T18:00+01:00.")
    ] = None,
    within: Annotated[
        str | None, typer.Option("--in", metavar="2h", help="A duration from now, such as 1h30m.")
    ] = None,
    status: StatusOption = None,
    group: GroupFilter = None,
    function: FunctionOption = None,
    label: LabelFilter = None,
    since: SinceFilter = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
    by: ByOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> int:
    """Move a sleep, a delayed start, a timeout or a deadline.

    An ID is that of a timer, of a promise or execution with a timeout, of a delayed execution, or of an execution that
    waits for exactly one timer.
    """
    if (at is None) == (within is None):
        raise UsageError("until when? Give either --at with a time or --in with a duration")
    due = parse_duration(within or "") if at is None else parse_instant(at)
    verb = _bulk().reschedule(due)
    return _control(
        verb, _Chosen(ids, status, group, function, label, since, yes, as_json, address.find_by(by)), url, namespace
    )


@address.explained
def cancel(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="The executions, timers or promises to cancel, unless a filter finds them."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="End it at once; its code cannot react.")] = False,
    status: StatusOption = None,
    group: GroupFilter = None,
    function: FunctionOption = None,
    label: LabelFilter = None,
    since: SinceFilter = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
    by: ByOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> int:
    """Ask an execution to end. Its code gets the cancel at its next await, and may clean up."""
    verb = _bulk().cancel(force=force)
    return _control(
        verb, _Chosen(ids, status, group, function, label, since, yes, as_json, address.find_by(by)), url, namespace
    )


@address.explained
def halt(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="The executions to halt, unless a filter finds them.")
    ] = None,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why it is halted; lists show it.")
    ] = "halted by hand",
    status: StatusOption = None,
    group: GroupFilter = None,
    function: FunctionOption = None,
    label: LabelFilter = None,
    since: SinceFilter = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
    by: ByOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> int:
    """Stop an execution where it is, until it is resumed. Its timers go on."""
    verb = _bulk().halt(reason)
    return _control(
        verb, _Chosen(ids, status, group, function, label, since, yes, as_json, address.find_by(by)), url, namespace
    )


@address.explained
def resume(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="The halted executions to resume, unless a filter finds them."),
    ] = None,
    status: StatusOption = None,
    group: GroupFilter = None,
    function: FunctionOption = None,
    label: LabelFilter = None,
    since: SinceFilter = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
    by: ByOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> int:
    """Let a halted execution go on. Use `durasleep retry` for an execution that has failed."""
    verb = _bulk().resume()
    return _control(
        verb, _Chosen(ids, status, group, function, label, since, yes, as_json, address.find_by(by)), url, namespace
    )


@address.explained
def retry(
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID", help="The failed or canceled executions to run again, unless a filter finds them."
        ),
    ] = None,
    status: StatusOption = None,
    group: GroupFilter = None,
    function: FunctionOption = None,
    label: LabelFilter = None,
    since: SinceFilter = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
    by: ByOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> int:
    """Run failed executions again, with the same ids and arguments.

    A filter without a status finds executions that were rejected or have timed out. `--status canceled` finds canceled
    ones. Children run again, too. A child with an id of its own does not: if it has failed, retry it first.
    """
    verb = _bulk().retry()
    return _control(
        verb, _Chosen(ids, status, group, function, label, since, yes, as_json, address.find_by(by)), url, namespace
    )


@address.explained
def fork(
    id: Annotated[str, typer.Argument(metavar="ID", help="An execution. It may run, or have ended.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The id of the new execution.")],
    before: Annotated[
        str,
        typer.Option(
            "--before",
            metavar="STEP",
            help="The number of a step as `durasleep tree` has it, or its name; `end` keeps all that has ended.",
        ),
    ],
    as_json: JsonOption = False,
    by: ByOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Begin a new execution with what another one had done before a step.

    It has the same function and arguments, and goes on from there with the code that is deployed now. With `--before
    end`, no step that has ended runs again: so a workflow goes on after a bug in its code. The other one is not
    changed. If this is interrupted, give the same command again.
    """
    import asyncio

    from durasleep.model import Disposition

    client = address.open_client(url, namespace, by=address.find_by(by))

    async def do() -> Disposition | None:
        async with client:
            return (await client.fork(id, new, before=before)).disposition

    found = asyncio.run(do())
    if as_json:
        json_values.data(json_values.as_json({"id": new, "disposition": str(found)}))
    else:
        json_values.data(f"{new}: {'forked' if found is Disposition.CREATED else 'forked already'}")


def _control(verb: Verb, chosen: _Chosen, url: str | None, namespace: str | None) -> int:
    """Do it, and say what happened to each. Exit 1 if it could not be done to one of them."""
    import asyncio

    chosen.check(verb)
    tally = _Tally(verb.name)
    if chosen.ids:
        client = address.open_client(url, namespace, by=chosen.by)
        asyncio.run(_control_these(client, verb, chosen, tally))
        return _end(tally, chosen)
    search = chosen.search(verb)
    first = asyncio.run(_first_part(address.open_client(url, namespace), search))
    for note in first.notes:
        console.note(note)
    if not first:
        console.note(f"There is nothing to {verb.name}.")
        return _end(tally, chosen)
    if not _is_meant(
        verb, first, search, chosen.yes
    ):  # asked outside a running loop, where Ctrl-C would not end the question
        console.note("Nothing was done.")
        return EXIT_FAILED
    asyncio.run(_control_found(address.open_client(url, namespace), verb, chosen, tally, first, search))
    console.note(f"{verb.name}: {tally}")
    return _end(tally, chosen)


def _end(tally: _Tally, chosen: _Chosen) -> int:
    if chosen.as_json:
        json_values.data(json_values.as_json(tally))
    return tally.code


async def _first_part(client: Durasleep, search: Search) -> SearchPage:
    async with client:
        return await _bulk().next_part(client, search)


async def _control_found(
    client: Durasleep, verb: Verb, chosen: _Chosen, tally: _Tally, found: SearchPage, search: Search
) -> None:
    """Do it in parts, one after the other, so that there may be any number of executions. The audit has one entry for
    all of it, also if it does not come to its end.
    """
    async with client:
        try:
            with console.progress() as show:
                while found:
                    await _control_all(client, verb, [one.id for one in found], chosen, tally, show)
                    found = await _bulk().next_part(client, search)
        finally:
            await _note(client, verb, chosen, tally)


async def _note(client: Durasleep, verb: Verb, chosen: _Chosen, tally: _Tally) -> None:
    if not tally.changed:
        return
    try:
        filter = chosen.filter(chosen.status or verb.statuses)
        await _bulk().note(client, chosen.by, verb, filter, tally.changed)
    except DurasleepError as error:
        console.warning(f"this is not in the audit: {error}")


async def _control_these(client: Durasleep, verb: Verb, chosen: _Chosen, tally: _Tally) -> None:
    async with client:
        await _control_all(client, verb, chosen.ids or (), chosen, tally)


def _is_meant(verb: Verb, found: SearchPage, search: Search, yes: bool) -> bool:
    """Show what was found. On a terminal, ask; elsewhere UsageError without --yes."""
    from durasleep.cli.output import tables

    tables.executions(found[:_PREVIEW_MAX], time.time_ns() // 1_000_000, on_stderr=True)
    more = len(found) - _PREVIEW_MAX
    if more > 0:
        console.note(f"and {more} more")
    if yes:
        return True
    others = "" if search.is_over else " and all others like them"
    what = f"{verb.name} {'this one' if len(found) == 1 else f'these {len(found)}'}{others}"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"nothing was done; to {what}, add --yes")
    return console.ask(what.capitalize() + "?")


async def _control_all(
    client: Durasleep,
    verb: Verb,
    ids: Sequence[str],
    chosen: _Chosen,
    tally: _Tally,
    show: Callable[[str], None] = lambda _: None,
) -> None:
    for start in range(0, len(ids), _bulk().AT_ONCE):
        for answer in await _bulk().control_all(client, verb, ids[start : start + _bulk().AT_ONCE]):
            _count(answer, chosen, tally)
        show(f"{verb.name}: {tally} so far")


def _count(answer: Answer, chosen: _Chosen, tally: _Tally) -> None:
    """Say what has happened to one, or keep it for --json."""
    if answer.is_failed:
        tally.failed += 1
    elif answer.is_changed:
        tally.changed += 1
    else:
        tally.unchanged += 1
    error = answer.text if answer.is_failed else None
    if chosen.as_json:
        tally.executions.append({"id": answer.id, "word": answer.word, "error": error})
    elif error:
        console.error(error)
    else:
        json_values.data(answer.text)


def _bulk() -> ModuleType:
    """The verbs; they need a client, which the help does not."""
    from durasleep.client import bulk

    return bulk
