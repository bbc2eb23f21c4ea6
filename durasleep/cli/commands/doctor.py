"""``durasleep doctor``: what a server can lose, what waits for a person or a worker, and what to change."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from durasleep.cli import address
from durasleep.cli.options import JsonOption, NamespaceOption, UrlOption
from durasleep.cli.output import console, json_values

if TYPE_CHECKING:
    from durasleep.query.doctor import Diagnosis

_EXIT_DANGER = 1

_STYLE = {"good": "green", "warning": "yellow", "danger": "bold red"}


@address.explained
def doctor(as_json: JsonOption = False, url: UrlOption = None, namespace: NamespaceOption = None) -> int:
    """Say which data this server can lose, what waits for you or for a worker, and what to do about it.

    Exit code 1 if something is dangerous.
    """
    import asyncio

    from durasleep.app import Durasleep
    from durasleep.query.doctor import Diagnosis, Level

    where = address.find_url(url)
    used = Diagnosis(Level.GOOD, "address", str(where))
    if not as_json:
        _show(used)  # first of all, because this may be the mistake
    client = Durasleep(where.url, namespace=address.find_namespace(namespace))

    async def fetch() -> list[Diagnosis]:
        async with client:
            return await client.diagnose()

    found = asyncio.run(fetch())
    if as_json:
        json_values.data(json_values.as_json([asdict(one) for one in (used, *found)]))
    for one in () if as_json else found:
        _show(one)
    return _EXIT_DANGER if any(one.level is Level.DANGER for one in found) else 0


def _show(one: Diagnosis) -> None:
    console.line((f"{one.level:<8}", _STYLE[one.level]), (f"{one.subject}: ", "bold"), (one.text, ""))
    if one.advice:
        console.line((" " * 8, ""), (one.advice, "dim"))
