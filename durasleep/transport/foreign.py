"""Connections of an application's own class that exists for one kind of code only, sync or async: used from the other.

Such a class cannot be translated: it may fetch tokens, open tunnels, or greet the server in its own way.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def is_async(connection_class: type) -> bool:
    """Whether connections of this class are for asyncio."""
    return inspect.iscoroutinefunction(getattr(connection_class, "connect", None))


class InThread:
    """A blocking connection for asyncio: its blocking calls run in a thread of its own."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="durasleep-connection")

    async def connect(self) -> None:
        await self._do(self._connection.connect)

    async def disconnect(self, nowait: bool = False) -> None:
        """At once: the current call of the thread fails."""
        del nowait
        try:
            self._connection.disconnect()
        finally:
            self._thread.shutdown(wait=False)

    async def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None:
        await self._do(lambda: self._connection.send_packed_command(command, check_health=check_health))

    async def read_response(self, disable_decoding: bool = False) -> Any:
        return await self._do(lambda: self._connection.read_response(disable_decoding=disable_decoding))

    async def _do(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


class InLoop:
    """A connection for asyncio in blocking code: it lives in its own event loop, in its own thread."""

    def __init__(self, connection: Any, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name="durasleep-connection", daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, _end, os.getpid(), self._loop, connection)  # the thread of its user may end

    def connect(self) -> None:
        self._do(self._connection.connect())

    def disconnect(self) -> None:
        self._end()
        self._thread.join(self._timeout_s)

    def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None:
        self._do(self._connection.send_packed_command(command, check_health=check_health))

    def read_response(self, disable_decoding: bool = False) -> Any:
        return self._do(self._connection.read_response(disable_decoding=disable_decoding))

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """TimeoutError if it takes longer than a blocking connection allows."""
        done = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, self._timeout_s), self._loop)
        try:
            return done.result()
        except BaseException:
            done.cancel()  # the waiter was interrupted
            raise


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _end(pid: int, loop: asyncio.AbstractEventLoop, connection: Any) -> None:
    """Close a connection and its loop; from any thread. What a forked child inherits belongs to its parent."""
    if os.getpid() != pid:
        return

    async def end() -> None:
        try:
            await connection.disconnect(nowait=True)
            await asyncio.sleep(0)  # for its transport
        finally:
            loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)
