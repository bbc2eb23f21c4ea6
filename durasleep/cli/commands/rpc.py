"""``durasleep rpc`` and ``durasleep get``."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from durasleep.cli import address
from durasleep.cli.durations import parse_duration
from durasleep.cli.labels import read_labels
from durasleep.cli.options import ANY_WORKER, FsyncOption, JsonOption, NamespaceOption, ReplicasOption, UrlOption
from durasleep.cli.output import console, json_values
from durasleep.errors import CorruptData, DurasleepError, NotFound, WaitTimeout

if TYPE_CHECKING:
    from datetime import timedelta

    from durasleep.app import Durasleep
    from durasleep.client.client import Handle
    from durasleep.model import PromiseId, Target
    from durasleep.query.status import PromiseStatus

EXIT_FAILED = 1
_EXIT_WAITED = 3

_CALLS_SHOWN = 100  # of an execution, the last ones: --values shows more
_CALLS_MAX = 10_000


@address.explained
def rpc(
    id: Annotated[
        str, typer.Argument(metavar="ID", help="The id of the execution; the same id is the same execution.")
    ],
    function: Annotated[str, typer.Argument(metavar="FUNC", help="The name of a workflow or task.")],
    args: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARG", help="An argument of FUNC: JSON, or else text. After -- it may begin with a dash."
        ),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", metavar="TARGET", help="The group or the worker that runs it.")
    ] = ANY_WORKER,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="30s", help="Wait at most this long; the execution goes on.")
    ] = None,
    delay: Annotated[str | None, typer.Option("--delay", metavar="1h30m", help="Start it after this time.")] = None,
    priority: Annotated[
        int | None,
        typer.Option("--priority", metavar="N", min=1, max=5, help="1 comes first, 5 last; by default 3."),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="The key by which the limit of FUNC counts it.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="NAME=VALUE", help="A label by which people find it. May be repeated."),
    ] = None,
    retention: Annotated[
        str | None, typer.Option("--retention", metavar="30d", help="Keep it so long after its end, or `forever`.")
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the id and do not wait.")] = False,
    as_json: JsonOption = False,
    min_replicas: ReplicasOption = None,
    fsync: FsyncOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> int:
    """Start FUNC under ID, or attach to the execution that has this ID, and print the result.

    Exit codes: 0 it has resolved, 1 it has failed, 2 wrong usage, 3 --timeout has passed, 4 no Redis.
    """
    import asyncio

    from durasleep.model import parse_target

    console.log_to_stderr(logging.WARNING)
    limit = None if timeout is None else parse_duration(timeout)
    arguments = [json_values.read_argument(arg) for arg in args or ()]
    client = address.open_client(url, namespace)
    to = parse_target(target)
    options: dict[str, Any] = {
        "delay": None if delay is None else parse_duration(delay),
        "priority": priority,
        "key": key,
        "labels": read_labels(label or ()),
        "retention": retention if retention in (None, "forever") else parse_duration(retention),
        "min_replicas": min_replicas,
        "fsync": fsync,
    }
    caller = client.options(target=str(to), **{name: value for name, value in options.items() if value is not None})

    async def start() -> Handle[Any]:
        return await caller.rpc(id, function, *arguments)

    return asyncio.run(_rpc(client, start, to, limit, no_wait, as_json))


async def _rpc(
    client: Durasleep,
    start: Callable[[], Awaitable[Handle[Any]]],
    target: Target,
    limit: timedelta | None,
    no_wait: bool,
    as_json: bool,
) -> int:
    import asyncio

    from durasleep.model import Disposition

    async with client:
        handle = await start()
        id = handle.id
        disposition = str(handle.disposition)
        if no_wait:
            json_values.data(json_values.as_json({"id": id, "disposition": disposition}) if as_json else id)
            return 0
        is_over = handle.disposition is Disposition.FINISHED
        try:
            ending = await _wait(client, handle.id, target, None if is_over else limit)
        except WaitTimeout as error:
            if as_json:
                _print_outcome(id, disposition, "pending", None, None)
            console.error(f"{error}, and the same command attaches to it again.")
            return _EXIT_WAITED
        except asyncio.CancelledError:
            console.note(f"{id} goes on; the same command attaches to it again.")
            raise
        return _show_ending(client, ending, disposition, as_json)


async def _wait(client: Durasleep, id: PromiseId, target: Target, limit: timedelta | None) -> PromiseStatus:
    """How it ended. Meanwhile a terminal shows what it waits for."""
    import asyncio

    from durasleep.cli.output.watch import Watch
    from durasleep.client.client import ending_of

    waiting = asyncio.ensure_future(ending_of(client, id, limit))
    with console.waiting(f"{id}: started") as spinner:
        await Watch(client, id, target, spinner).until(waiting)
    return waiting.result()


def _show_ending(client: Durasleep, ending: PromiseStatus, disposition: str, as_json: bool) -> int:
    """Print the value, or the error of the execution, which may be of any class, also one of ours."""
    from durasleep.codec.exceptions import error_line
    from durasleep.query import result

    try:
        value = result.result_of(ending, client.codec)
    except Exception as error:  # noqa: BLE001 - see above
        text = str(error) if isinstance(error, DurasleepError) else error_line(error)
        if as_json:
            _print_outcome(ending.id, disposition, ending.state, None, text)
        console.error(f"{ending.id} failed: {text}")
        for detail in _details(error):
            console.note(detail)
        return EXIT_FAILED
    if as_json:
        _print_outcome(ending.id, disposition, ending.state, value, None)
    else:
        json_values.data(json_values.as_text(value))
    return 0


def _print_outcome(id: str, disposition: str, state: str, value: object, error: str | None) -> None:
    outcome = {"id": id, "disposition": disposition, "state": state, "value": value, "error": error}
    json_values.data(json_values.as_json(outcome))


def _details(error: Exception) -> list[str]:
    """Where an error was raised, and its notes."""
    remote = getattr(error, "remote_traceback", "")
    return [*([f"it was raised there:\n{remote.rstrip()}"] if remote else []), *getattr(error, "__notes__", ())]


@address.explained
def get(
    id: Annotated[str, typer.Argument(metavar="ID", help="An execution, a timer or a promise.")],
    with_values: Annotated[
        bool,
        typer.Option("--values", help="Show its arguments, its whole result, and what each of its calls returned."),
    ] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Show the state of an execution or promise, what it has called, what it waits for, and how it has failed."""
    import asyncio

    from durasleep.cli.output import histories

    client = address.open_client(url, namespace)

    async def fetch() -> None:
        published = history = None
        async with client:
            description = await client.describe(id)
            if description.kind == "execution":
                history = await client.history(
                    id, limit=_CALLS_MAX if with_values else _CALLS_SHOWN, values=with_values
                )
                if not as_json:
                    published = await _published(client, id)
        if as_json:
            document = asdict(description) | {"deaths": description.crash_count}
            json_values.data(json_values.as_json(document | histories.document(history)))
            return
        console.show(description, time.time_ns() // 1_000_000, with_values=with_values, published=published)
        if history is not None:
            histories.show(history, description.created_at_ms, with_values=with_values)

    asyncio.run(fetch())


async def _published(client: Durasleep, id: str) -> str | None:
    """What it publishes, in one line; everything else is shown, too, if that cannot be read."""
    from durasleep.cli.output import views

    try:
        return views.in_one_line(await client.view(id))
    except CorruptData as error:  # encrypted by the codec of its application, which a command does not have
        return f"cannot be read: {error}"
    except NotFound:  # it has expired meanwhile
        return None
