"""A network that can be broken: every connection to the server goes through this proxy."""

from __future__ import annotations

import asyncio
from contextlib import suppress

CHUNK = 1 << 16
HOST = "127.0.0.1"


class Proxy:
    """Passes bytes on in both directions, until a fault is asked for."""

    def __init__(self) -> None:
        self.target_port = 0
        self.port = 0
        self.delay_s = 0.0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._mute: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, target_port: int) -> None:
        self.target_port = target_port
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- faults

    def cut(self) -> None:
        """Every connection is reset."""
        for writer in tuple(self._open):
            writer.transport.abort()

    def black_hole(self) -> None:
        """Every connection stays open, and no byte passes any more."""
        self._mute |= self._open

    async def stall(self, seconds: float) -> None:
        """No byte passes for a while, then all of them."""
        self._flowing.clear()
        await asyncio.sleep(seconds)
        self._flowing.set()

    async def slow(self, delay_s: float, seconds: float) -> None:
        """For a while every packet takes longer."""
        self.delay_s = delay_s
        await asyncio.sleep(seconds)
        self.delay_s = 0.0

    # -- passing on

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(HOST, self.target_port)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, back}
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.get_running_loop().create_task(self._pass_on(source, sink, (writer, back)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, both: tuple[asyncio.StreamWriter, ...]
    ) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK):
                await self._flowing.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if sink in self._mute:
                    continue
                sink.write(data)
                await sink.drain()
        for writer in both:
            self._open.discard(writer)
            self._mute.discard(writer)
            writer.transport.abort()
