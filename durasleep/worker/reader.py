"""The reader: takes executions from the group's stream, as many as there are free slots and never more."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from durasleep.errors import StoreError, StoreUnavailable
from durasleep.model import PromiseId
from durasleep.settings import Settings
from durasleep.store import commands
from durasleep.store.batch import ask_once
from durasleep.store.commands import Lease
from durasleep.store.connection import Link, refusal
from durasleep.store.keys import Keyspace
from durasleep.store.portion import Portion
from durasleep.store.reads import value_of

logger = logging.getLogger("durasleep")

UNBLOCKED_PAUSE_S = 0.002  # fakeredis answers this blocking read at once: it must not be asked in a circle
BROKEN_EPOCH = -1  # of an entry that is not one of ours: nothing can have this epoch


class Reader:
    """Reads as one consumer of the group, from the group's stream and from the worker's own."""

    def __init__(self, link: Link, keys: Keyspace, *, group: str, consumer: str, settings: Settings) -> None:
        self._link = link
        self._group = group
        self._consumer = consumer
        self._settings = settings
        self._keys = keys
        self._portion = Portion(settings.read_own_max)
        own = f"{group}/{consumer.partition('/')[0]}"
        self._queues = {keys.queue(queue).encode(): queue for queue in (group, own)}

    async def join(self) -> None:
        """Be a consumer of the group."""
        join = commands.join(self._keys, self._consumer, self._group, self._queues.values())
        [answer] = await ask_once(self._link, [join], self._settings)
        value_of(answer)

    async def close(self) -> None:
        await self._link.close()

    async def once(self, free: int) -> list[Lease]:
        """At most ``free`` executions; none after ``read_block_s``. On a new connection first what is ours already."""
        if not self._link.connected:
            await self.join()
            leases = await self._read(self._settings.read_own_max, b"0", 0.0)
            if leases:
                return leases
        began = time.monotonic()
        leases = await self._read(free, b">", self._settings.read_block_s)
        if not leases and time.monotonic() - began < UNBLOCKED_PAUSE_S:
            await asyncio.sleep(UNBLOCKED_PAUSE_S)
        return leases

    async def _read(self, count: int, start: bytes, block_s: float) -> list[Lease]:
        block = [b"BLOCK", b"%d" % (block_s * 1000)] if block_s else []
        command = [
            b"XREADGROUP",
            b"GROUP",
            self._group.encode(),
            self._consumer.encode(),
            b"COUNT",
            b"%d" % min(count, self._portion.now),
            *block,
            b"STREAMS",
            *self._queues,
            *([start] * len(self._queues)),
        ]
        is_new = start == b">"
        try:
            [found] = await self._link.exchange([command], block_s=block_s)
        except StoreUnavailable:
            self._portion.halve(min(count, self._portion.now))
            raise
        if isinstance(found, Exception):
            await self._link.close()  # the next read joins anew: most likely the stream or the group is gone
            raise refusal(found) or StoreError(f"the stream is gone or not served now: {found}")
        self._portion.grow()
        return [
            _lease(self._queues[stream], entry, fields, is_new)
            for stream, rows in found or ()
            for entry, fields in rows
        ]


def _lease(queue: str, entry: bytes, fields: list[Any] | None, is_new: bool) -> Lease:
    """What an entry says; one that is deleted or not ours comes with an epoch nothing has, to be dropped.

    Only one that is new counts as a snapshot: much may have happened to one that is read again.
    """
    try:
        if fields and fields[0] == b"i" and fields[2] == b"e":  # as the scripts write it: a snapshot, if any, is next
            snapshot = fields[5] if is_new and len(fields) > 4 and fields[4] == b"x" else b""
            return Lease(fields[1].decode(), queue, entry.decode(), int(fields[3]), snapshot)
    except (ValueError, IndexError):
        pass  # it only looked like one
    return Lease(PromiseId(""), queue, entry.decode(), BROKEN_EPOCH)
