"""Gives ``as_completed`` and sets of ``gather`` the order of the program, and ``wait_for`` one way, in workflows.

asyncio keeps what it is given in sets ordered by address. Our own tasks and futures hash by creation number; two things
in asyncio are neither. ``wait_for`` makes a task of a coroutine on Python 3.11 only, and tasks take numbers: a journal
begun there must replay on later ones. Outside of workflows nothing changes.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any, cast

from durasleep.runtime.loop import WorkflowLoop

_original = cast("types.FunctionType", asyncio.as_completed)
_plain_as_completed = types.FunctionType(_original.__code__, _original.__globals__, "as_completed", None, None)
_plain_as_completed.__kwdefaults__ = _original.__kwdefaults__
_original_wait_for = cast("types.FunctionType", asyncio.wait_for)
_plain_wait_for = types.FunctionType(_original_wait_for.__code__, _original_wait_for.__globals__, "wait_for")


def _as_completed(fs: Any, *, timeout: float | None = None) -> Any:  # pyright: ignore[reportUnusedFunction] - its code is used
    from durasleep.runtime.ordering import ordered_as_completed

    return ordered_as_completed(fs, timeout=timeout)


def ordered_as_completed(fs: Iterable[Any], *, timeout: float | None = None) -> Any:
    """``asyncio.as_completed``, its coroutines first made tasks in the order given if a workflow is running."""
    loop = asyncio._get_running_loop()
    if isinstance(loop, WorkflowLoop) and not (asyncio.isfuture(fs) or asyncio.iscoroutine(fs)):
        fs = [asyncio.ensure_future(awaitable, loop=loop) for awaitable in dict.fromkeys(fs)]
    return cast("Callable[..., Any]", _plain_as_completed)(fs, timeout=timeout)


async def _wait_for(fut: Any, timeout: float | None) -> Any:  # pyright: ignore[reportUnusedFunction] - its code is used
    from durasleep.runtime.ordering import wait_without_a_task

    return await wait_without_a_task(fut, timeout)


async def wait_without_a_task(fut: Any, timeout: float | None) -> Any:
    """``asyncio.wait_for`` as Python 3.12 does it, if a workflow is running."""
    if timeout is None or timeout <= 0 or not isinstance(asyncio._get_running_loop(), WorkflowLoop):
        return await cast("Callable[..., Any]", _plain_wait_for)(fut, timeout)
    async with asyncio.timeout(timeout):
        return await fut


def _hash_of_gather(self: asyncio.Future[Any]) -> int:
    loop = self.get_loop()
    if not isinstance(loop, WorkflowLoop):
        return object.__hash__(self)
    serial: int | None = vars(self).get("_serial")
    if serial is None:  # the first use in a set is in the order of the program, too
        serial = vars(self)["_serial"] = loop.next_serial()
    return serial


def install() -> None:
    """Change them; repeating it changes nothing.

    The code of a function is exchanged, not its name, since ``from asyncio import as_completed`` copies names.
    """
    _original.__code__ = _as_completed.__code__
    if sys.version_info < (3, 12):
        _original_wait_for.__code__ = _wait_for.__code__
    gathering = cast("Any", asyncio.tasks)._GatheringFuture
    gathering.__hash__ = _hash_of_gather
