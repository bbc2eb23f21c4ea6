"""Kills a gateway at a chosen step: it stands between the gateway and its Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from tests.gateway.nursery import ForkedGateway

HOST = "127.0.0.1"
CHUNK = 1 << 16


class Assassin:
    """Kills ``victim`` at the request number ``point`` of those that name an execution: before Redis gets it or, with
    ``after``, when Redis has answered and the gateway has not heard it.
    """

    def __init__(self, name: str, point: int | None, *, after: bool) -> None:
        self._name = name.encode()
        self._point = point
        self._after = after
        self._target_port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.victim: ForkedGateway | None = None
        self.port = 0
        self.requests = 0
        self.has_killed = asyncio.Event()

    async def start(self, target_port: int) -> None:
        self._target_port = target_port
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*[writer.wait_closed() for writer in self._writers], return_exceptions=True)

    def _kill(self) -> None:
        assert self.victim is not None
        self.victim.kill()
        self.has_killed.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(HOST, self._target_port)
        awaited = asyncio.Event()  # an answer that the gateway is not to hear
        self._writers |= {writer, back}
        for work in (self._requests(reader, back, awaited), self._answers(there, writer, awaited)):
            task = asyncio.create_task(_closing(work, writer, back))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _requests(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, awaited: asyncio.Event) -> None:
        while (data := await source.read(CHUNK)) and not self.has_killed.is_set():
            if self._name in data:
                self.requests += 1
                if self.requests - 1 == self._point and not self._after:
                    self._kill()
                    return
                if self.requests - 1 == self._point:
                    awaited.set()
            sink.write(data)
            await sink.drain()

    async def _answers(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, awaited: asyncio.Event) -> None:
        while (data := await source.read(CHUNK)) and not self.has_killed.is_set():
            if awaited.is_set():
                self._kill()
                return
            sink.write(data)
            await sink.drain()


async def _closing(work: Coroutine[Any, Any, None], *writers: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        await work
    for writer in writers:
        writer.transport.abort()
