"""Calls the functions of users: async ones on the worker's loop, sync ones in threads, none can end the worker."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from durasleep.codec import Codec
from durasleep.model import State, StepResult
from durasleep.runtime.definition import step_name_of
from durasleep.runtime.journal import StepCall

logger = logging.getLogger("durasleep")


StandIns = Mapping[Callable[..., Any], Callable[..., Any]]
"""Functions to call in place of others: what tests put there."""


class UserCode:
    """Where steps and tasks run; at most ``threads_max`` sync ones at a time."""

    def __init__(self, threads_max: int, codec: Codec, stand_ins: StandIns) -> None:
        self._codec = codec
        self._stand_ins = stand_ins
        self._threads = ThreadPoolExecutor(threads_max, thread_name_prefix="durasleep-step")
        self._in_threads: set[object] = set()

    @property
    def in_threads(self) -> int:
        """Calls of sync functions that have not returned; nothing can stop them."""
        return len(self._in_threads)

    def close(self) -> None:
        """Begin nothing new in threads; what runs there is left to itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def step(self, call: StepCall) -> StepResult | None:
        """Run one step; its result or error as it will be journaled, None if it was stopped."""
        task = asyncio.current_task()
        try:
            if call.delay_s:
                await asyncio.sleep(call.delay_s)
            value = await self.call(call.fn, call.args, call.kwargs, call.timeout_s)
            return StepResult(
                call.number, call.name, State.RESOLVED, self._codec.encode(value, f"the result of {call.name}")
            )
        except asyncio.CancelledError as error:
            if task is not None and task.cancelling():
                return None
            failure: BaseException = error
        except Exception as error:  # noqa: BLE001 - whatever a user's function raises is its result
            failure = error
        logger.warning("step %s (%s) failed: %s: %s", call.number, call.name, type(failure).__name__, failure)
        if not isinstance(failure, Exception):  # a CancelledError of its own: for the workflow, nobody canceled it
            failure = RuntimeError(f"{type(failure).__name__} in step {call.name}: {failure}")
        return StepResult(call.number, call.name, State.REJECTED, self._codec.encode_error(failure))

    async def call(
        self, fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], timeout_s: float | None
    ) -> Any:
        """The result of ``fn``, or what it raises; TimeoutError, saying so, if it takes longer than ``timeout_s``.

        SystemExit and KeyboardInterrupt become a RuntimeError.
        """
        if timeout_s is None:
            return await self._call(self._stand_in(fn), args, kwargs)
        deadline = asyncio.timeout(timeout_s)
        try:
            async with deadline:
                return await self._call(self._stand_in(fn), args, kwargs)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise TimeoutError(f"{step_name_of(fn)} took longer than {timeout_s:g} s") from error

    def _stand_in(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return self._stand_ins.get(fn, fn)
        except TypeError:  # a callable object without a hash
            return fn

    async def _call(self, fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        try:
            if inspect.iscoroutinefunction(fn):
                return await fn(*args, **kwargs)
            result = await self._call_in_thread(fn, args, kwargs)
            return await result if inspect.isawaitable(result) else result
        except (SystemExit, KeyboardInterrupt) as error:
            raise RuntimeError(f"{type(error).__name__} in user code: {error}") from error

    async def _call_in_thread(self, fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        context = contextvars.copy_context()
        mark = object()

        def work() -> Any:
            self._in_threads.add(mark)
            try:
                return context.run(fn, *args, **kwargs)
            except StopIteration as error:  # a future of Python 3.11 does not take it, and would wait for ever
                raise RuntimeError(f"StopIteration in user code: {error}") from error
            finally:
                self._in_threads.discard(mark)

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
