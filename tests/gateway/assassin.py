"""Kills a gateway at a chosen step: it stands between the gateway and its Redis."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from tests.gateway.nursery import ForkedGateway

HOST = "127.0.0.1"
CHUNK = 1 << 16
NAME = "the-call"
"""The id of the execution, and of its promise."""
_STEP = re.compile(
    rb"""
    "kind":"(promise[.](?:get|create|settle|register_listener)|task[.]acquire)"
    | \n(HMGET|ZREM)\r                               # reads its record; the promise has told
    | \t(continue|suspend|resolve|reject|cancel)\t   # commits
    | \n(cancel)\r\n[$]8\r\nthe-call\r
    | \n(?P<create>e\tworkers\t)                     # the execution of a promise
    | \n(?P<attach>\t{6}.*ward[ ]the-call\t | \t{9})
    | \nthe-call\r\n[$]\d+\r\n(?P<told>\d+[ ](?:in|out)ward[ ]the-call)\r
    | \nthe-call~1\r\n[$]1\r\n(?P<settle>[rjxd])\r   # the entry that waits
    | \nthe-call\r\n[$]\d\r\n(?P<load>\d+)\r\n[$]0\r  # its journal
    """,
    re.VERBOSE,
)


def steps_of(request: bytes) -> list[str]:
    """The steps of the bridge in this request, which may be several commits."""
    return [match.lastgroup or match[match.lastindex or 0].decode() for match in _STEP.finditer(request)]


class Assassin:
    """Kills ``victim`` at the given occurrence of a step: before Redis gets it or, with ``after``, when Redis has
    answered and the gateway has not heard it. It kills nobody if ``step`` is empty.
    """

    def __init__(self, step: str = "", number: int = 0, *, after: bool = False) -> None:
        self.step = step
        self._number = number
        self._after = after
        self._target_port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.victim: ForkedGateway | None = None
        self.port = 0
        self.steps: list[str] = []
        """All that it has seen."""
        self.unknown: list[bytes] = []
        """Requests that name the execution, and are no step that it knows."""
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

    def _is_at_the_point(self, requests: bytes) -> bool:
        found, before = steps_of(requests), self.steps.count(self.step)
        self.steps += found
        self.unknown += [] if found else [requests]
        return before <= self._number < self.steps.count(self.step)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(HOST, self._target_port)
        awaited = asyncio.Event()  # an answer that the gateway is not to hear
        self._writers |= {writer, back}
        for work in (self._requests(reader, back, awaited), self._answers(there, writer, awaited)):
            task = asyncio.create_task(_closing(work, writer, back))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _requests(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, awaited: asyncio.Event) -> None:
        while (data := await _request(source)) and not self.has_killed.is_set():
            if NAME.encode() in data and self._is_at_the_point(data):
                if not self._after:
                    self._kill()
                    return
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


async def _request(source: asyncio.StreamReader) -> bytes:
    """One whole request; empty at the end."""
    head = await source.readline()
    parts = [head]
    for _ in range(int(head[1:] or 0)):
        size = await source.readline()
        parts += [size, await source.readexactly(int(size[1:]) + 2)]
    return b"".join(parts)


async def _closing(work: Coroutine[Any, Any, None], *writers: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncio.IncompleteReadError):
        await work
    for writer in writers:
        writer.transport.abort()
