"""The private event loop of a workflow: one FIFO queue, no I/O, and only the time of its journal.

An empty queue means exactly that the workflow is blocked. Everything that asyncio builds on a loop works and replays.
"""

# pyright: reportPrivateUsage=false
# Handles, hooks and the running loop are accessed in the same way as asyncio's own loops do it.

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import dis
import logging
import math
import sys
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from types import CodeType, CoroutineType, FrameType
from typing import Any, Protocol, TypeVar

from durasleep.errors import NotDurable, WorkflowEvicted
from durasleep.model import DUE_MS_MAX, Due, Number, duration_ms

T = TypeVar("T")

DRAIN_CALLBACKS_MAX = 100_000  # a second or two of Python; a workflow that blocks needs a few
_CLOSE_CALLBACKS_MAX = 1_000  # user code may swallow every exception, so time cannot bound it
_CLOSE_CALLBACKS_EACH = 4  # a fan-out of thousands ends in as many callbacks, and that is in order
_CLOSE_ROUNDS_MAX = 10  # cancels that a task may swallow before the worker gives up

_HANDLERS_MAX = 10_000  # functions that were looked at; only code that is made at run time reaches this number

_HANDLERS: dict[int, tuple[CodeType, bool]] = {}
"""By the id of the code, which is kept so that the id stays unique: hashing the code itself takes a microsecond."""
_log = logging.getLogger("durasleep.runtime")
_get_running_loop = asyncio._get_running_loop  # bound once: these are called several times in every activation
_set_running_loop = asyncio._set_running_loop
_get_hooks = sys.get_asyncgen_hooks
_set_hooks = sys.set_asyncgen_hooks
# asyncio's own function is a Python wrapper of this on 3.11; its C version comes with 3.12.
_tasks: Any = asyncio.tasks
_current_task: Callable[[asyncio.AbstractEventLoop], asyncio.Task[Any] | None] = (
    _tasks._current_tasks.get if sys.version_info < (3, 12) else asyncio.current_task
)
_NOT_USERS = (asyncio.__file__.removesuffix("__init__.py"), __file__.rpartition("event_loop.")[0])  # .py, or compiled


Watch = Callable[[FrameType, str, Any], None]
"""A profile function, see ``sys.setprofile``."""


class CallNumbers:
    """Numbers the calls of one asyncio task, so that other tasks do not change the numbers."""

    __slots__ = ("evicted", "made", "prefix", "taken")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.taken = 0
        self.made = 0
        self.evicted = False

    @property
    def upcoming(self) -> Number:
        """The number that ``next`` will return."""
        return Number(f"{self.prefix}{self.taken + 1}")

    def next(self) -> Number:
        """The next number: ``3`` in the root task, ``2.3`` in the task that took number 2."""
        self.taken += 1
        return f"{self.prefix}{self.taken}"  # pyright: ignore[reportReturnType] - hot: calling a NewType costs 0.1 µs

    def next_serial(self) -> int:
        """A creation number to use as hash: objects of other tasks do not change the order of this task's sets."""
        self.made += 1
        return self.made


_CALL_NUMBERS: contextvars.ContextVar[CallNumbers | None] = contextvars.ContextVar(
    "durasleep_call_numbers", default=None
)


class WorkflowFuture(asyncio.Future[T]):
    """A future whose hash is its creation number, so that sets of futures have one order."""

    __slots__ = ("serial",)
    serial: int

    def __hash__(self) -> int:
        return self.serial


class WorkflowTask(asyncio.Task[T]):
    """A task whose hash is its creation number, and that counts its own durable calls."""

    __slots__ = ("numbers", "serial")
    serial: int
    numbers: CallNumbers

    @property
    def _loop(self) -> Any:
        """Only ``anyio.to_thread`` reads this, when it starts a thread that would report to this loop."""
        raise NotDurable(
            "anyio.to_thread cannot be used in a workflow, which does no I/O and starts no threads or processes; "
            "nothing was started: do this in a step, `await ctx.run(...)`"
        )

    def __hash__(self) -> int:
        try:
            return self.serial
        except AttributeError:  # asyncio's constructor may add it to the set of all tasks
            return object.__hash__(self)


class WorkflowHandle(asyncio.Handle):
    """A callback in the queue; asyncio's own constructor costs three times as much."""

    __slots__ = ()
    _repr = None  # asyncio writes these two only in debug mode
    _source_traceback = None

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], loop: WorkflowLoop, context: contextvars.Context
    ) -> None:
        self._context = context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False


class WorkflowTimer(asyncio.TimerHandle):
    """A loop timer that is an entry of the journal."""

    __slots__ = ("number",)
    number: Number | None
    _loop: WorkflowLoop

    def fire(self) -> None:
        """Put the callback into the queue: its timer has resolved."""
        self._loop.ready.append(self)


class Timers(Protocol):
    """Makes the loop's timers durable."""

    def start_timer(self, timer: WorkflowTimer, due: Due) -> None: ...

    def cancel_timer(self, number: Number) -> None: ...


class Described(Protocol):
    """What log lines say of an execution."""

    @property
    def id(self) -> str: ...
    @property
    def function(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def crash_count(self) -> int: ...


class WorkflowLoop(asyncio.AbstractEventLoop):
    """Runs one workflow until it is blocked; calls that would leave the process raise NotDurable.

    Each activation makes a loop. So values that most activations do not change are attributes of the class.
    """

    is_of_a_workflow = True
    timers: Timers | None = None
    root: WorkflowTask[Any] | None = None
    replaying = False
    """While replaying: errors have been logged before."""
    is_shadow = False
    """Whether it is only a run for comparison: then it never logs."""
    canceled = False
    """Whether a cancel from outside has been delivered."""
    has_history = False
    """Whether an earlier activation ran this code and committed its calls."""
    continued: bytes | None = None
    """The arguments of the next run, if the code has asked for one."""
    watch: Watch | None = None
    """Sees every call of user code."""
    info: Described | None = None
    """What log lines say of its execution."""
    trace_id = ""
    """Likewise."""
    prepare: Callable[[], object] | None = None
    """Called in the context of the code, before the code."""
    context: Any = None
    """The ``ctx`` of the workflow, for libraries that are called by its code: see ``running_context``."""
    evicting = False
    halted: str | None = None
    fatal: BaseException | None = None
    """The SystemExit or KeyboardInterrupt that user code raised."""
    _on_error: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None = None
    _prune_at = 64
    _generators: dict[int, tuple[weakref.ref[AsyncGenerator[Any, Any]], CallNumbers]] | None = None
    _outer: tuple[asyncio.AbstractEventLoop | None, Any] | None = None
    """The outer loop and its hooks, while this one is the running loop."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        """The stamp of the settlement that was delivered last."""
        self.ready: deque[WorkflowHandle | WorkflowTimer] = deque()
        self.root_numbers = CallNumbers("")
        self._tasks: list[WorkflowTask[Any]] = []

    # -- driving

    def enter(self) -> None:
        """Make this the running loop until ``leave``, for any number of drains."""
        self._outer = _get_running_loop(), _get_hooks()
        _set_running_loop(self)
        _set_hooks(self._first_iteration, self._finalize)

    def leave(self) -> None:
        """Make the outer loop the running one again."""
        if self._outer is not None:
            (outer, hooks), self._outer = self._outer, None
            _set_hooks(*hooks)
            _set_running_loop(outer)

    def begin(self, coro: Coroutine[Any, Any, Any]) -> None:
        """Make the root task, in a fresh context."""
        context = contextvars.Context()
        if self.prepare is not None:
            context.run(self.prepare)
        self.root = self._task(coro, self.root_numbers, self.root_numbers.next_serial(), "root", context)

    def drain(self, callbacks_max: int = DRAIN_CALLBACKS_MAX) -> int:
        """Run callbacks until blocked, finished or halted; returns the rest of ``callbacks_max``, 0 if the code runs in
        a circle.

        Call it between ``enter`` and ``leave``. The idea: there is no I/O, and only settlements make time pass. So a
        callback can enter the queue only from another callback, or from a settlement that is delivered between two
        drains. An empty queue therefore means exactly that the workflow waits for its journal.

        Callbacks after the end of the workflow must not run: their calls would never be committed. So the drain stops,
        with callbacks left in the queue, when the root task is done, when the workflow is halted or has asked for a new
        run, or when a SystemExit ends it. An eviction goes on after the end of the root: it ends all tasks.
        """
        if self.watch is not None and sys.getprofile() is None:  # a profiler of the user has priority
            return self._drain_watched(callbacks_max)
        ready = self.ready
        root = None if self.evicting else self.root
        try:
            while callbacks_max and ready:
                callbacks_max -= 1
                handle = ready.popleft()
                if handle._cancelled:
                    continue
                try:
                    handle._context.run(handle._callback, *handle._args)
                except (SystemExit, KeyboardInterrupt) as error:
                    if not self.canceled:  # else it ends its task and those that wait: something may have to be undone
                        self.fatal = error
                        break
                except BaseException as error:  # noqa: BLE001 - as in asyncio: only this callback fails
                    self.call_exception_handler({"message": f"error in callback {handle!r}", "exception": error})
                if self.halted is not None or (root is not None and root.done()) or self.continued is not None:
                    break
        finally:
            handle = root = None  # tracebacks hold this frame, and the frame must not hold them
        return callbacks_max

    def _drain_watched(self, callbacks_max: int) -> int:
        """Drain while ``watch`` sees every call: as a profile function it is called for each one."""
        sys.setprofile(self.watch)
        try:
            return self.drain(callbacks_max)
        finally:
            sys.setprofile(None)

    def on_cancel_asked(self) -> None:
        """The execution was canceled from outside: cancel the root task, unless it is the running one."""
        self.canceled = True
        if self.root is not None and _current_task(self) is not self.root:
            self.root.cancel()

    def halt(self, reason: str) -> None:
        """Stop at the end of the running callback; the first reason stays."""
        if self.halted is None:
            self.halted = reason

    def end_replay(self) -> None:
        """The replay is over: from here on events are new, and errors are logged."""
        self.has_history = False
        if self.replaying and not self.is_shadow:
            if len(self._tasks) > 1:
                self._prune()
            self.replaying = False

    def evict(self, awaited: int) -> list[WorkflowTask[Any]]:
        """Cancel the remaining tasks, within a bound for each; returns the tasks that did not end."""
        self._prune()
        self.evicting = True
        self.halted = None
        self.continued = None
        self.watch = None
        left = _CLOSE_CALLBACKS_MAX + _CLOSE_CALLBACKS_EACH * (awaited + len(self._tasks))
        self.enter()
        try:
            for _ in range(_CLOSE_ROUNDS_MAX):
                if not left or not (self._cancel_tasks() or self._close_generators()):
                    break
                left = self.drain(left)
                self._prune()
        finally:
            self.leave()
        return self._tasks

    def drop(self) -> bool:
        """Drop a workflow whose code would not notice a cancel; false for any other, which must be evicted.

        The code does not notice it if it has ended, or if its only task awaits one of our futures through coroutines
        that handle no exceptions. Most sleeping workflows are like this: a cancel would unwind their frames and run
        nothing.
        """
        task: Any = self.root
        if len(self._tasks) > 1 or self._generators:
            return False
        if task is None or task.done():
            return True
        if self.ready or not self._tasks:
            return False
        waiter = task._fut_waiter
        if not issubclass(type(waiter), WorkflowFuture) or task._callbacks or task.cancelling():
            return False
        callbacks: Any = waiter._callbacks
        if len(callbacks) != 1:  # other code would notice it, too
            return False
        outermost: Any = task.get_coro()
        awaited: Any = outermost.cr_await  # the outermost coroutine is our own
        while type(awaited) is CoroutineType:
            if _handles_exceptions(awaited.cr_code):
                return False
            awaited = awaited.cr_await
        if type(awaited) is not _FUTURE_ITERATOR:
            return False
        task._log_destroy_pending = False
        self.evicting = True
        outermost.close()  # a frame that holds its own task would be left to the garbage collector, and slow it down
        asyncio.Future.remove_done_callback(
            waiter, callbacks[0][0]
        )  # it belongs to the task, which would keep it for the garbage collector, too
        return True

    def unfinished(self) -> list[WorkflowTask[Any]]:
        """The tasks that are not done, in the order of their creation."""
        return [task for task in self._tasks if not task.done()]

    def forget(self) -> None:
        """Drop all references, so that no cycle is left for the garbage collector."""
        self.ready.clear()
        self._tasks.clear()
        self._generators = None
        self._on_error = None
        self.root = None
        self.timers = None
        self.context = None

    # -- numbers

    def call_numbers(self) -> CallNumbers:
        """The numbers of the running task, or in a plain callback those of the task that registered it."""
        if _get_running_loop() is not self:
            raise NotDurable(
                "a context was used outside its workflow (in a step, a thread or another workflow); nothing was "
                "started: pass values to steps, and call ctx only in the workflow itself"
            )
        return self._current_numbers()

    def next_serial(self) -> int:
        """A creation number to use as hash."""
        return self._current_numbers().next_serial()

    def _current_numbers(self) -> CallNumbers:
        task = _current_task(self)
        if isinstance(task, WorkflowTask):
            return task.numbers
        return _CALL_NUMBERS.get() or self.root_numbers

    # -- what asyncio asks of a loop

    def create_future(self) -> WorkflowFuture[Any]:
        future: WorkflowFuture[Any] = WorkflowFuture(loop=self)
        future.serial = self.next_serial()
        return future

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        **_: Any,  # eager_start, from 3.14 on: only the order of a FIFO queue replays
    ) -> WorkflowTask[T]:
        maker = self.call_numbers()
        number = maker.next()
        return self._task(coro, CallNumbers(f"{number}."), maker.next_serial(), name or number, context)

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = WorkflowHandle(callback, args, self, contextvars.copy_context() if context is None else context)
        self.ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> WorkflowTimer:
        timer = WorkflowTimer(self.time() + delay, callback, args, self, context)
        timer.number = None
        if delay <= 0:
            timer.fire()
            return timer
        delay_ms = DUE_MS_MAX if delay == math.inf else duration_ms(delay, "delay")
        numbers = self.call_numbers()
        if self.is_call_refused(numbers) or self.timers is None:
            return timer
        timer.number = numbers.next()
        self.timers.start_timer(timer, Due(f"+{delay_ms}"))
        return timer

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> WorkflowTimer:
        return self.call_later(when - self.time(), callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        # asyncio calls this after a timer has fired, too
        if isinstance(handle, WorkflowTimer) and handle.number is not None and self.timers is not None:
            self.timers.cancel_timer(handle.number)

    def time(self) -> float:
        return self.now_ms / 1000

    def is_running(self) -> bool:
        return _get_running_loop() is self

    def is_closed(self) -> bool:
        return False

    get_debug: Any = bool  # it returns False; tasks and futures call it all the time, and ``bool`` needs no frame

    def set_debug(self, enabled: bool) -> None:
        """Asyncio's debug mode measures the time of each callback, which is not the workflow's time: it stays off."""

    def get_task_factory(self) -> None:
        """There is none: tasks are made in one way, which numbers their calls."""

    def set_task_factory(self, factory: Any) -> None:
        """Only None is accepted."""
        if factory is not None:
            raise NotDurable(
                "loop.set_task_factory() takes only None in a workflow, whose tasks must replay; nothing was changed"
            )

    def get_exception_handler(self) -> Any:
        return self._on_error

    def set_exception_handler(self, handler: Any) -> None:
        """``handler(loop, context)`` gets the errors in callbacks, and those given to ``call_exception_handler``.

        Errors of tasks and futures that nobody awaits only go to the log: the garbage collector decides when they show,
        and a replay would report them at another point.
        """
        if handler is not None and not callable(handler):
            raise TypeError(f"a callable object or None is expected, got {handler!r}")
        self._on_error = handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Log the error, unless an earlier run over the same journal has done it."""
        error = context.get("exception")
        if not (self.replaying or self.evicting or isinstance(error, WorkflowEvicted)):
            _log.error("in a workflow: %s", context.get("message"), exc_info=error)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # The garbage collector may call this, on any thread; then it only logs, see `set_exception_handler`.
        handler = self._on_error
        is_collected = "task" in context or "future" in context
        if handler is None or is_collected or self.evicting or not self.is_running():
            self.default_exception_handler(context)
            return
        try:
            handler(self, context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - as in asyncio
            self.default_exception_handler({"message": "error in an exception handler", "exception": error})

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """As ``call_soon``, but only in the workflow itself: calls of other threads could not be replayed in order."""
        if not self.is_running():
            raise NotDurable(
                "loop.call_soon_threadsafe() of a workflow was called from a thread or another loop; nothing was "
                "called: use threads only in a step, `await ctx.run(...)`"
            )
        return self.call_soon(callback, *args, context=context)

    async def shutdown_asyncgens(self) -> None:
        """Close the async generators that are open, in the order in which they began."""
        known, self._generators = self._generators, None
        for ref, _ in list(known.values()) if known else ():
            generator = ref()
            if generator is None:
                continue
            try:
                await generator.aclose()
            except Exception as error:  # noqa: BLE001 - as in asyncio: the others are closed all the same
                message = f"an error occurred while an asynchronous generator was closed: {generator!r}"
                self.call_exception_handler({"message": message, "exception": error, "asyncgen": generator})

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none to wait for."""

    def is_call_refused(self, numbers: CallNumbers) -> bool:
        """Whether a durable call must not be made; the first one of each task raises WorkflowEvicted."""
        if not self.evicting:
            return False
        if not numbers.evicted:
            numbers.evicted = True
            raise WorkflowEvicted("this workflow is being evicted until it is woken; nothing was started")
        return True

    # -- keeping track

    def _cancel_tasks(self) -> bool:
        for task in self._tasks:
            task.cancel()
        return bool(self._tasks)

    def _task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        numbers: CallNumbers,
        serial: int,
        name: str,
        context: contextvars.Context | None,
    ) -> WorkflowTask[T]:
        if context is None:
            context = contextvars.copy_context()
            context.run(_CALL_NUMBERS.set, numbers)
        task = WorkflowTask(coro, loop=self, name=name, context=context)
        task.numbers = numbers
        task.serial = serial
        self._tasks.append(task)
        if len(self._tasks) >= self._prune_at:
            self._prune()
            self._prune_at = 64 + 2 * len(self._tasks)
        return task

    def _prune(self) -> None:
        # The error of a task that nobody awaits is logged when the task goes: its __del__ calls our exception handler.
        self._tasks = self.unfinished()

    def _first_iteration(self, generator: AsyncGenerator[Any, Any]) -> None:
        # Its number is taken now, in the order of the program, because the garbage collector may end it at any time.
        numbers = CallNumbers(f"{self.call_numbers().next()}.")
        if self._generators is None:
            self._generators = {}
        self._generators[id(generator)] = (weakref.ref(generator), numbers)

    def _finalize(self, generator: AsyncGenerator[Any, Any]) -> None:
        known = self._generators.pop(id(generator), None) if self._generators else None
        if known is not None:
            self.call_soon(self._close_generator, generator, known[1])

    def _close_generator(self, generator: AsyncGenerator[Any, Any], numbers: CallNumbers) -> None:
        self._task(generator.aclose(), numbers, numbers.next_serial(), "aclose", None)

    def _close_generators(self) -> bool:
        if not self._generators:
            return False
        known, self._generators = self._generators, None
        opened = [(generator, numbers) for ref, numbers in known.values() if (generator := ref()) is not None]
        for generator, numbers in opened:
            self._close_generator(generator, numbers)
        return bool(opened)


def _handles_exceptions(code: CodeType) -> bool:
    """Whether a function reacts to an exception that passes through it: handlers, ``finally``, ``with``."""
    known = _HANDLERS.get(id(code))
    if known is None:
        if len(_HANDLERS) >= _HANDLERS_MAX:
            _HANDLERS.clear()
        known = _HANDLERS[id(code)] = (
            code,
            any(one.opname == "PUSH_EXC_INFO" for one in dis.get_instructions(code)),
        )
    return known[1]


def _refusal(name: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NotDurable(
            f"loop.{name}() cannot be used in a workflow, which does no I/O and starts no threads or processes; "
            "nothing was started: do this in a step, `await ctx.run(...)`"
        )

    refuse.__name__ = name
    return refuse


_FUTURE_ITERATOR = type(WorkflowFuture[Any](loop=WorkflowLoop(0)).__await__())

for _name in dir(asyncio.AbstractEventLoop):
    if not _name.startswith("_") and _name not in vars(WorkflowLoop):
        setattr(WorkflowLoop, _name, _refusal(_name))


def position_of(task: asyncio.Task[Any]) -> str:
    """``file:line in function`` of the innermost user frame in which a task is suspended."""
    found = "not started"
    awaited: object = task.get_coro()
    for _ in range(1000):  # deeper than the recursion limit allows
        frame = (
            getattr(awaited, "cr_frame", None)
            or getattr(awaited, "ag_frame", None)
            or getattr(awaited, "gi_frame", None)
        )
        if frame is not None:
            code: CodeType = frame.f_code
            if found == "not started" or not code.co_filename.startswith(_NOT_USERS):
                found = f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"
        awaited = (
            getattr(awaited, "cr_await", None)
            or getattr(awaited, "ag_await", None)
            or getattr(awaited, "gi_yieldfrom", None)
        )
        if awaited is None:
            break
    return found


def find_call_site() -> str:
    """``file:line in function`` of the innermost user frame that is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_USERS):
        frame = frame.f_back
    return "?" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"


def leak_coroutine(task: asyncio.Task[Any]) -> None:
    """Leak the coroutine of a task that did not end.

    Collecting it, even at exit, would throw GeneratorExit into it. If its code swallows every exception in a loop, it
    would then run for ever.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(task.get_coro()))
