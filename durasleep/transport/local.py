"""Values that belong to one thread or one event loop: threads, loops and child processes must not share a connection.

A client may be used by all of them. Each gets its own value at its first use. A forked child begins with none: the
inherited values belong to its parent, which still uses them.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from durasleep.errors import NotDurable

T = TypeVar("T")


class Inherited(Protocol):
    """What a forked child must not share with its parent."""

    def begin_anew(self) -> None:
        """In a forked child: drop everything, without a message to the other end."""
        ...


_everything: weakref.WeakSet[Inherited] = weakref.WeakSet()


def renew_in_children(one: Inherited) -> None:
    """Let it begin anew in every child that is forked from now on."""
    _everything.add(one)


def _begin_anew() -> None:
    for one in tuple(_everything):
        one.begin_anew()


os.register_at_fork(after_in_child=_begin_anew)


class PerThread(Generic[T]):
    """One value for each thread, made at its first use; it goes with its thread."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self.begin_anew()
        renew_in_children(self)

    def begin_anew(self) -> None:
        """See ``Inherited``."""
        self._of_thread = threading.local()
        self._all: weakref.WeakSet[T] = weakref.WeakSet()
        self._lock = threading.Lock()

    def here(self) -> T:
        """The value of this thread."""
        try:
            return self._of_thread.value
        except AttributeError:
            value = self._of_thread.value = self._make()
            with self._lock:
                self._all.add(value)
            return value

    def all(self) -> list[T]:
        """The values of all living threads."""
        with self._lock:
            return list(self._all)


class PerLoop(Generic[T]):
    """One value for each event loop, made at its first use.

    It is closed with its loop if the loop closes its asynchronous generators, as ``asyncio.run`` does. The value of a
    loop that was closed in another way is dropped when another loop asks.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], Coroutine[Any, Any, None]]) -> None:
        self._make = make
        self._close = close
        self.begin_anew()
        renew_in_children(self)

    def begin_anew(self) -> None:
        """See ``Inherited``."""
        self._of_loop: dict[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None]]] = {}
        self._latest: tuple[asyncio.AbstractEventLoop, T] | None = None
        self._lock = threading.Lock()

    def here(self) -> T:
        """The value of the running loop; RuntimeError if none runs, NotDurable in a workflow."""
        loop = asyncio.get_running_loop()
        latest = self._latest  # nearly always there is only one loop
        if latest is not None and latest[0] is loop:
            return latest[1]
        if getattr(loop, "is_of_a_workflow", False):
            raise NotDurable(
                "a client does I/O, which a workflow must not: call others by `ctx.rpc(...)`, or use the client in a "
                "step, `await ctx.run(...)`; nothing was started"
            )
        with self._lock:
            for other in [other for other in self._of_loop if other.is_closed()]:
                del self._of_loop[other]
            if loop not in self._of_loop:
                value = self._make()
                self._of_loop[loop] = value, _begun(self._until_the_end_of(loop, value))
            value, _ = self._of_loop[loop]
            self._latest = loop, value
        return value

    async def close(self) -> None:
        """Close the value of the running loop; after that it has none."""
        with self._lock:
            _, life = self._of_loop.get(asyncio.get_running_loop(), (None, None))
        if life is not None:
            await life.aclose()

    async def _until_the_end_of(self, loop: asyncio.AbstractEventLoop, value: T) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            with self._lock:
                self._latest = None
                self._of_loop.pop(loop, None)
            await self._close(value)


def _begun(generator: AsyncGenerator[None]) -> AsyncGenerator[None]:
    """The generator at its first ``yield``: from there on its loop knows it."""
    with suppress(StopIteration):
        generator.__anext__().__await__().send(None)
    return generator
