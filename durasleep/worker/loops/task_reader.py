"""The reader: takes as many executions of the group as there are free slots, and what is for this worker alone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any

from durasleep.errors import StoreError, StoreUnavailable
from durasleep.model import PromiseId
from durasleep.protocol import membership, streams
from durasleep.protocol.command import unwrap
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.streams import BEGINNING, UNREAD
from durasleep.settings import Settings
from durasleep.transport.batcher import ask_once
from durasleep.transport.connection import Link
from durasleep.transport.portion import Portion
from durasleep.transport.reply_errors import refusal
from durasleep.transport.server_clock import monotonic_us

logger = logging.getLogger("durasleep")

UNBLOCKED_PAUSE_S = 0.002  # what is answered at once, as by fakeredis, must not be asked in a circle
BROKEN_EPOCH = -1  # of an entry that is not one of ours: nothing can have this epoch


class TaskReader:
    """Reads as one consumer of the group, from the group's stream and from the worker's own.

    COUNT of XREADGROUP holds for each stream: as long as both have something, each is asked for a share of what there
    is room for.
    """

    def __init__(self, link: Link, keys: Keyspace, *, group: str, consumer: str, settings: Settings) -> None:
        self._link = link
        self._keys = keys
        self._group = group
        self._consumer = consumer
        self._settings = settings
        own = f"{group}/{consumer.partition('/')[0]}"
        self._queues = {keys.queue(queue).encode(): queue for queue in (group, own)}
        self._own = keys.queue(own).encode()
        self._portion = Portion(settings.read_own_max)
        self._has_own = True
        """Whether there was something for this worker alone when it was looked for last."""
        self._is_own_turn = False
        self._heard_us = 0
        """When we last asked, or heard the answer, by our own clock."""
        self._is_asking = False
        self._unnamed: dict[tuple[str, str], int] = {}
        """What is pending to us and not in hand, and when a beat first said so, by our own clock."""

    async def join(self) -> None:
        """Be a consumer of the group."""
        join = membership.join(self._keys, self._consumer, self._group, self._queues.values())
        [answer] = await ask_once(self._link, [join], self._settings)
        unwrap(answer)

    async def close(self) -> None:
        await self._link.close()

    def never_arrived(
        self, unnamed: Iterable[tuple[str, str]], sent_us: int, received_us: int
    ) -> list[tuple[str, str]]:
        """What was delivered to us by an answer that we never got: queues and entries, for others to have.

        ``unnamed`` is what a beat, sent and received at these times of our own clock, found pending to us and did not
        name. Beats are of another thread: our loop may have been blocked, with that answer waiting to be heard, and by
        now it may have done what came with it. So it takes two beats: when the second was sent, all had been heard that
        was on its way when the first was answered.
        """
        before, self._unnamed = self._unnamed, {key: self._unnamed.get(key, received_us) for key in unnamed}
        return [key for key in self._unnamed if key in before and self._had_heard(before[key], by_us=sent_us)]

    def _had_heard(self, until_us: int, *, by_us: int) -> bool:
        """Whether what was delivered to us before the one instant had arrived by the other, or never will."""
        return self._heard_us < by_us and (until_us < self._heard_us or not self._is_asking)

    async def once(self, free: int) -> list[Lease]:
        """About ``free`` executions; none after ``read_block_s``. On a new connection first what is ours already.

        More may come where the worker's own stream was empty lately, and is not any more: what is for it alone may as
        well wait here.
        """
        if not self._link.connected:
            await self.join()
            leases = await self._read(self._settings.read_own_max, after=BEGINNING)
            if leases:
                return leases
        if self._has_own:
            leases = await self._take(free)
            if leases:
                return leases
        began = time.monotonic()
        leases = await self._read(free, block_s=self._settings.read_block_s if self._link.may_block else 0.0)
        if not leases and time.monotonic() - began < UNBLOCKED_PAUSE_S:
            await asyncio.sleep(UNBLOCKED_PAUSE_S)
        return leases

    async def _take(self, free: int) -> list[Lease]:
        """What is there now: half of it at most for this worker alone, or every other one."""
        free = min(free, self._portion.now)
        self._is_own_turn = not self._is_own_turn
        own = free // 2 or int(self._is_own_turn)
        shares = zip((free - own, own), self._queues, strict=True)
        return await self._ask(*[(count, (stream,)) for count, stream in shares if count])

    async def _read(self, count: int, *, after: bytes = UNREAD, block_s: float = 0.0) -> list[Lease]:
        """So many of each stream."""
        return await self._ask((min(count, self._portion.now), tuple(self._queues)), after=after, block_s=block_s)

    async def _ask(
        self, *shares: tuple[int, tuple[bytes, ...]], after: bytes = UNREAD, block_s: float = 0.0
    ) -> list[Lease]:
        """Ask for so many of each of some streams; for fewer next time, if the connection was lost over it."""
        reads = [
            streams.read_for_group(self._group, self._consumer, some, count=count, after=after, block_s=block_s)
            for count, some in shares
        ]
        self._heard_us, self._is_asking = monotonic_us(), True
        try:
            answers = await self._link.exchange([read.args for read in reads], block_s=block_s)
        except StoreUnavailable:
            self._portion.halve(sum([count for count, _ in shares]))
            raise
        for answer in answers:
            if isinstance(answer, Exception):
                await self._link.close()  # the next read joins anew: most likely the stream or the group is gone
                raise refusal(answer) or StoreError(f"the stream is gone or not served now: {answer}")
        self._portion.grow()
        self._heard_us, self._is_asking = monotonic_us(), False  # what fails is asked for again, before anything else
        is_new, leases = after == UNREAD, list[Lease]()
        if any(self._own in some for _, some in shares):
            self._has_own = False
        for read, answer in zip(reads, answers, strict=True):
            for stream, entries in read.parse(answer):
                queue = self._queues[stream]
                self._has_own = self._has_own or (stream == self._own and bool(entries))
                leases += [_lease(queue, entry, fields, is_new) for entry, fields in entries]
        return leases


def _lease(queue: str, entry: bytes, fields: list[Any] | None, is_new: bool) -> Lease:
    """What an entry says; one that is deleted or not ours comes with an epoch nothing has, to be dropped.

    Only one that is new counts as a snapshot: much may have happened to one that is read again.
    """
    try:
        if fields and fields[0] == b"i" and fields[2] == b"e":  # as the scripts write it: a snapshot, if any, is next
            snapshot = fields[5] if is_new and len(fields) > 4 and fields[4] == b"x" else b""
            return Lease(fields[1].decode(), queue, entry.decode(), int(fields[3]), snapshot)
        if fields:  # as a newer version may
            told = dict(zip(fields[::2], fields[1::2], strict=True))
            return Lease(PromiseId(told[b"i"].decode()), queue, entry.decode(), int(told[b"e"]))
    except (KeyError, ValueError, IndexError):
        pass  # it only looked like one
    return Lease(PromiseId(""), queue, entry.decode(), BROKEN_EPOCH)
