"""Calls the functions of users: async ones on the worker's loop, sync ones in threads, none can end the worker."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class UserCode:
    """Where steps and tasks run; at most ``threads_max`` sync ones at a time."""

    def __init__(self, threads_max: int) -> None:
        self._threads = ThreadPoolExecutor(threads_max, thread_name_prefix="durasleep-step")
        self._in_threads: set[object] = set()

    @property
    def in_threads(self) -> int:
        """Calls of sync functions that have not returned; nothing can stop them."""
        return len(self._in_threads)

    def close(self) -> None:
        """Begin nothing new in threads; what runs there is left to itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def call(self, fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The result of ``fn``, or what it raises; SystemExit and KeyboardInterrupt become a RuntimeError."""
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
