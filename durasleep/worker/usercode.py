"""Calls the functions of users: async ones on the worker's loop, sync ones in threads, none can end the worker."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FunctionType
from typing import Any

from durasleep.codec import Codec, error_line
from durasleep.model import State, StepResult
from durasleep.runtime.definition import step_name_of
from durasleep.runtime.journal import StepCall

logger = logging.getLogger("durasleep")


StandIns = Mapping[Callable[..., Any], Callable[..., Any]]
"""Functions to call in place of others: what tests put there."""


class NotBegun(Exception):
    """Its worker leaves: what waited for its turn was not called."""


class UserCode:
    """Where steps and tasks run; at most ``threads_max`` sync ones at a time."""

    def __init__(self, threads_max: int, codec: Codec, stand_ins: StandIns) -> None:
        self._codec = codec
        self._stand_ins = stand_ins
        self.is_leaving = False
        """Whether what waits is not called any more."""
        self._threads = ThreadPoolExecutor(threads_max, thread_name_prefix="durasleep-step")
        self._in_threads: set[object] = set()

    @property
    def in_threads(self) -> int:
        """Calls of sync functions that have not returned; nothing can stop them."""
        return len(self._in_threads)

    def close(self) -> None:
        """Begin nothing new in threads; what runs there is left to itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def start(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        *,
        timeout_s: float | None = None,
        delay_s: float = 0.0,
        name: str,
    ) -> asyncio.Task[Any]:
        """Begin a call of ``fn`` after ``delay_s``: its result or what it raises.

        That is a TimeoutError, saying so, if it takes longer than ``timeout_s``, a RuntimeError for SystemExit and
        KeyboardInterrupt, and NotBegun if the worker leaves before ``delay_s`` is over.
        """
        stand_in = self._stand_in(fn)
        work = _call_async if _is_async(stand_in) else self._call_sync
        if timeout_s is None and not delay_s:
            call = work(stand_in, args, kwargs)
        else:
            call = self._call_later(work, stand_in, args, kwargs, timeout_s, delay_s, step_name_of(fn))
        return asyncio.get_running_loop().create_task(call, name=name)

    def start_step(self, call: StepCall, owner: str) -> asyncio.Task[Any]:
        """Begin a step of the execution ``owner``."""
        return self.start(
            call.fn,
            call.args,
            call.kwargs,
            timeout_s=call.timeout_s,
            delay_s=call.delay_s,
            name=f"durasleep:{owner}~{call.number}",
        )

    def result_of(self, call: StepCall, task: asyncio.Task[Any]) -> StepResult:
        """How a step that is over ended, as it will be journaled."""
        try:
            value = self._codec.encode(task.result(), f"the result of {call.name}", call.fn)
            return StepResult(call.number, call.name, State.RESOLVED, value)
        except BaseException as error:  # noqa: BLE001 - whatever a user's function raises is its result
            failure = error
        logger.warning("step %s (%s) failed: %s", call.number, call.name, error_line(failure))
        # Decided here, on the error itself: what is journaled of it is a copy, which may lack its class.
        retried = None if call.retry is None else call.retry.wants(failure, call.attempt)
        # A CancelledError of its own is told as what it is: for the workflow, nobody canceled it.
        payload = self._codec.encode_error(as_exception(failure, f"step {call.name}"), retried=retried)
        return StepResult(call.number, call.name, State.REJECTED, payload)

    def _stand_in(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        if not self._stand_ins:
            return fn
        try:
            return self._stand_ins.get(fn, fn)
        except TypeError:  # a callable object without a hash
            return fn

    async def _call_later(
        self,
        work: Callable[..., Coroutine[Any, Any, Any]],
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        timeout_s: float | None,
        delay_s: float,
        name: str,
    ) -> Any:
        if delay_s:
            await asyncio.sleep(delay_s)
            if self.is_leaving:
                raise NotBegun
        if timeout_s is None:
            return await work(fn, args, kwargs)
        deadline = asyncio.timeout(timeout_s)
        try:
            async with deadline:
                return await work(fn, args, kwargs)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise TimeoutError(f"{name} took longer than {timeout_s:g} s") from error

    async def _call_sync(self, fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        try:
            result = await self._call_in_thread(fn, args, kwargs)
            return await result if inspect.isawaitable(result) else result
        except (SystemExit, KeyboardInterrupt) as error:
            raise _not_ours(error) from error

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


def as_exception(error: BaseException, where: str) -> Exception:
    """What user code raised, as something that ends no worker and no workflow by its kind alone."""
    if isinstance(error, Exception):
        return error
    return RuntimeError(f"{type(error).__name__} in {where}: {error}")


def note_stopped(task: asyncio.Task[Any], what: str) -> None:
    """Of a call that was stopped only what went wrong as it ended is of interest, to people."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("%s was stopped, and failed as it ended: %s", what, error_line(error))


def _is_async(fn: Callable[..., Any]) -> bool:
    """As inspect has it, which takes a microsecond, here seldom needed."""
    if isinstance(fn, FunctionType) and fn.__code__.co_flags & inspect.CO_COROUTINE:
        return True
    return inspect.iscoroutinefunction(fn)


async def _call_async(fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    try:
        return await fn(*args, **kwargs)
    except (SystemExit, KeyboardInterrupt) as error:
        raise _not_ours(error) from error


def _not_ours(error: BaseException) -> RuntimeError:
    return RuntimeError(f"{type(error).__name__} in user code: {error}")
