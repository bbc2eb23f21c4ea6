"""Calls users' functions: async ones on the worker's loop, sync ones in threads. None of them can end the worker."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import Any

from durasleep.codec import Codec
from durasleep.codec.exceptions import error_line
from durasleep.codec.published import StepProgress
from durasleep.model import State, StepResult, group_of
from durasleep.observe import logs, tracing
from durasleep.protocol.journal import PromiseRecord
from durasleep.runtime import current
from durasleep.runtime.current import Current
from durasleep.runtime.definition import Overrides, step_name_of
from durasleep.runtime.journal import StepCall
from durasleep.runtime.middleware import Middleware, surrounded
from durasleep.runtime.retry import vain_wish
from durasleep.runtime.waits import CALLER_PREFIX, Attempt, Inside, Waits, enter
from durasleep.worker.execution.publishing import Publishing
from durasleep.worker.execution.threads import NotBegun, Threads

logger = logging.getLogger("durasleep")


class FunctionRunner:
    """Runs steps and tasks: async ones on the loop, sync ones in ``threads``."""

    def __init__(
        self, threads: Threads, codec: Codec, overrides: Overrides, middleware: Sequence[Middleware] = ()
    ) -> None:
        self._codec = codec
        self._middleware = middleware
        self._overrides = overrides
        self._threads = threads
        self.waits = Waits()
        self.is_leaving = False
        """Whether calls that are still waiting are not made any more."""

    def leave(self) -> None:
        """Make no more calls, also of those that are waiting."""
        self.is_leaving = True
        self._threads.refuse()

    def start(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        *,
        about: current.Source,
        attempt: Attempt | None = None,
        timeout_s: float | None = None,
        delay_s: float = 0.0,
        name: str,
    ) -> asyncio.Task[Any]:
        """Begin a call of ``fn`` after ``delay_s``; the result is its value or error. ``about`` describes the call to
        the function, ``attempt`` is what it can do besides. Its ``name``: see ``Inside``.

        The error is a TimeoutError if it takes longer than ``timeout_s``, a RuntimeError for SystemExit and
        KeyboardInterrupt, and NotBegun if the worker leaves before it has begun.
        """
        stand_in, inside = self._stand_in(fn), (self.waits, name, about, attempt)
        is_async = _is_async(stand_in)
        if self._middleware:
            stand_in = surrounded(stand_in, self._middleware, is_async=is_async)
        if not is_async:
            call = self._call_sync(stand_in, args, kwargs, inside, timeout_s, delay_s, step_name_of(fn))
        elif timeout_s is None and not delay_s:
            call = _call_async(stand_in, args, kwargs, inside)
        else:
            call = self._call_async_later(stand_in, args, kwargs, inside, timeout_s, delay_s, step_name_of(fn))
        return asyncio.get_running_loop().create_task(call, name=name)

    def start_step(self, call: StepCall, record: PromiseRecord, work: Publishing | None = None) -> asyncio.Task[Any]:
        """Begin a step of an execution; ``work`` has what its steps keep and publish."""
        step = _Step(call, record, work, self._codec)
        return self.start(
            call.fn,
            call.args,
            call.kwargs,
            about=step.describe,
            attempt=step,
            timeout_s=call.timeout_s,
            delay_s=call.delay_s,
            name=f"{CALLER_PREFIX}{record.id}~{call.number}",
        )

    def result_of(
        self, call: StepCall, task: asyncio.Task[Any], owner: str, begun_ms: int, trace: str = ""
    ) -> StepResult:
        """How a step of ``owner``, which has this ``trace``, has ended, for the journal; see ``Entry.begun_ms``."""
        try:
            value = self._codec.encode(task.result(), f"the result of {call.name}", call.fn)
            return StepResult(call.number, call.name, State.RESOLVED, value, begun_ms)
        except BaseException as error:  # noqa: BLE001 - any error of a user's function is its result
            failure = error
        what = call.shown_of(owner)
        extra = logs.about(owner, call.name, attempt=call.attempt, trace=trace, failure=failure)
        extra["step"] = call.first or call.number
        logger.warning("%s failed: %s%s", what, error_line(failure), vain_wish(failure, call.retry), extra=extra)
        # Decided here, on the error itself: the journal gets a copy, which may lack its class. It is decided without a
        # Retry, too: one that is deployed later does not begin what has failed.
        retried = call.retry is not None and call.retry.wants(failure, call.attempt)
        # A CancelledError of its own is reported as it is: for the workflow, nobody canceled it.
        payload = self._codec.encode_error(as_exception(failure, f"step {call.name}"), retried=retried)
        return StepResult(call.number, call.name, State.REJECTED, payload, begun_ms, is_retried=retried)

    def is_replaced(self, fn: Callable[..., Any]) -> bool:
        """Whether a test has given another function to be called instead."""
        return self._stand_in(fn) is not fn

    def _stand_in(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return self._overrides.get(fn, fn)
        except TypeError:  # a callable object without a hash
            return fn

    async def _call_async_later(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        inside: Inside,
        timeout_s: float | None,
        delay_s: float,
        name: str,
    ) -> Any:
        if delay_s:
            await self._wait(delay_s)
        if timeout_s is None:
            return await _call_async(fn, args, kwargs, inside)
        return await _within(timeout_s, name, inside, partial(_call_async, fn, args, kwargs))

    async def _call_sync(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        inside: Inside,
        timeout_s: float | None,
        delay_s: float,
        name: str,
    ) -> Any:
        if delay_s:
            await self._wait(delay_s)
        await self._threads.take()  # its time begins with the thread
        if timeout_s is None:
            return await self._call_in_thread(fn, args, kwargs, name, inside)
        return await _within(timeout_s, name, inside, partial(self._call_in_thread, fn, args, kwargs, name))

    async def _wait(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        if self.is_leaving:
            raise NotBegun

    async def _call_in_thread(
        self, fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], name: str, inside: Inside
    ) -> Any:
        enter(inside)
        try:
            result = await self._threads.call(fn, args, kwargs, name)
            return await result if inspect.isawaitable(result) else result
        except (SystemExit, KeyboardInterrupt) as error:
            raise _not_ours(error) from error


def as_exception(error: BaseException, where: str) -> Exception:
    """An error of user code, as one that cannot end a worker or a workflow by its type alone."""
    if isinstance(error, Exception):
        return error
    return RuntimeError(f"{type(error).__name__} in {where}: {error}")


def note_stopped(task: asyncio.Task[Any], what: str) -> None:
    """If a call was stopped, only an error at its end is logged."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("%s was stopped, and failed as it ended: %s", what, error_line(error))


def _is_async(fn: Callable[..., Any]) -> bool:
    """The same as inspect's function, which takes a microsecond and is seldom needed here."""
    if isinstance(fn, FunctionType) and fn.__code__.co_flags & inspect.CO_COROUTINE:
        return True
    return inspect.iscoroutinefunction(fn)


async def _call_async(fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], inside: Inside) -> Any:
    enter(inside)
    try:
        return await fn(*args, **kwargs)
    except (SystemExit, KeyboardInterrupt) as error:
        raise _not_ours(error) from error


async def _within(timeout_s: float, name: str, inside: Inside, call: Callable[[Inside], Awaitable[Any]]) -> Any:
    waits, caller, source, attempt = inside
    deadline = asyncio.timeout(timeout_s)
    try:
        async with deadline:
            return await call((waits, caller, partial(source, ends_at=time.time() + timeout_s), attempt))
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise TimeoutError(f"{name} took longer than {timeout_s:g} s") from error


class _Step:
    """A running step, as its function can see it."""

    __slots__ = ("_call", "_codec", "_loop", "_record", "_work")

    def __init__(self, call: StepCall, record: PromiseRecord, work: Publishing | None, codec: Codec) -> None:
        self._call = call
        self._record = record
        self._work = work
        self._codec = codec
        self._loop = asyncio.get_running_loop()

    @property
    def _first(self) -> str:
        return self._call.first or self._call.number

    def describe(self, *, ends_at: float | None = None) -> Current:
        """See ``durasleep.runtime.current``."""
        call, record = self._call, self._record
        keeper = None if self._work is None else self._work.checkpoints
        return current.describe(
            record.id,
            self._first,
            function=call.name,
            queue=record.queue,
            incarnation=record.incarnation,
            attempt=call.attempt,
            deadline_ms=record.deadline_ms,
            ends_at=ends_at,
            checkpoint=None if keeper is None else keeper.read(self._first, self._codec),
        )

    def ids(self) -> Mapping[str, object]:
        """What log lines say of it."""
        call, record = self._call, self._record
        return {
            "execution": record.id,
            "function": call.name,
            "step": self._first,
            "attempt": call.attempt,
            "group": group_of(record.queue),
            "trace": tracing.trace_id_of(record.trace),
        }

    def keep(self, data: object) -> None:
        """See ``durasleep.checkpoint``."""
        if self._work is not None:
            keeper = self._work.keeper(self._loop)
            keeper.keep(self._call.number, self._first, data, f"step {self._call.name}", self._codec)

    def publish(self, values: Mapping[str, object], progress: StepProgress | None) -> None:
        """See ``durasleep.publish``."""
        if self._work is not None:
            publisher = self._work.publisher(self._loop)
            publisher.publish(self._call.number, self._first, values, progress, f"step {self._call.name}", self._codec)


def _not_ours(error: BaseException) -> RuntimeError:
    return RuntimeError(f"{type(error).__name__} in user code: {error}")
