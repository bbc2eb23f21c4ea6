"""The listener: one blocking read of `wake` and the worker's inbox. It reads only hints; nothing depends on them.

An execution that is offered here is loaded before it begins, and its commits are fenced like all others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from durasleep.errors import StoreError
from durasleep.model import PromiseId
from durasleep.protocol import streams
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.streams import BEGINNING, instant_of
from durasleep.settings import Settings
from durasleep.transport.connection import Link
from durasleep.transport.reply_errors import refusal
from durasleep.transport.server_clock import Clock

HINTS_MAX = 256  # of each stream, in one read


class HintListener:
    """Passes on that an earlier timer was made, or that an entry of a held execution has settled."""

    def __init__(
        self,
        link: Link,
        keys: Keyspace,
        *,
        consumer: str,
        settings: Settings,
        clock: Clock,
        on_wake: Callable[[bytes, int], None],
        on_schedule: Callable[[str], None],
        on_settlement: Callable[[str], None],
        on_offer: Callable[[Lease], None],
        on_gap: Callable[[], None],
    ) -> None:
        """``clock`` is that of the server. ``on_schedule`` gets a schedule that another worker cannot read, and
        ``on_offer`` a lease that another worker has passed to us; ``on_gap`` is called when hints may have been missed.
        """
        self._link = link
        self._partition = keys.partition
        self._wake = keys.wake.encode()
        self._inbox = keys.inbox(consumer).encode()
        self._settings = settings
        self._clock = clock
        self._on_wake = on_wake
        self._on_schedule = on_schedule
        self._on_settlement = on_settlement
        self._on_offer = on_offer
        self._on_gap = on_gap
        self._last = {self._wake: BEGINNING, self._inbox: BEGINNING}
        self._look_at = 0.0

    async def close(self) -> None:
        await self._link.close()

    async def once(self) -> int:
        """One blocking read; returns the number of hints."""
        block_s = self._settings.read_block_s
        if not self._link.connected or (time.monotonic() > self._look_at and self._is_ahead()):
            await self._look()
            self._look_at = time.monotonic() + block_s
        read = streams.read_after(self._last, count=HINTS_MAX, block_s=block_s)
        [found] = await self._link.exchange([read.args], block_s=block_s)
        if isinstance(found, Exception):
            await self._link.close()
            raise refusal(found) or StoreError(f"the inbox cannot be read: {found}")
        heard = 0
        for stream, rows in read.parse(found):
            for entry, fields in rows:
                self._on_hint(stream, entry, fields)
                heard += 1
        return heard

    async def run(self) -> None:
        while True:
            await self.once()

    def _is_ahead(self) -> bool:
        """Whether we stand at an entry of a time that is still to come, because the server's clock was set back. A
        stream that is made again then begins before it, and its reader would get nothing.
        """
        latest_ms, _ = max(map(instant_of, self._last.values()))
        return latest_ms > self._clock.now_ms()

    async def _look(self) -> None:
        """On a new connection: hints before it are lost, and the next ones are read from the streams' own ends.

        The same is done if a stream ends before the position of its reader.
        """
        is_new = not self._link.connected
        reads = {stream: streams.read_end(stream) for stream in self._last}
        replies = await self._link.exchange([read.args for read in reads.values()])
        ends: dict[bytes, bytes] = {}
        for (stream, read), reply in zip(reads.items(), replies, strict=True):
            if isinstance(reply, Exception):
                raise refusal(reply) or StoreError(f"{stream.decode()} cannot be read: {reply}")
            ends[stream] = read.parse(reply)
        if is_new or any(instant_of(end) < instant_of(self._last[stream]) for stream, end in ends.items()):
            self._last = ends
            self._on_gap()

    def _on_hint(self, stream: bytes, entry: bytes, fields: list[Any]) -> None:
        self._last[stream] = entry
        for name, value in zip(fields[::2], fields[1::2], strict=False):
            if stream == self._wake and name == b"c":
                self._on_schedule(value.decode(errors="replace"))
            elif stream == self._wake:
                self._on_wake(entry, int(value) if value.isdigit() else 0)
            elif name == b"n":
                self._on_settlement(value.decode(errors="replace"))
            elif name == b"t" and (lease := _offered(self._partition, value)):
                self._on_offer(lease)


def _offered(partition: int, value: bytes) -> Lease | None:
    """The lease that was passed to us; None if it cannot be read."""
    try:
        queue, entry, epoch, id = value.decode().split("\t")
        return Lease(PromiseId(id), queue, entry, int(epoch), partition=partition)
    except ValueError:
        return None
