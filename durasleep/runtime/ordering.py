"""Gives ``as_completed`` and sets of ``gather`` the order of the program where a workflow runs.

asyncio keeps what it is given in sets ordered by address. Our own tasks and futures hash by creation number; two things
in asyncio are neither. Outside of workflows nothing changes.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Iterable
from typing import Any, cast

from durasleep.runtime.loop import WorkflowLoop

_original = cast("types.FunctionType", asyncio.as_completed)
_plain_as_completed = types.FunctionType(_original.__code__, _original.__globals__, "as_completed", None, None)
_plain_as_completed.__kwdefaults__ = _original.__kwdefaults__


def _as_completed(fs: Any, *, timeout: float | None = None) -> Any:  # pyright: ignore[reportUnusedFunction] - its code is used
    from durasleep.runtime.ordering import ordered_as_completed

    return ordered_as_completed(fs, timeout=timeout)


def ordered_as_completed(fs: Iterable[Any], *, timeout: float | None = None) -> Any:
    """``asyncio.as_completed``, its coroutines first made tasks in the order given if a workflow is running."""
    loop = asyncio._get_running_loop()
    if isinstance(loop, WorkflowLoop) and not (asyncio.isfuture(fs) or asyncio.iscoroutine(fs)):
        fs = [asyncio.ensure_future(awaitable, loop=loop) for awaitable in dict.fromkeys(fs)]
    return cast("Callable[..., Any]", _plain_as_completed)(fs, timeout=timeout)


def _hash_of_gather(self: asyncio.Future[Any]) -> int:
    loop = self.get_loop()
    if not isinstance(loop, WorkflowLoop):
        return object.__hash__(self)
    serial: int | None = vars(self).get("_serial")
    if serial is None:  # the first use in a set is in the order of the program, too
        serial = vars(self)["_serial"] = loop.next_serial()
    return serial


def install() -> None:
    """Change both; repeating it changes nothing.

    The code of ``as_completed`` is exchanged, not the name, since ``from asyncio import as_completed`` copies names.
    """
    _original.__code__ = _as_completed.__code__
    gathering = cast("Any", asyncio.tasks)._GatheringFuture
    gathering.__hash__ = _hash_of_gather
