"""``durasleep ls``, ``tree`` and ``timers``: what runs, and what is due next."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from durasleep.cli import address
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
from durasleep.query.statuses import FOUND_MAX, TIMERS_MAX

if TYPE_CHECKING:
    from durasleep.app import Durasleep
    from durasleep.query.call_tree import Tree
    from durasleep.query.search import SearchPage

_LOOKED_MIN = 1_000  # executions that a search may look at without a word
_VIEWS_MAX = 50  # executions of a tree of which it is shown what they publish: a screen
_HIDDEN_MAX = 1_000  # finished executions that are counted, but not listed: a page or two


@address.explained
def ls(
    status: StatusOption = None,
    group: GroupFilter = None,
    function: FunctionOption = None,
    label: LabelFilter = None,
    since: SinceFilter = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=FOUND_MAX, help="Show at most this many.")
    ] = 100,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """List pending executions, or those that a filter finds. Those that need a person come first."""
    import asyncio

    from durasleep.cli.output import tables
    from durasleep.query.search import SearchPage

    labels, until_now = read_labels(label or ()), None if since is None else parse_since(since)
    client = address.open_client(url, namespace)

    async def fetch() -> tuple[SearchPage, SearchPage]:
        async with client:
            found = await client.search(
                status=status or None, group=group, function=function, labels=labels, since=until_now, limit=limit
            )
            if status:
                return found, SearchPage()
            return found, await client.search(
                status="done", group=group, function=function, labels=labels, since=until_now, limit=_HIDDEN_MAX
            )

    found, hidden = asyncio.run(fetch())
    if as_json:
        shown = {"executions": list(found), "is_all": found.is_all, "notes": found.notes, "not_shown": len(hidden)}
        shown["looked_at"] = found.looked_at
        json_values.data(json_values.as_json(shown))
        return
    if found:
        tables.executions(found, _now_ms())
    if not found and found.is_all:
        console.note("None is pending." if hidden else "There is none.")
    if hidden:
        console.note(_hidden(hidden))
    if not found.is_all:
        console.note("Not all are shown: --limit shows more, --status, --group, --func and --label fewer.")
    if found.looked_at >= _LOOKED_MIN:
        console.note(f"Searched {found.looked_at:,} executions: with `durasleep index build` they are found at once.")
    for note in found.notes:
        console.warning(note)


def _hidden(hidden: SearchPage) -> str:
    """The executions that a list of pending ones does not show."""
    failed = sum(one.state in ("rejected", "timedout") for one in hidden)
    of_them = f", {failed:,} of them failed" if failed else ""
    count = f"{len(hidden):,}{'' if hidden.is_all else ' or more'}"
    return f"Finished and not shown: {count}{of_them}; --status done shows them."


@address.explained
def tree(
    id: Annotated[str, typer.Argument(metavar="ID", help="An execution.")],
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Show an execution and everything that it has called, with states, due times and durations."""
    import asyncio

    from durasleep.cli.output import tables

    client = address.open_client(url, namespace)

    async def fetch() -> None:
        async with client:
            found = await client.tree(id)
            said = {} if as_json else await _read_views(client, found)
        if as_json:
            json_values.data(json_values.as_json(asdict(found)))
            return
        tables.tree(found, _now_ms(), said)
        if not found.is_all:
            console.note("This is not all of it: of each, the last calls are here, and what it waits for.")

    asyncio.run(fetch())


@address.explained
def timers(
    count: Annotated[
        int, typer.Option("--next", metavar="N", min=1, max=TIMERS_MAX, help="Show at most this many.")
    ] = 20,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Show what is due next: sleeps, deadlines, delayed starts and schedules."""
    import asyncio

    from durasleep.cli.output import tables
    from durasleep.query.search import PARTLY_ASKED

    client = address.open_client(url, namespace)

    async def fetch() -> None:
        async with client:
            found = await client.timers(count)
        if as_json:
            json_values.data(json_values.as_json(found))
            return
        if found:
            tables.timers(found, _now_ms())
        else:
            console.note("There is none.")
        if not found.is_all:
            console.warning(f"{PARTLY_ASKED}: some timers may be missing. Ask again.")
        if more := found.total - len(found):
            console.note(f"{more:,} more {'falls' if more == 1 else 'fall'} due later: --next shows more.")

    asyncio.run(fetch())


async def _read_views(client: Durasleep, tree: Tree) -> dict[str, str]:
    """What the first executions of a tree publish, each in one line, by their ids; steps say how far they have come."""
    import asyncio

    from durasleep.cli.output import views

    ids: dict[str, None] = {}
    left = [tree.root]
    while left and len(ids) < _VIEWS_MAX:
        node = left.pop(0)
        left += node.children
        if node.kind == "execution":
            ids[node.id] = None
    found = await asyncio.gather(*[client.view(id) for id in ids], return_exceptions=True)
    said: dict[str, str] = {}
    for view in found:
        if isinstance(view, BaseException):  # it has expired meanwhile
            continue
        if line := views.in_one_line(view):
            said[view.id] = line
        said |= {
            f"{view.id}~{number}": views.describe_progress(step.progress)
            for number, step in view.steps.items()
            if step.progress is not None
        }
    return said


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
