"""Gathers calls of a function that takes many at once, and calls it for all of them together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from durasleep.batch import BatchFunction, results_of
from durasleep.errors import UsageError
from durasleep.model import duration_ms
from durasleep.runtime.definition import TaskDefinition
from durasleep.runtime.waits import CALLER_PREFIX
from durasleep.worker.execution.function_runner import FunctionRunner
from durasleep.worker.execution.threads import NotBegun


@dataclass(slots=True)
class _Gathering:
    """Calls that wait for others."""

    definition: TaskDefinition
    batch: BatchFunction
    items: list[Any] = field(default_factory=list[Any])
    futures: list[asyncio.Future[Any]] = field(default_factory=list[asyncio.Future[Any]])
    timer: asyncio.TimerHandle | None = None


class Batches:
    """The batches of a worker: for each function the one that is being gathered."""

    def __init__(self, code: FunctionRunner) -> None:
        self._code = code
        self._gathering: dict[str, _Gathering] = {}

    async def call(
        self, definition: TaskDefinition, args: Sequence[Any], kwargs: dict[str, Any], id: str, delay_s: float
    ) -> Any:
        """The result of one call, made together with others of its function; after a delay, if it has failed before."""
        assert definition.batch is not None
        if delay_s:
            await asyncio.sleep(delay_s)
        [item] = (*args, *kwargs.values())
        gathering = self._gathering.get(definition.name)
        if gathering is None:
            gathering = self._gathering[definition.name] = _Gathering(definition, definition.batch)
            wait_s = definition.batch.batch.wait_s
            gathering.timer = asyncio.get_running_loop().call_later(wait_s, self._begin, gathering, id)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        gathering.items.append(item)
        gathering.futures.append(future)
        if len(gathering.items) >= definition.batch.batch.size:
            self._begin(gathering, id)
        return await future

    def _begin(self, gathering: _Gathering, id: str) -> None:
        """Call it for those that wait, except those that were canceled meanwhile."""
        if gathering.timer is not None:
            gathering.timer.cancel()
        del self._gathering[gathering.definition.name]
        waiting = [
            (item, future) for item, future in zip(gathering.items, gathering.futures, strict=True) if not future.done()
        ]
        futures = [future for _, future in waiting]
        if not futures:
            return
        if self._code.is_leaving:
            _fail(futures, NotBegun())
            return
        timeout = gathering.definition.timeout
        task = self._code.start(
            gathering.batch.fn,
            [[item for item, _ in waiting]],
            {},
            about=_no_single_call,
            timeout_s=None if timeout is None else duration_ms(timeout) / 1000,
            name=f"{CALLER_PREFIX}{id}",
        )
        task.add_done_callback(partial(_distribute, futures, gathering.batch))
        for future in futures:
            future.add_done_callback(partial(_stop_if_unwanted, task, futures))


def _no_single_call(*, ends_at: float | None = None) -> NoReturn:  # noqa: ARG001 - as ``current.Source``
    raise UsageError("durasleep.current() says nothing in a batch: its calls are many, each with an id of its own")


def _distribute(futures: Sequence[asyncio.Future[Any]], batch: BatchFunction, task: asyncio.Task[Any]) -> None:
    """Each gets its result."""
    if task.cancelled():
        _fail(futures, asyncio.CancelledError("the batch was cancelled"))
        return
    try:
        results = results_of(task.result(), len(futures), batch.fn)
    except BaseException as error:  # noqa: BLE001 - any error of a user's function is that of all its calls
        _fail(futures, error)
        return
    for future, result in zip(futures, results, strict=True):
        if isinstance(result, BaseException):
            _fail([future], result)
        elif not future.done():
            future.set_result(result)


def _fail(futures: Sequence[asyncio.Future[Any]], error: BaseException) -> None:
    for future in futures:
        if not future.done():
            if isinstance(error, asyncio.CancelledError):
                future.cancel()
            else:
                future.set_exception(error)


def _stop_if_unwanted(task: asyncio.Task[Any], futures: Sequence[asyncio.Future[Any]], _: asyncio.Future[Any]) -> None:
    """All its calls were canceled."""
    if not task.done() and all(future.cancelled() for future in futures):
        task.cancel()
