"""``durasleep rpc`` and ``durasleep get``."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any

import typer

from durasleep.app import Durasleep
from durasleep.cli import address, view
from durasleep.cli.durations import parse_duration
from durasleep.cli.worker import NamespaceOption, UrlOption
from durasleep.client import Handle
from durasleep.errors import DurasleepError, NotFound, StoreError, WaitTimeout
from durasleep.model import parse_target

EXIT_FAILED = 1
EXIT_WAITED = 3

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def read_argument(text: str) -> Any:
    """JSON if it parses as JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def open_app(url: str | None, namespace: str | None) -> Durasleep:
    """The client side of an application, wherever its functions are."""
    return Durasleep(address.find_url(url), namespace=address.find_namespace(namespace))


def rpc(
    id: Annotated[str, typer.Argument(metavar="ID", help="What to call it; the same id is the same execution.")],
    function: Annotated[str, typer.Argument(metavar="FUNC", help="The name of a workflow or task.")],
    args: Annotated[list[str] | None, typer.Argument(metavar="[ARG]...", help="JSON, or else text.")] = None,
    target: Annotated[str, typer.Option("--target", metavar="TARGET", help="Who runs it.")] = "poll://any@workers",
    timeout: Annotated[str | None, typer.Option("--timeout", metavar="30s", help="Wait no longer than this.")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the id and leave.")] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> int:
    """Start FUNC under ID, or attach to what has this ID, and print the result.

    Exit 0: resolved. 1: it failed. 2: wrong usage. 3: waited longer than --timeout. 4: no Redis.
    """
    limit = parse_duration(timeout) if timeout else None
    arguments = [read_argument(arg) for arg in args or ()]
    return asyncio.run(_rpc(open_app(url, namespace), id, function, arguments, target, limit, no_wait, as_json))


async def _rpc(
    app: Durasleep,
    id: str,
    function: str,
    arguments: list[Any],
    target: str,
    limit: timedelta | None,
    no_wait: bool,
    as_json: bool,
) -> int:
    async with app:
        handle = await app.rpc(id, function, *arguments, target=target)
        if no_wait:
            found = {"id": id, "disposition": str(handle.disposition)}
            view.data(view.as_json(found) if as_json else id)
            return 0
        try:
            value = await _wait(app, handle, target, limit)
        except WaitTimeout as error:
            view.error(f"{error}: the same command attaches to it again.")
            return EXIT_WAITED
        except StoreError:
            raise
        except asyncio.CancelledError:
            view.note(f"{id} goes on; the same command attaches to it again.")
            raise
        except Exception as error:  # noqa: BLE001 - whatever the execution raised
            return await _say_failed(app, handle, error, as_json)
        shown = {"id": id, "disposition": str(handle.disposition), "state": "resolved", "value": value}
        view.data(view.as_json(shown) if as_json else view.as_text(value))
        return 0


async def _say_failed(app: Durasleep, handle: Handle[Any], error: Exception, as_json: bool) -> int:
    text = str(error) if isinstance(error, DurasleepError) else f"{type(error).__name__}: {error}"
    if as_json:
        state = (await app.describe(handle.id)).state
        view.data(
            view.as_json({"id": handle.id, "disposition": str(handle.disposition), "state": state, "error": text})
        )
    view.error(f"{handle.id} failed: {text}")
    for line in getattr(error, "__notes__", ()):
        view.note(line)
    return EXIT_FAILED


async def _wait(app: Durasleep, handle: Handle[Any], target: str, limit: timedelta | None) -> Any:
    """The result; meanwhile, on a terminal, what it waits for."""
    result = asyncio.ensure_future(handle.result(limit))
    group = parse_target(target).group
    with view.waiting(f"{handle.id}: asking") as status:
        said_nobody = False
        while True:
            done, _ = await asyncio.wait({result}, timeout=0.5)
            if done:
                return result.result()
            nobody = not await app.workers(group)
            if nobody and not said_nobody:
                said_nobody = True
                view.note(f"{handle.id} waits: group {group!r} has no worker alive (start one: durasleep worker)")
            if status is not None:
                try:
                    text = view.describe_waiting(await app.describe(handle.id), time.time_ns() // 1_000_000)
                    view.update(status, f"{handle.id}: {text}")
                except NotFound:
                    view.update(status, f"{handle.id}: its result is not kept any more")


def get(
    id: Annotated[str, typer.Argument(metavar="ID", help="An execution, a timer or a promise.")],
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Show how an execution or promise stands and what it waits for."""

    async def look() -> None:
        async with open_app(url, namespace) as app:
            description = await app.describe(id)
            if as_json:
                view.data(view.as_json(asdict(description)))
            else:
                view.show(description, time.time_ns() // 1_000_000)

    asyncio.run(look())
