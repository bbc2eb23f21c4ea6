"""``durasleep limit``: limits, what waits for them, and their numbers, which a person may change."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from durasleep.cli import address
from durasleep.cli.options import ByOption, JsonOption, NamespaceOption, UrlOption
from durasleep.cli.output import console, json_values
from durasleep.errors import UsageError

app = typer.Typer(help="Limits: what waits for them, and their numbers.", no_args_is_help=True)

_NONE = "none"
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A limit, as `durasleep limit ls` shows it.")]


@app.callback()
def _limit() -> None:
    pass


@app.command()
@address.explained
def ls(as_json: JsonOption = False, url: UrlOption = None, namespace: NamespaceOption = None) -> None:
    """List the limits: their numbers, how many executions hold a slot, and how many wait."""
    import asyncio

    from durasleep.cli.output import tables

    client = address.open_client(url, namespace)

    async def fetch() -> list[Any]:
        async with client:
            return list(await client.limits.ls())

    found = asyncio.run(fetch())
    if as_json:
        json_values.data(json_values.as_json([asdict(one) for one in found]))
    elif found:
        tables.limits(found, time.time_ns() // 1_000_000)
    else:
        console.note("There is none: a worker declares the limits of its functions when it starts.")


@app.command("set")
@address.explained
def set_numbers(
    name: NameArgument,
    per_key: Annotated[
        str | None, typer.Option("--per-key", metavar="N", help="So many of one key run at a time; `none` for any.")
    ] = None,
    total: Annotated[
        str | None, typer.Option("--total", metavar="N", help="So many of all run at a time; `none` for any.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="10/s", help="So many begin in a time; `none` for any.")
    ] = None,
    burst: Annotated[
        int | None, typer.Option("--burst", metavar="N", help="So many begin at once after a pause.")
    ] = None,
    parked_max: Annotated[
        int | None, typer.Option("--parked-max", metavar="N", help="So many of a key may wait.")
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            "--weight", metavar="KEY=N", help="The share of a key; `none` for that of the code. May be repeated."
        ),
    ] = None,
    by: ByOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Change numbers of a limit. They stay until `durasleep limit reset`, whatever the code says."""
    import asyncio

    numbers: dict[str, Any] = {}
    for what, text in (("per_key", per_key), ("total", total)):
        if text is not None:
            numbers[what] = None if text == _NONE else _whole(what, text)
    if rate is not None:
        numbers["rate"] = None if rate == _NONE else rate
    numbers |= {what: n for what, n in (("burst", burst), ("parked_max", parked_max)) if n is not None}
    weights = dict(map(_weight, weight or ()))
    client = address.open_client(url, namespace, by=address.find_by(by))

    async def change() -> None:
        async with client:
            await client.limits.set(name, weights=weights, **numbers)

    asyncio.run(change())
    json_values.data(f"{name}: set")


def _whole(what: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise UsageError(f"--{what.replace('_', '-')} {text!r}: give a whole number, or none")
    return int(text)


def _weight(text: str) -> tuple[str, float | None]:
    key, mark, value = text.rpartition("=")
    if mark and value == _NONE:
        return key, None
    try:
        if mark:
            return key, float(value)
    except ValueError:
        pass
    raise UsageError(f"--weight {text!r}: write KEY=N, such as customer-7=2")


@app.command()
@address.explained
def pause(name: NameArgument, by: ByOption = None, url: UrlOption = None, namespace: NamespaceOption = None) -> None:
    """Let nothing more of this limit begin. What runs goes on, and timers fire."""
    _change(address.open_client(url, namespace, by=address.find_by(by)), name, "pause", "paused", "was paused already")


@app.command()
@address.explained
def resume(name: NameArgument, by: ByOption = None, url: UrlOption = None, namespace: NamespaceOption = None) -> None:
    """End a pause of this limit."""
    _change(address.open_client(url, namespace, by=address.find_by(by)), name, "resume", "resumed", "was not paused")


@app.command()
@address.explained
def reset(name: NameArgument, by: ByOption = None, url: UrlOption = None, namespace: NamespaceOption = None) -> None:
    """Go back to the numbers and weights of the code."""
    _change(address.open_client(url, namespace, by=address.find_by(by)), name, "reset", "reset", "reset")


@app.command()
@address.explained
def delete(name: NameArgument, by: ByOption = None, url: UrlOption = None, namespace: NamespaceOption = None) -> None:
    """Forget a limit that is gone from the code. A worker that still has it makes it again when it starts."""
    _change(address.open_client(url, namespace, by=address.find_by(by)), name, "delete", "deleted", "deleted")


def _change(client: Any, name: str, verb: str, done: str, unchanged: str) -> None:
    import asyncio

    async def change() -> bool | None:
        async with client:
            return await getattr(client.limits, verb)(name)

    json_values.data(f"{name}: {unchanged if asyncio.run(change()) is False else done}")
