"""The inbox of a client: the stream by which the scripts notify it of settlements. It is read while anybody waits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from durasleep.client.requests import status_of_created
from durasleep.errors import DurasleepError, StoreError, StoreUnavailable
from durasleep.model import PromiseId
from durasleep.protocol import command, streams
from durasleep.protocol.command import Command
from durasleep.protocol.keys import LIMIT, Keyspace
from durasleep.protocol.promises import Created
from durasleep.protocol.streams import BEGINNING, instant_of
from durasleep.query.status import PromiseStatus
from durasleep.settings import Settings
from durasleep.transport.batching import RETRY_FIRST_S
from durasleep.transport.connection import Link
from durasleep.transport.portion import Portion
from durasleep.transport.reply_errors import is_of_moving_slot, refusal
from durasleep.transport.store import Store

LOOK_S = 5.0  # between two checks that the inbox exists: well within its life, and a new stream is soon noticed
READ_MAX = 256  # entries of it in one answer
BLOCKING_MAX = 32  # partitions in which an inbox is read by a connection that blocks
REPORT_S = 60.0  # between two lines about an inbox that cannot be read
FAILED_S = 1.0  # until it is read again after it could not be read
POLL_S = 0.1  # between two reads of an inbox in another partition
MANY = 500  # with so many awaited, and no wait for a single one, there is a pause after each read
LEISURE_S = 0.01  # that pause for each stream: a read costs a client as much time as a hundred endings in it
LEISURE_MAX_S = 0.1

_VALUE_BYTES_MAX = LIMIT["inbox_value_bytes_max"]  # a larger value is read from its promise

_ENDING = [b"i", b"b", b"s", b"v"]  # the fields of nearly every entry: id, incarnation, state and value

logger = logging.getLogger("durasleep")


class Subscription:
    """Waits for the inbox to notify of the end of one promise. The end may be unknown: then the promise is read."""

    __slots__ = ("_error", "_future", "_is_notified", "before", "ending", "id", "is_missed", "stream")

    def __init__(self, stream: InboxStream, id: PromiseId) -> None:
        self.stream = stream
        """What notifies it, in the event loop of its inbox."""
        self._future: asyncio.Future[PromiseStatus | None] | None = None
        self._is_notified = False
        self._error: Exception | None = None
        self.before: Subscription | None = None
        """Another one for the same id, if there is one: the inbox keeps the latest."""
        self.id = id
        self.ending: PromiseStatus | None = None
        """None before the notification, and if the end is unknown."""
        self.is_missed = False
        """The end is unknown because the inbox may have missed it: attach again."""

    @property
    def future(self) -> asyncio.Future[PromiseStatus | None]:
        """To await the end with. Most notifications come before anybody waits, so the future is made on demand."""
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
            if self._is_notified:
                self._future.set_result(self.ending)
            elif self._error is not None:
                self._future.set_exception(self._error)
        return self._future

    def notify(self, ending: PromiseStatus | None) -> None:
        """Notify of the end; only the first time counts."""
        if self._is_notified or (self._future is not None and self._future.done()):
            return
        self._is_notified = True
        self.ending = ending
        if self._future is not None:
            self._future.set_result(ending)

    def on_created(self, answer: Created | None) -> None:
        """Take the answer to attaching: the promise may have ended already. Other replies are left to the waiter."""
        ending = None if answer is None else status_of_created(self.id, answer)
        if ending is None or ending.is_final:
            self.forget()
            self.notify(ending)

    def fail(self, error: Exception) -> None:
        """No notification will come: raise ``error`` where it is awaited, now or later."""
        self._error = error
        if self._future is not None and not self._future.done():
            self._future.set_exception(error)

    def forget(self) -> None:
        """Nobody waits for it any more."""
        self.stream.forget(self)


def on_answers(subscriptions: Sequence[Subscription], asked: asyncio.Future[list[Created | DurasleepError]]) -> None:
    """Take the answers to attaching to several; if the call failed, the ends of all are unknown."""
    failed = asked.cancelled() or asked.exception() is not None
    for one, answer in zip(subscriptions, [None] * len(subscriptions) if failed else asked.result(), strict=True):
        one.on_created(answer if isinstance(answer, Created) else None)


class UrgentWaits:
    """Counts the waits for single results: while there are any, the inbox is read at once."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1


class Inbox:
    """Notifies of what settles for this client. It has a stream in each partition in which anybody has waited.

    A stream is read while anybody waits for something of its partition. One blocking read takes a connection of its
    own, so only the first ``BLOCKING_MAX`` streams have one; the others are looked at every ``POLL_S``.
    """

    def __init__(self, store: Store, name: str, settings: Settings) -> None:
        self.name = name
        self._store = store
        self._settings = settings
        self._streams: dict[int, InboxStream] = {}
        self._error: Exception | None = None
        self._reported_at = -REPORT_S
        self.urgent = UrgentWaits()
        self.closed = asyncio.Event()
        """Set once nothing is told any more."""

    def stream(self, id: str) -> InboxStream:
        """The stream that notifies of this promise."""
        keys = self._store.keys(id)
        stream = self._streams.get(keys.partition)
        if stream is None:
            self.check_open()
            link = self._store.link(keys) if len(self._streams) < BLOCKING_MAX else None
            stream = self._streams[keys.partition] = InboxStream(self, self._store, keys, link, self._settings)
        return stream

    def streams(self, partitions: int) -> list[InboxStream | None]:
        """Its streams in this many partitions; None where nobody has waited yet."""
        return [self._streams.get(partition) for partition in range(partitions)]

    async def listen(self, ids: Iterable[str]) -> None:
        """If it is read in some partitions, read it in those of these promises, too: whoever waits in one will in all.

        So each execution attaches to it as it is created, for which nothing need be asked later.
        """
        listening = sum(stream.is_listening for stream in self._streams.values())
        if 0 < listening < len(self._store.keyspaces):
            silent = {stream for stream in map(self.stream, ids) if not stream.is_listening}
            await asyncio.gather(*[stream.listen() for stream in silent])

    @property
    def leisure_s(self) -> float:
        """The pause after a read. There is none while anybody waits for a single result, or only for some hundreds."""
        if self.urgent.count or sum(stream.waiting_count for stream in self._streams.values()) < MANY:
            return 0.0
        return min(LEISURE_S * len(self._streams), LEISURE_MAX_S)

    def report(self, problem: DurasleepError) -> None:
        """A stream of it cannot be read: one line a minute, for all of them."""
        now_s = time.monotonic()
        if now_s - self._reported_at >= REPORT_S:
            self._reported_at = now_s
            logger.warning("results are looked up one by one: the inbox cannot be read (%s)", problem)

    def check_open(self) -> None:
        """Raises what it was closed with, if it was."""
        if self._error is not None:
            raise self._error

    def subscribe(self, id: PromiseId) -> Subscription:
        """Subscribe to the end of a promise."""
        return self.stream(id).subscribe(id)

    async def close(self, error: Exception) -> None:
        """Stop reading; ``error`` is raised where somebody waits, or subscribes later."""
        self._error = error
        self.closed.set()
        for stream in self._streams.values():
            await stream.close(error)

    async def drop(self) -> None:
        """Remove its streams: nobody reads them any more."""
        for partition in self._streams:
            await self._store.call(streams.drop_inbox(self._store.keyspaces[partition], self.name))


class InboxStream:
    """The inbox in one partition: a stream that is read in the background while anybody waits.

    It reads each entry at once. Where only ``gather`` waits, and for hundreds or more, it pauses after each read. The
    last hundreds of results are read at once again, so that ``gather`` ends no later.

    To wait for an ending: ``subscribe`` to it, wait until the stream is ``opened``, and have the server told. What
    settles from then on arrives here.
    """

    def __init__(self, inbox: Inbox, store: Store, keys: Keyspace, link: Link | None, settings: Settings) -> None:
        """Without a ``link`` its reads do not block."""
        self.inbox = inbox
        self._store = store
        self._settings = settings
        self._key = keys.inbox(inbox.name).encode()
        self._link = link
        self._last: bytes | None = None
        self._portion = Portion(READ_MAX)
        self._waiting: dict[str, Subscription] = {}
        self._watches: dict[str, set[asyncio.Event]] = {}
        """Set when what an execution publishes has changed, or may have, by its id."""
        self._task: asyncio.Task[None] | None = None
        self._opened = asyncio.Event()
        self._may_have_missed = False
        """Whether somebody may wait since before its end was known."""
        self._fresh_until = 0.0
        self._look_at = 0.0

    @property
    def is_listening(self) -> bool:
        """Whether it is being read, so that every notification from now on arrives."""
        return self._is_read and self._task is not None and not self._task.done()

    @property
    def waiting_count(self) -> int:
        """For how many promises anybody waits."""
        return len(self._waiting)

    async def opened(self) -> None:
        """Wait until its end is known, or cannot be found out; raises what the inbox was closed with meanwhile."""
        await self._opened.wait()
        self.inbox.check_open()

    async def listen(self) -> None:
        """Read it from now on, although nobody waits yet; returns once its end is known, or cannot be found out."""
        self._begin(stays=True)
        await self.opened()

    @property
    def _is_read(self) -> bool:
        """Whether its end is known, and no connection was lost since."""
        return self._last is not None and (self._link is None or self._link.connected)

    def is_subscribed(self, id: PromiseId) -> bool:
        """Whether anybody here waits for the ending of this promise."""
        return id in self._waiting

    def subscribe(self, id: PromiseId) -> Subscription:
        """Subscribe to the end of a promise."""
        self.inbox.check_open()  # a waiter that was to look again as the inbox closed would wait for ever
        subscription = Subscription(self, id)
        subscription.before = self._waiting.get(id)
        self._waiting[id] = subscription
        self._begin()
        return subscription

    def watch(self, id: PromiseId, changed: asyncio.Event) -> None:
        """Set ``changed`` whenever the inbox is notified that what this execution publishes has changed."""
        self.inbox.check_open()
        self._watches.setdefault(id, set()).add(changed)
        self._begin()

    def unwatch(self, id: PromiseId, changed: asyncio.Event) -> bool:
        """Do not set it any more; returns whether that was the last one for this execution."""
        watches = self._watches.get(id, set())
        watches.discard(changed)
        if not watches:
            self._watches.pop(id, None)
        return not watches

    def _begin(self, *, stays: bool = False) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(stays), name="durasleep-inbox")

    def forget(self, subscription: Subscription) -> None:
        """Drop this subscription: nobody waits for it any more."""
        one = self._waiting.get(subscription.id)
        if one is not subscription:
            while one is not None and one.before is not subscription:
                one = one.before
            if one is not None:
                one.before = subscription.before
        elif subscription.before is not None:
            self._waiting[subscription.id] = subscription.before
        else:
            del self._waiting[subscription.id]

    async def close(self, error: Exception) -> None:
        """Stop reading; ``error`` is raised where somebody waits."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._opened.set()
        for latest in tuple(self._waiting.values()):
            subscription: Subscription | None = latest
            while subscription is not None:
                subscription.fail(error)
                subscription = subscription.before
        self._waiting.clear()
        for id in self._watches:
            self._note_change(id)
        if self._link is not None:
            await self._link.close()

    def _notify(self, id: str, ending: PromiseStatus | None) -> None:
        subscription = self._waiting.pop(id, None)
        while subscription is not None:
            subscription.notify(ending)
            subscription = subscription.before

    def _notify_to_look(self) -> None:
        """Notify all without an end, because something may have been missed: then each promise is read."""
        for latest in tuple(self._waiting.values()):
            subscription: Subscription | None = latest
            while subscription is not None:
                subscription.is_missed = True
                subscription = subscription.before
            self._notify(latest.id, None)
        for id in self._watches:
            self._note_change(id)

    def _note_change(self, id: str) -> None:
        for changed in self._watches.get(id, ()):
            changed.set()

    async def _run(self, heard: bool) -> None:
        while self._waiting or self._watches or heard:  # after a result the caller often waits for the next: stay ready
            try:
                heard = await self._once()
                if heard and (pause_s := self.inbox.leisure_s):
                    await asyncio.sleep(pause_s)
            except DurasleepError as error:
                self._may_have_missed = True
                self._opened.set()
                heard, delay_s = False, RETRY_FIRST_S
                if not is_of_moving_slot(error):
                    delay_s = FAILED_S
                    self.inbox.report(error)
                self._notify_to_look()
                await asyncio.sleep(delay_s)

    async def _once(self) -> bool:
        """Read once, waiting a limited time for new entries; whether there were any."""
        now = asyncio.get_running_loop().time()
        if not self._is_read or now > self._fresh_until:
            if await self._freshen():
                self._look_at = now + self._settings.client_check_s
            self._fresh_until = now + LOOK_S
        if now > self._look_at:  # notifications are hints, so now and then all promises are read
            self._notify_to_look()
            self._look_at = now + self._settings.client_check_s
            return False
        block_s, most = self._settings.read_block_s if self._link else 0.0, self._portion.now
        last = self._last or BEGINNING
        try:
            [found] = await self._ask(
                streams.read_after({self._key: last}, count=most, block_s=block_s), block_s=block_s
            )
        except StoreUnavailable:
            self._portion.halve(most)
            raise
        self._portion.grow()
        for _, rows in found:
            for entry, fields in rows:
                self._last = entry
                self._on_entry(fields)
            if len(rows) == most:
                await self._check_gap(last)
        if not found and self._link is None:
            await asyncio.sleep(POLL_S)
        return bool(found)

    async def _check_gap(self, last: bytes) -> None:
        """Check that nothing was missed: the cap of the stream may have cut entries before a slow reader reads them."""
        [first] = await self._ask(streams.read_first(self._key))
        if first and instant_of(first) > instant_of(last):
            self._notify_to_look()

    async def _freshen(self) -> bool:
        """Keep the inbox alive; true if reading begins, and whoever may have missed anything was notified to look.

        Reading begins anew on a new connection, and where the stream is not the one that was read. Such a stream begins
        behind the entry read last or, if the server's clock was set back meanwhile, ends before it.
        """
        before = self._last if self._is_read else None
        look = streams.keep_inbox(self._key), streams.read_first(self._key), streams.read_last(self._key)
        is_kept, first, last = await self._ask(*look)
        if not is_kept:
            _, _, first, last = await self._ask(streams.open_inbox(self._key), *look)
            before = None
        if first and last and before and instant_of(first) <= instant_of(before) <= instant_of(last):
            return False
        is_new, self._last = self._last is None, last or BEGINNING
        self._opened.set()
        if self._may_have_missed or not is_new:
            self._notify_to_look()
            self._may_have_missed = False
        return True

    async def _ask(self, *commands: Command[Any], block_s: float = 0.0) -> list[Any]:
        """The answers, over the connection of this stream, if it has one."""
        if self._link is None:
            return [command.unwrap(answer) for answer in await self._store.ask(commands)]
        replies = await self._link.exchange([one.args for one in commands], block_s=block_s)
        for reply in replies:
            if isinstance(reply, Exception):
                raise refusal(reply) or StoreError(f"{reply}")
        return [one.parse(reply) for one, reply in zip(commands, replies, strict=True)]

    def _on_entry(self, fields: list[bytes]) -> None:
        """Notify of the endings in an entry. The common form is read by columns, in a third of the time."""
        width = 2 * len(_ENDING)
        if fields[::2] != _ENDING * (len(fields) // width):
            for id, ending in statuses_in(fields):
                self._notify(id, ending)
            for id in changes_in(fields):
                self._note_change(id)
            return
        for raw_id, code, value in zip(fields[1::width], fields[5::width], fields[7::width], strict=True):
            subscription = self._waiting.get(raw_id.decode(errors="replace"))
            if subscription is not None:
                state = command.STATE_OF.get(code)
                is_ours = state and len(value) <= _VALUE_BYTES_MAX
                self._notify(
                    subscription.id, PromiseStatus(subscription.id, state, value) if state and is_ours else None
                )


def statuses_in(fields: list[bytes]) -> Iterator[tuple[str, PromiseStatus | None]]:
    """The endings in one entry of an inbox, by id; None for one that has to be read from its promise."""
    for message in _split(fields):
        id = message.get(b"i", b"").decode(errors="replace")
        state, value = command.STATE_OF.get(message.get(b"s", b"")), message.get(b"v")
        if value is not None and len(value) > _VALUE_BYTES_MAX:
            value = None
        if id:
            yield id, PromiseStatus(PromiseId(id), state, value) if state and value is not None else None


def changes_in(fields: list[bytes]) -> list[str]:
    """The ids of executions that have published something, in one entry of an inbox."""
    return [id.decode(errors="replace") for name, id in zip(fields[::2], fields[1::2], strict=False) if name == b"w"]


def _split(fields: list[bytes]) -> Iterator[dict[bytes, bytes]]:
    """The fields of each ending in an entry; each begins with its id."""
    message: dict[bytes, bytes] = {}
    for name, value in zip(fields[::2], fields[1::2], strict=False):
        if name == b"i" and message:
            yield message
            message = {}
        message[name] = value
    yield message
