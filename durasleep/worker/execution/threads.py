"""The threads of sync functions: a call waits for a free one, and keeps it until the function returns.

A thread cannot be stopped. If a call took too long or was canceled, nobody waits for it any more: its thread is lost
until the function returns. The same holds for functions that async code calls in threads.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVarTuple

from durasleep.worker.execution.loop_threads import LoopCall, LoopThreads

Args = TypeVarTuple("Args")

LOOK_S = 1.0  # a function that returns sooner after it was given up is not worth a line
SAID_AGAIN_S = 60.0
NAMED_MAX = 10  # functions in one line

logger = logging.getLogger("durasleep")


class NotBegun(Exception):
    """The worker leaves, and the waiting call was not made."""


class _Call:
    """A running function in its thread."""

    __slots__ = ("began", "future", "has_returned", "is_lost", "is_said", "name")

    def __init__(self, future: asyncio.Future[Any], name: str) -> None:
        self.future = future
        self.name = name
        self.began = time.monotonic()
        self.has_returned = False
        self.is_lost = False
        self.is_said = False


class Threads:
    """At most ``threads_max`` calls at a time; the others wait for their turn, the oldest first."""

    def __init__(
        self, threads_max: int, *, lost_max_s: float, on_back: Callable[[], None], on_used_up: Callable[[], None]
    ) -> None:
        """``on_back`` is called when a lost thread comes back, ``on_used_up`` when all are lost for ``lost_max_s``."""
        self._threads_max = threads_max
        self._lost_max_s = lost_max_s
        self._on_back = on_back
        self._on_used_up = on_used_up
        self._pool = ThreadPoolExecutor(threads_max, thread_name_prefix="durasleep-step")
        self._free = asyncio.Semaphore(threads_max)
        self._calls: set[_Call | LoopCall] = set()
        """The lost calls of the loop's own threads."""
        self._of_loop: LoopThreads | None = None
        self._is_refusing = False
        self._lost = 0
        self._all_lost_since: float | None = None
        self._said_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def lost(self) -> int:
        """Threads that still run a function nobody waits for."""
        return self._lost

    @property
    def running(self) -> int:
        """Calls that have not returned; may be asked when the loop is closed."""
        return sum(not call.has_returned for call in self._calls)

    async def take(self) -> None:
        """Wait for a thread, which ``call`` then uses; NotBegun if ``refuse`` comes first."""
        await self._free.acquire()
        if self._is_refusing:
            self._free.release()  # it wakes up the next one, which is refused in turn
            raise NotBegun

    def refuse(self) -> None:
        """Calls that wait for a thread get none, and later calls get none, either."""
        self._is_refusing = True
        self._free.release()

    async def call(self, fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], name: str) -> Any:
        """Call ``fn`` in the thread that was taken, in a copy of this context."""
        loop = asyncio.get_running_loop()
        call = _Call(loop.create_future(), name)
        self._calls.add(call)
        context = contextvars.copy_context()

        def work() -> None:
            result, error = None, None
            try:
                result = context.run(fn, *args, **kwargs)
            except StopIteration as stop:  # a future does not accept it, and would wait for ever
                error = RuntimeError(f"StopIteration in user code: {stop}")
                error.__cause__ = stop
            except BaseException as raised:  # noqa: BLE001 - awaiting the call raises it
                error = raised
            call.has_returned = True
            post(loop, self._end, call, result, error)

        try:
            self._pool.submit(work)
        except BaseException:  # no thread can be started
            self._calls.discard(call)
            self._free.release()
            raise
        try:
            return await call.future
        except asyncio.CancelledError:
            if not call.has_returned:
                self._lose(call)
            raise

    def own_loop(self) -> None:
        """From now on, also count lost calls of ``asyncio.to_thread`` and ``loop.run_in_executor(None, ...)``.

        Each running execution can have a thread there, as it can as a sync function.
        """
        loop = asyncio.get_running_loop()
        of_asyncio = min(32, (os.cpu_count() or 1) + 4)  # as many calls at a time as any other loop has
        self._of_loop = LoopThreads(
            max(self._threads_max, of_asyncio),
            self._threads_max,
            on_lost=partial(post, loop, self._lose_of_loop),
            on_back=partial(post, loop, self._end_of_loop),
        )
        loop.set_default_executor(self._of_loop)

    def close(self) -> None:
        """Begin nothing more; running functions are left alone."""
        self._is_closed = True
        if self._of_loop is not None:
            self._of_loop.leave()
        if self._timer is not None:
            self._timer.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _end(self, call: _Call, result: Any, error: BaseException | None) -> None:
        self._calls.discard(call)
        if call.is_lost:
            self._come_back(call)
        self._free.release()
        if call.future.done():
            return
        if error is None:
            call.future.set_result(result)
        else:
            call.future.set_exception(error)

    # -- lost threads

    def _lose_of_loop(self, call: LoopCall) -> None:
        self._calls.add(call)
        self._lose(call)

    def _end_of_loop(self, call: LoopCall) -> None:
        self._calls.discard(call)
        self._come_back(call)

    def _lose(self, call: _Call | LoopCall) -> None:
        call.is_lost = True
        self._lost += 1
        if self._lost >= self._threads_max and self._all_lost_since is None:
            self._all_lost_since = time.monotonic()
        if self._timer is None and not self._is_closed:
            self._look_later()

    def _come_back(self, call: _Call | LoopCall) -> None:
        self._lost -= 1
        if self._lost < self._threads_max:
            self._all_lost_since = None
        if call.is_said:
            took_s = time.monotonic() - call.began
            logger.info("the thread of %s is back after %.0f s: %s", call.name, took_s, self._count())
        self._on_back()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(min(LOOK_S, self._lost_max_s), self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._lost:
            return
        lost = [call for call in self._calls if call.is_lost]
        now = time.monotonic()
        if now - self._said_at > SAID_AGAIN_S or any(not call.is_said for call in lost):
            self._said_at = now
            self._log(lost, now)
        since = self._all_lost_since
        if since is not None and now - since >= self._lost_max_s:
            self._on_used_up()
        else:
            self._look_later()

    def _log(self, lost: list[_Call | LoopCall], now: float) -> None:
        lost.sort(key=lambda call: call.began)
        named = [f"{call.name} for {now - call.began:.0f} s" for call in lost[:NAMED_MAX]]
        if len(lost) > NAMED_MAX:
            named.append(f"{len(lost) - NAMED_MAX} more")
        for call in lost:
            call.is_said = True
        logger.warning(
            "%s to functions that nobody waits for any more and that cannot be stopped: %s",
            self._count(),
            ", ".join(named),
        )

    def _count(self) -> str:
        return f"{min(self._lost, self._threads_max)} of {self._threads_max} threads are lost"


def post(loop: asyncio.AbstractEventLoop, call: Callable[[*Args], None], *args: *Args) -> None:
    """Call it in the loop, from another thread; nothing if the loop is closed, because the worker has left."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *args)
