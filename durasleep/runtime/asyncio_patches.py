"""Makes parts of asyncio deterministic in workflows: ``as_completed``, ``all_tasks``, ``gather`` and ``wait_for``.

asyncio keeps tasks and futures in sets, whose order depends on addresses. Our own tasks and futures use their creation
number as hash; three things in asyncio do not. ``wait_for`` makes a task of a coroutine only on Python 3.11, and tasks
take numbers: a journal that began there must replay on later versions. Outside of workflows nothing changes.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import sys
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any, cast

from durasleep.runtime.event_loop import WorkflowLoop, WorkflowTask


def _copy(function: Any) -> Callable[..., Any]:
    if not isinstance(function, types.FunctionType):
        return function  # built in, and not changed
    copied = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


_plain_as_completed = _copy(asyncio.as_completed)
_plain_all_tasks = _copy(asyncio.all_tasks)
_plain_wait_for = _copy(asyncio.wait_for)


def _as_completed(fs: Any, *, timeout: float | None = None) -> Any:  # pyright: ignore[reportUnusedFunction] - its code is used
    from durasleep.runtime.asyncio_patches import ordered_as_completed

    return ordered_as_completed(fs, timeout=timeout)


def ordered_as_completed(fs: Iterable[Any], *, timeout: float | None = None) -> Any:
    """``asyncio.as_completed``; in a workflow its coroutines first become tasks, in the given order."""
    loop = asyncio._get_running_loop()
    if isinstance(loop, WorkflowLoop) and not (asyncio.isfuture(fs) or asyncio.iscoroutine(fs)):
        fs = [asyncio.ensure_future(awaitable, loop=loop) for awaitable in dict.fromkeys(fs)]
    return _plain_as_completed(fs, timeout=timeout)


def _all_tasks(loop: Any = None) -> Any:  # pyright: ignore[reportUnusedFunction] - its code is used
    from durasleep.runtime.asyncio_patches import ordered_all_tasks

    return ordered_all_tasks(loop)


def ordered_all_tasks(loop: Any = None) -> Any:
    """``asyncio.all_tasks``; in a workflow always in the same order."""
    running = asyncio._get_running_loop()
    if isinstance(running, WorkflowLoop) and loop in (None, running):
        return set(running.unfinished())
    return _plain_all_tasks(loop)


async def _wait_for(fut: Any, timeout: float | None) -> Any:  # pyright: ignore[reportUnusedFunction] - its code is used
    from durasleep.runtime.asyncio_patches import wait_without_a_task

    return await wait_without_a_task(fut, timeout)


async def wait_without_a_task(fut: Any, timeout: float | None) -> Any:
    """``asyncio.wait_for`` as in Python 3.12, if a workflow is running."""
    if timeout is None or timeout <= 0 or not isinstance(asyncio._get_running_loop(), WorkflowLoop):
        return await _plain_wait_for(fut, timeout)
    async with asyncio.timeout(timeout):
        return await fut


_plain_leave = asyncio.TaskGroup.__aexit__


async def _leave_group(
    self: asyncio.TaskGroup,
    et: type[BaseException] | None,
    exc: BaseException | None,
    tb: types.TracebackType | None,
) -> None:
    """``TaskGroup.__aexit__``. After it, the cancel that it makes itself does not count as one from outside.

    While it waits for its tasks, Python 3.11 cancels its own task and does not undo it. Every timeout around it then
    takes its own cancel for one of somebody else.
    """
    group: Any = self
    was_requested = group._parent_cancel_requested
    try:
        await _plain_leave(self, et, exc, tb)
    finally:
        if group._parent_cancel_requested and not was_requested and isinstance(group._loop, WorkflowLoop):
            group._parent_task.uncancel()


def _hash_of_gather(self: asyncio.Future[Any]) -> int:
    loop = self.get_loop()
    if not isinstance(loop, WorkflowLoop):
        return object.__hash__(self)
    serial: int | None = vars(self).get("_serial")
    if serial is None:  # the first use in a set follows the order of the program, too
        serial = vars(self)["_serial"] = loop.next_serial()
    return serial


def install() -> None:
    """Change these functions; repeating it changes nothing.

    It replaces the code of a function, not its name, because ``from asyncio import as_completed`` copies names.
    """
    exchanged: dict[Any, Any] = {asyncio.as_completed: _as_completed, asyncio.all_tasks: _all_tasks}
    if sys.version_info < (3, 12):
        exchanged[asyncio.wait_for] = _wait_for
        if asyncio.TaskGroup.__aexit__ is not _leave_group:
            asyncio.TaskGroup.__aexit__ = _leave_group
    for function, ours in exchanged.items():
        if isinstance(function, types.FunctionType):
            function.__code__ = ours.__code__
    tasks = cast("Any", asyncio.tasks)
    tasks._GatheringFuture.__hash__ = _hash_of_gather
    _leave_ours_out(tasks._all_tasks if sys.version_info < (3, 12) else tasks._scheduled_tasks)


def _leave_ours_out(known: weakref.WeakSet[asyncio.Task[Any]]) -> None:
    """Workflow tasks are known to their own loop. asyncio's set of all tasks is written in Python, and would only add
    and remove them: a twentieth of an activation.
    """
    if "add" in vars(known):
        return
    add = known.add

    def add_others(task: asyncio.Task[Any]) -> None:
        if type(task) is not WorkflowTask:
            add(task)

    cast("Any", known).add = add_others
