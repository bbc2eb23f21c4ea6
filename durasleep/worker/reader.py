"""The reader: takes executions from the group's stream, as many as there are free slots and never more."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from typing import Any

import redis.exceptions as redis_errors

from durasleep.errors import CorruptData, StoreError
from durasleep.model import PromiseId
from durasleep.settings import Settings
from durasleep.store.clock import monotonic_us
from durasleep.store.commands import Lease
from durasleep.store.connection import Link
from durasleep.store.keys import Keyspace

logger = logging.getLogger("durasleep")

UNBLOCKED_PAUSE_S = 0.002  # fakeredis answers this blocking read at once: it must not be asked in a circle
BROKEN_EPOCH = -1  # of an entry that is not one of ours: nothing can have this epoch


class Reader:
    """Reads as one consumer of the group, from the group's stream and from the worker's own.

    COUNT holds for each stream: what is asked of both together is never more than there is room for.
    """

    def __init__(self, link: Link, keys: Keyspace, *, group: str, consumer: str, settings: Settings) -> None:
        self._link = link
        self._group = group
        self._consumer = consumer
        self._settings = settings
        own = f"{group}/{consumer.partition('/')[0]}"
        self._queues = {keys.queue(queue).encode(): queue for queue in (group, own)}
        self._shared, self._own = self._queues
        self._has_backlog = False
        """Whether a stream has just given all that was asked of it, and so may have more."""
        self._own_is_busy = False
        self._is_own_turn = False
        self._asked_us = 0
        self._is_asking = False

    async def join(self) -> None:
        """Be a consumer of the group, made at 0: acknowledging deletes, so what is in a stream is unfinished."""
        group, consumer = self._group.encode(), self._consumer.encode()
        for stream in self._queues:
            replies = await self._link.exchange(
                [
                    [b"XGROUP", b"CREATE", stream, group, b"0", b"MKSTREAM"],
                    [b"XGROUP", b"CREATECONSUMER", stream, group, consumer],
                ]
            )
            for reply in replies:
                if isinstance(reply, redis_errors.ResponseError) and str(reply).startswith("WRONGTYPE"):
                    raise CorruptData(f"{stream.decode()} is not a stream: {reply}")
                if isinstance(reply, Exception) and not str(reply).startswith("BUSYGROUP"):
                    raise StoreError(f"the group cannot be joined: {reply}")

    async def close(self) -> None:
        await self._link.close()

    @property
    def heard_until_us(self) -> int:
        """What was delivered to us before this instant of our own clock has arrived, or never will."""
        return self._asked_us if self._is_asking else monotonic_us()

    async def once(self, free: int) -> list[Lease]:
        """At most ``free`` executions; none after ``read_block_s``. On a new connection first what is ours already.

        From one stream as many as that, unless both have more; two at once may come where there is room for one.
        """
        if not self._link.connected:
            await self.join()
            leases = await self._read([(self._queues, self._settings.read_own_max)], start=b"0")
            if leases:
                return leases
        if self._has_backlog or free == 1:  # where there is no half of it, one stream is known to be empty before both
            leases = await self._read(self._shares(free))
            if leases:
                return leases
        began = time.monotonic()
        leases = await self._read([(self._queues, max(1, free // 2))], block_s=self._settings.read_block_s)
        if not leases and time.monotonic() - began < UNBLOCKED_PAUSE_S:
            await asyncio.sleep(UNBLOCKED_PAUSE_S)
        return leases

    def _shares(self, free: int) -> list[tuple[Collection[bytes], int]]:
        """How much to ask of each stream; nearly all of the group's while nothing comes for this worker alone."""
        if free == 1:
            self._is_own_turn = not self._is_own_turn
            return [((self._own if self._is_own_turn else self._shared,), 1)]
        own = free // 2 if self._own_is_busy else 1
        return [((self._own,), own), ((self._shared,), free - own)]

    async def _read(
        self, asked: Sequence[tuple[Collection[bytes], int]], *, start: bytes = b">", block_s: float = 0.0
    ) -> list[Lease]:
        """So many of each of these streams, all in one exchange."""
        commands = [self._command(streams, count, start, block_s) for streams, count in asked]
        self._asked_us, self._is_asking = monotonic_us(), True
        replies = await self._link.exchange(commands, block_s=block_s)
        leases: list[Lease] = []
        full: set[bytes] = set()
        is_new = start == b">"
        for (_, count), found in zip(asked, replies, strict=True):
            if isinstance(found, Exception):
                await self._link.close()  # the next read joins anew: most likely the stream or the group is gone
                raise StoreError(f"the stream is gone or not served now: {found}")
            for stream, rows in found or ():
                if len(rows) >= count:
                    full.add(stream)
                leases += [_lease(self._queues[stream], entry, fields, is_new) for entry, fields in rows]
        self._is_asking = False  # what fails is asked for again, before anything else
        self._has_backlog, self._own_is_busy = bool(full), self._own in full
        return leases

    def _command(self, streams: Collection[bytes], count: int, start: bytes, block_s: float) -> list[bytes]:
        block = [b"BLOCK", b"%d" % (block_s * 1000)] if block_s else []
        return [
            b"XREADGROUP",
            b"GROUP",
            self._group.encode(),
            self._consumer.encode(),
            b"COUNT",
            b"%d" % count,
            *block,
            b"STREAMS",
            *streams,
            *([start] * len(streams)),
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
