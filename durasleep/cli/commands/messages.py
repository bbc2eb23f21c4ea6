"""``durasleep send`` and ``durasleep ask``: messages to executions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from durasleep.cli import address
from durasleep.cli.durations import parse_duration
from durasleep.cli.options import (
    ANY_WORKER,
    ByOption,
    FsyncOption,
    JsonOption,
    NamespaceOption,
    ReplicasOption,
    UrlOption,
)
from durasleep.cli.output import console, json_values
from durasleep.errors import DurasleepError, TimedOut, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from durasleep.app import Durasleep
    from durasleep.client.client import Caller
    from durasleep.model import Delivery

EXIT_FAILED = 1
_EXIT_WAITED = 3

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The execution.")]
ChannelArgument = Annotated[str, typer.Argument(metavar="CHANNEL", help="The name by which its code asks for it.")]
ValueArgument = Annotated[
    str | None, typer.Argument(metavar="VALUE", help="The value: JSON, or else text. By default null.")
]
ArgsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="ARG", help="An argument of FUNC, with --start: JSON, or else text."),
]
StartOption = Annotated[
    str | None,
    typer.Option("--start", metavar="FUNC", help="If there is no execution ID, begin it: the name of its function."),
]
TargetOption = Annotated[
    str | None, typer.Option("--target", metavar="TARGET", help="The group or the worker that runs it, with --start.")
]


@address.explained
def send(
    id: IdArgument,
    channel: ChannelArgument,
    value: ValueArgument = None,
    args: ArgsArgument = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="Of several messages with this key, only one is sent.")
    ] = None,
    start: StartOption = None,
    target: TargetOption = None,
    as_json: JsonOption = False,
    by: ByOption = None,
    min_replicas: ReplicasOption = None,
    fsync: FsyncOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Send a message to an execution, and print what became of it.

    It is delivered if the execution waits for it, else stored until it asks for it; a duplicate is not sent.
    """
    import asyncio

    message, begin = _read(value, start, args)
    client = address.open_client(url, namespace, by=address.find_by(by))
    caller = _caller(client, target, min_replicas, fsync)

    async def do() -> Delivery:
        async with client:
            return await caller.send(id, channel, message, key=key, start=begin)

    delivery = asyncio.run(do())
    if as_json:
        json_values.data(json_values.as_json({"id": id, "channel": channel, "delivery": delivery}))
    else:
        json_values.data(f"{id}: {_WORDS[delivery]}")


_WORDS = {
    "delivered": "delivered",
    "stored": "stored until it asks for it",
    "duplicate": "not sent, because a message with this key was sent before",
}


@address.explained
def ask(
    id: IdArgument,
    channel: ChannelArgument,
    timeout: Annotated[str, typer.Option("--timeout", metavar="30s", help="Wait at most this long for the answer.")],
    value: ValueArgument = None,
    args: ArgsArgument = None,
    start: StartOption = None,
    target: TargetOption = None,
    as_json: JsonOption = False,
    by: ByOption = None,
    min_replicas: ReplicasOption = None,
    fsync: FsyncOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> int:
    """Send a message to an execution, wait for its answer, and print it.

    Exit codes: 0 it has answered, 1 it has failed, 2 wrong usage, 3 --timeout has passed, 4 no Redis.
    """
    import asyncio

    limit = parse_duration(timeout)
    message, begin = _read(value, start, args)
    client = address.open_client(url, namespace, by=address.find_by(by))
    caller = _caller(client, target, min_replicas, fsync)

    async def do() -> int:
        async with client:
            asked = caller.ask(id, channel, message, timeout=limit, start=begin)
            return await _answer(_shown(client, id, target, asked), id, channel, as_json)

    return asyncio.run(do())


async def _shown(client: Durasleep, id: str, target: str | None, asked: Coroutine[Any, Any, Any]) -> Any:
    """Wait for the answer; meanwhile a person sees what the execution waits for."""
    import asyncio

    from durasleep.cli.output.watch import Watch
    from durasleep.model import parse_target

    waiting = asyncio.ensure_future(asked)
    with console.waiting(f"{id}: asked") as spinner:
        await Watch(client, id, parse_target(target or ANY_WORKER), spinner).until(waiting)
    return await waiting


async def _answer(asked: Awaitable[Any], id: str, channel: str, as_json: bool) -> int:
    """Print the answer, or the error that was answered, which may be of any class."""
    import asyncio

    from durasleep.codec.exceptions import error_line

    code, answer, error, text = 0, None, None, ""
    try:
        answer = await asked
    except TimedOut as late:
        code, error, text = _EXIT_WAITED, f"{late}", f"{late}"
    except asyncio.CancelledError:
        console.note(f"nobody waits for the answer of {id} any more; if it has the message, it keeps it.")
        raise
    except DurasleepError:
        raise
    except Exception as answered:  # noqa: BLE001 - see above
        code, error = EXIT_FAILED, error_line(answered)
        text = f"{id} has answered with an error: {error}"
    if as_json:
        json_values.data(json_values.as_json({"id": id, "channel": channel, "answer": answer, "error": error}))
    elif error is None:
        json_values.data(json_values.as_text(answer))
    if error is not None:
        console.error(text)
    return code


def _read(value: str | None, start: str | None, args: list[str] | None) -> tuple[Any, Any]:
    """The value of the message, and how its execution begins; UsageError for arguments of no function."""
    if args and start is None:
        raise UsageError(f"a message has one value, and {args[0]!r} is a second one: quote it, or add --start FUNC")
    message = None if value is None else json_values.read_argument(value)
    return message, None if start is None else (start, *map(json_values.read_argument, args or ()))


def _caller(client: Durasleep, target: str | None, min_replicas: int | None, fsync: bool | None) -> Caller:
    options: dict[str, Any] = {"target": target, "min_replicas": min_replicas, "fsync": fsync}
    return client.options(**{name: value for name, value in options.items() if value is not None})
