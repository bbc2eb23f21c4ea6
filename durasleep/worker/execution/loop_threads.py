"""The threads of a worker's own loop, for ``asyncio.to_thread`` and ``loop.run_in_executor(None, ...)``.

If the waiter of such a call is canceled, the call runs on. asyncio forgets the call, and has one thread less. Here the
loss is counted, and another thread takes over.
"""

from __future__ import annotations

import contextvars
import time
from collections import deque
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Any


class LoopCall(Future[Any]):
    """A function that waits for a thread, or runs in one; asyncio cancels it when nobody waits for it any more."""

    def __init__(self, fn: Callable[[], Any], on_given_up: Callable[[LoopCall], None]) -> None:
        super().__init__()
        self.fn = fn
        self._on_given_up = on_given_up
        self.began = 0.0
        self.is_claimed = False
        self.has_returned = False
        self.is_lost = False
        self.is_said = False

    @property
    def name(self) -> str:
        """The name of the function, for people."""
        return _name_of(self.fn)

    def cancel(self) -> bool:
        is_canceled = super().cancel()
        if not is_canceled:  # it runs already
            self._on_given_up(self)
        return is_canceled


class LoopThreads(ThreadPoolExecutor):
    """At most ``calls_max`` calls at a time that somebody waits for; the others wait for their turn, the oldest first.

    Up to ``lost_max`` lost calls do not count; each further lost call takes the slot of a call.
    """

    def __init__(
        self,
        calls_max: int,
        lost_max: int,
        *,
        on_lost: Callable[[LoopCall], None],
        on_back: Callable[[LoopCall], None],
    ) -> None:
        """``on_lost`` and ``on_back`` are called for a call in this order, from any thread, and must not wait."""
        # A thread is made when it is needed: this pool never has more than it needs, and nothing waits in it.
        super().__init__(calls_max + lost_max, thread_name_prefix="durasleep-loop")
        self._calls_max = calls_max
        self._lost_max = lost_max
        self._on_lost = on_lost
        self._on_back = on_back
        self._lock = Lock()
        self._running: set[LoopCall] = set()
        self._lost: set[LoopCall] = set()
        """Lost calls that take no slot."""
        self._turns: deque[LoopCall] = deque()
        self._is_leaving = False
        self._is_closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> LoopCall:
        call = LoopCall(partial(fn, *args, **kwargs) if args or kwargs else fn, self._give_up)
        with self._lock:
            if self._is_closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if len(self._running) >= self._calls_max:
                self._turns.append(call)
                return call
            self._running.add(call)
        self._begin(call)
        return call

    def leave(self) -> None:
        """A call that is given up from now on does not count as lost: the worker waits for it at its end."""
        self._is_leaving = True

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As for any executor, but it does not wait for lost calls."""
        with self._lock:
            self._is_closed = True
            if cancel_futures:
                for call in self._turns:
                    call.cancel()
            owed = [call for call in (*self._running, *self._turns) if not call.is_lost]
        if wait:
            futures.wait(owed)
        super().shutdown(wait=False, cancel_futures=cancel_futures)

    def _begin(self, call: LoopCall | None) -> None:
        while call is not None:
            try:
                super().submit(self._work, [call])
            except RuntimeError as error:  # no thread can be started
                if not self._claim(call):
                    return
                following = self._end(call)
                if call.set_running_or_notify_cancel():
                    call.set_exception(error)
                call = following
            else:
                return

    def _claim(self, call: LoopCall) -> bool:
        """Whether this thread gets the call: if its own thread could not be started, another one may have taken it."""
        with self._lock:
            is_ours = not call.is_claimed
            call.is_claimed = True
            return is_ours

    def _work(self, only: list[LoopCall]) -> None:
        call = only.pop()  # the pool's frame, which a traceback holds as well, keeps the list
        if not self._claim(call):
            return
        if not call.set_running_or_notify_cancel():
            self._begin(self._end(call))
            return
        call.began = time.monotonic()
        try:
            result = call.fn()
        except BaseException as error:  # noqa: BLE001 - awaiting the call raises it
            self._begin(self._end(call))
            call.set_exception(error)
            del call  # the traceback holds this frame, and the call holds the traceback
        else:
            self._begin(self._end(call))
            call.set_result(result)

    def _end(self, call: LoopCall) -> LoopCall | None:
        """It needs no thread any more; returns the call whose turn it is."""
        with self._lock:
            call.has_returned = True
            if call.is_lost:
                self._on_back(call)
            if call in self._lost:
                self._lost.discard(call)
                return None
            return self._pass_on(call)

    def _give_up(self, call: LoopCall) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            if call.has_returned or call.is_lost or self._is_leaving:
                return
            call.is_lost = True
            self._on_lost(call)
            if len(self._lost) >= self._lost_max:
                return
            self._lost.add(call)
            following = self._pass_on(call)
        self._begin(following)

    def _pass_on(self, call: LoopCall) -> LoopCall | None:
        self._running.discard(call)
        if not self._turns:
            return None
        following = self._turns.popleft()
        self._running.add(following)
        return following


def _name_of(fn: Any) -> str:
    while isinstance(fn, partial):
        inner: Any = fn.func
        is_context = isinstance(getattr(inner, "__self__", None), contextvars.Context)  # as in asyncio.to_thread
        fn = fn.args[0] if is_context and fn.args else inner
    return getattr(fn, "__qualname__", None) or type(fn).__name__
