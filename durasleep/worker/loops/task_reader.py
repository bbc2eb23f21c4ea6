"""The reader: takes as many executions of the group as there are free slots, and those for this worker only.

A group has a stream for each priority. COUNT of XREADGROUP holds for each stream, and mostly only one of them is used.
So there are two ways to take what is there:

- **Plain**: a share of the slots for the worker's own stream, and the rest for the usual one.
- **By levels**, for a minute after an entry of another priority was seen: a script reads one stream after the other,
  each for as many slots as are left. In every sixth turn the later ones come first, for half of the slots, each in its
  turn: so none of them starves, however full the others are.

If nothing is there, one read waits for all streams.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from durasleep.errors import StoreError, StoreUnavailable
from durasleep.model import PromiseId
from durasleep.protocol import membership, server, streams
from durasleep.protocol.command import Command, unwrap
from durasleep.protocol.commit import EntryKey, Lease
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.membership import Beat
from durasleep.protocol.streams import BEGINNING, UNREAD, Read
from durasleep.settings import Settings
from durasleep.transport.batcher import ask_once
from durasleep.transport.batching import exchange_plan
from durasleep.transport.connection import Link
from durasleep.transport.portion import Portion
from durasleep.transport.reply_errors import Reply, gone_elsewhere, refusal
from durasleep.transport.server_clock import monotonic_us
from durasleep.worker.turns import Turns

logger = logging.getLogger("durasleep")

UNBLOCKED_PAUSE_S = 0.002  # if a read is answered at once, as by fakeredis, it must not be repeated in a tight loop
LEVELS_S = 60.0  # after an entry of another priority the streams are read one by one
LATER_FIRST = 6  # every so many turns by levels, the later priorities come first
BROKEN_EPOCH = -1  # of an entry that is not one of ours: no lease has this epoch


class Slots(Protocol):
    """The free slots of a worker, which the readers of all its partitions share."""

    @property
    def free(self) -> int:
        """How many executions may be read now."""
        ...

    def begin_reading(self, count: int) -> None:
        """So many may be read from now on: these slots are not free."""
        ...

    def end_reading(self, count: int) -> None:
        """They have been read, or are free again."""
        ...


@dataclass(frozen=True, slots=True)
class _Read:
    """A command that reads at most ``count`` entries of each of some streams, or of all together."""

    count: int
    command: Command[Read]
    streams: int = 1
    asks_own: bool = False

    @property
    def most(self) -> int:
        """The most that it may bring."""
        return self.count * self.streams


class TaskReader:
    """Reads as one consumer of the group, from the group's streams and from the worker's own."""

    def __init__(
        self, link: Link, keys: Keyspace, *, group: str, consumer: str, settings: Settings, turns: Turns | None = None
    ) -> None:
        """``turns`` are those of the readers of all partitions, if there are several."""
        self._link = link
        self._turns = turns
        self._client_id = 0
        self._is_blocked = False
        self._has_more = True
        """Whether the last read has got all it asked for of some stream: then more may be there."""
        self._keys = keys
        self._group = group
        self._consumer = consumer
        self._settings = settings
        own, *levels = membership.queues_of(group, consumer)
        self._queues = {keys.queue(queue).encode(): queue for queue in (own, *levels)}
        self._levels = tuple(levels)
        self._usual, self._own = keys.queue(group).encode(), keys.queue(own).encode()
        self._by_levels_until = 0.0
        """Until then the streams are read one by one, by the monotonic clock."""
        self._turn = 0
        self._portion = Portion(settings.read_own_max)
        self._has_own = True
        """Whether the worker's own stream had entries at the last look."""
        self._is_own_turn = False
        self._heard_us = 0
        """When we last asked, or got the answer, by our own clock."""
        self._is_asking = False
        self._unnamed: dict[EntryKey, int] = {}
        """Entries that are pending to us and not held, and when a beat first said so, by our own clock."""

    async def join(self) -> None:
        """Become a consumer of the group."""
        join = membership.join(self._keys, self._consumer, self._group, self._queues.values())
        asked = [join] if self._turns is None else [join, server.read_client_id()]
        answer, *ids = await ask_once(self._link, asked, self._settings)
        unwrap(answer)
        self._client_id = next((id for id in ids if isinstance(id, int)), 0)
        self._has_more = True

    async def close(self) -> None:
        await self._link.close()

    def never_arrived(self, unnamed: Iterable[EntryKey], sent_us: int, received_us: int) -> list[EntryKey]:
        """Entries that were delivered to us in an answer that we never got, to be released.

        ``unnamed`` are the entries that are pending to us, but were not named in a beat that was sent and
        received at these times of our own clock. Beats come from another thread. Our loop may have been blocked while
        that answer waited to be read, and by now it may have finished those entries. So it takes two beats: when the
        second was sent, the loop had read every answer that was on its way when the first was answered.
        """
        before, self._unnamed = self._unnamed, {key: self._unnamed.get(key, received_us) for key in unnamed}
        return [key for key in self._unnamed if key in before and self._had_heard(before[key], by_us=sent_us)]

    def _had_heard(self, until_us: int, *, by_us: int) -> bool:
        """Whether entries that were delivered before the one instant had arrived by the other, or never will."""
        return self._heard_us < by_us and (until_us < self._heard_us or not self._is_asking)

    async def once(self, free: int) -> list[Lease]:
        """At most ``free`` executions; none after ``read_block_s``. On a new connection, first those that are ours
        already.

        There may be a few more if some come in several streams at the same time, while the worker waits with fewer free
        slots than it has streams.
        """
        if leases := await self._read_pending():
            return leases
        if self._has_more and (leases := await self._take(free)):
            return leases
        began = time.monotonic()
        share = max(1, free // len(self._queues))
        leases = await self._read(share, block_s=self._settings.read_block_s if self._link.may_block else 0.0)
        if not leases and time.monotonic() - began < UNBLOCKED_PAUSE_S:
            await asyncio.sleep(UNBLOCKED_PAUSE_S)
        return leases

    async def _read_pending(self) -> list[Lease]:
        """On a new connection, the entries that are ours already."""
        if self._link.connected:
            return []
        await self.join()
        return await self._read(self._settings.read_own_max, after=BEGINNING)

    async def once_of_several(self, slots: Slots) -> list[Lease]:
        """The same where other partitions are read for the same slots.

        A read that blocks takes one entry only, because each of the others may bring one, too. What has come meanwhile
        is read in turn, for as many slots as are free then.
        """
        if leases := await self._read_pending():
            return leases
        if self._has_more or not self._link.may_block:
            leases = await self._read_in_turn(slots, 0)
            if leases or self._has_more or not self._link.may_block:
                if not leases:
                    await asyncio.sleep(UNBLOCKED_PAUSE_S)
                return leases
        self._is_blocked = True
        try:
            leases = await self._read(1, block_s=self._settings.read_block_s)
        finally:
            self._is_blocked = False
        return leases + await self._read_in_turn(slots, len(leases)) if leases else leases

    async def _read_in_turn(self, slots: Slots, had: int) -> list[Lease]:
        """Read as many entries as there are free slots, beside those that we ``had`` already."""
        assert self._turns is not None

        async def read() -> list[Lease]:
            count = slots.free - had
            self._has_more = count <= 0
            if count <= 0:
                return []
            slots.begin_reading(count)
            try:
                return await self._take(count)
            finally:
                slots.end_reading(count)

        return await self._turns.run(self._keys, read)

    def unblock(self) -> Command[int] | None:
        """What ends a read that blocks, because no slot is free any more; None if none blocks."""
        if not self._is_blocked or not self._client_id:
            return None
        return server.unblock(self._client_id).at(self._keys.slot).optional()

    def on_beat(self, beat: Beat) -> None:
        """The answer to a heartbeat says whether other priorities wait."""
        if beat.levels:
            self._by_levels_until = time.monotonic() + LEVELS_S

    async def _take(self, free: int) -> list[Lease]:
        """The entries that are there now, at most ``free``."""
        free = min(free, self._portion.now)
        self._turn += 1
        if time.monotonic() < self._by_levels_until:
            return await self._take_by_levels(free)
        return await self._take_plain(free)

    async def _take_plain(self, free: int) -> list[Lease]:
        """At most half of them for this worker only, or every second one, if there were any at the last look."""
        own = self._own_share(free) if self._has_own else int(self._turn % LATER_FIRST == 0)
        shares = ((own, self._own), (free - own, self._usual))
        return await self._ask([self._reading(count, stream) for count, stream in shares if count])

    def _own_share(self, free: int) -> int:
        return free // 2 or self._turn % 2

    async def _take_by_levels(self, free: int) -> list[Lease]:
        """First half of them for this worker only, then by their priority."""
        own, levels = self._queues[self._own], self._levels
        shares = [(own, self._own_share(free)), *[(queue, free) for queue in levels], (own, free)]
        rounds, rest = divmod(self._turn, LATER_FIRST)
        if rest == 0:
            later = levels[:0:-1]  # the last first
            at = rounds % len(later)
            shares = [(queue, max(1, free // 2)) for queue in (*later[at:], *later[:at])] + shares
        take = membership.take(self._keys, self._consumer, self._group, free=free, shares=shares)
        return await self._ask([_Read(free, take)])

    async def _read(self, count: int, *, after: bytes = UNREAD, block_s: float = 0.0) -> list[Lease]:
        """Read this many entries of each stream."""
        read = self._reading(min(count, self._portion.now), *self._queues, after=after, block_s=block_s)
        return await self._ask([read], after=after, block_s=block_s)

    def _reading(self, count: int, *some: bytes, after: bytes = UNREAD, block_s: float = 0.0) -> _Read:
        return _Read(
            count,
            streams.read_for_group(self._group, self._consumer, some, count=count, after=after, block_s=block_s),
            streams=len(some),
            asks_own=self._own in some,
        )

    async def _ask(self, reads: Sequence[_Read], *, after: bytes = UNREAD, block_s: float = 0.0) -> list[Lease]:
        """Ask some streams; for fewer entries next time, if the connection was lost."""
        self._heard_us, self._is_asking = monotonic_us(), True
        try:
            answers = await self._exchange([read.command for read in reads], block_s)
        except StoreUnavailable:
            self._portion.halve(sum([read.most for read in reads]))
            raise
        for answer in answers:
            if isinstance(answer, Exception):
                await self._link.close()  # the next read joins again: most likely the stream or the group is gone
                if self._link.is_of_cluster and (moved := gone_elsewhere(answer)):
                    raise moved
                raise refusal(answer) or StoreError(f"the stream is gone or not served now: {answer}")
        self._portion.grow()
        self._heard_us, self._is_asking = monotonic_us(), False  # a read that fails is repeated before anything else
        is_new, leases = after == UNREAD, list[Lease]()
        self._has_more = False
        if any(read.asks_own for read in reads):
            self._has_own = False
        for read, answer in zip(reads, answers, strict=True):
            before = len(leases)
            for stream, entries in read.command.parse(answer):
                queue = self._queues[stream]
                leases += [_lease(self._keys.partition, queue, entry, fields, is_new) for entry, fields in entries]
                if entries:
                    self._note_stream(stream)
            self._has_more = self._has_more or len(leases) - before >= read.count
        return leases

    async def _exchange(self, commands: Sequence[Command[Read]], block_s: float) -> list[Reply]:
        if commands[0].script is None:
            return await self._link.exchange([command.args for command in commands], block_s=block_s)
        plan = exchange_plan(commands, self._settings)
        try:
            sent = next(plan)
            while True:
                sent = plan.send(await self._link.exchange(sent))
        except StopIteration as end:
            return cast("list[Reply]", end.value)

    def _note_stream(self, stream: bytes) -> None:
        """It had entries."""
        if stream == self._own:
            self._has_own = True
        elif stream != self._usual:
            self._by_levels_until = time.monotonic() + LEVELS_S


def _lease(partition: int, queue: str, entry: bytes, fields: list[Any] | None, is_new: bool) -> Lease:
    """The lease in an entry. A deleted entry, or one that is not ours, gets an epoch that no lease has, and is dropped.

    Only a new entry counts as a snapshot: an entry that is read again may be out of date.
    """
    try:
        if fields and fields[0] == b"i" and fields[2] == b"e":  # as the scripts write it: a snapshot, if any, is next
            snapshot = fields[5] if is_new and len(fields) > 4 and fields[4] == b"x" else b""
            labels = trace = ""
            if snapshot and len(fields) > 6:
                labels = fields[7].decode() if fields[6] == b"l" else ""
                trace = fields[-1].decode() if fields[-2] == b"t" else ""
            return Lease(fields[1].decode(), queue, entry.decode(), int(fields[3]), snapshot, partition, labels, trace)
        if fields:  # as a newer version may write it
            named = dict(zip(fields[::2], fields[1::2], strict=True))
            return Lease(PromiseId(named[b"i"].decode()), queue, entry.decode(), int(named[b"e"]), partition=partition)
    except (KeyError, ValueError, IndexError):
        pass  # it only looked like one
    return Lease(PromiseId(""), queue, entry.decode(), BROKEN_EPOCH, partition=partition)
