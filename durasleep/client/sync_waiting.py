"""Waiting of the sync client: an inbox in each thread, which is read while that thread waits.

The twin of ``inbox`` and ``waiting``, with the same methods. Nothing reads in the background for a thread. A thread may
be interrupted anywhere: by a signal handler that also waits, and by a finalizer that drops a handle.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Self
from weakref import WeakSet, WeakValueDictionary

from durasleep.client import requests
from durasleep.client.inbox import FAILED_S, READ_MAX, changes_in, statuses_in
from durasleep.client.requests import status_of_created
from durasleep.errors import ClientClosed, DurasleepError, StoreError, StoreUnavailable, WaitTimeout
from durasleep.model import Duration, PromiseId, owner_of, seconds_of
from durasleep.protocol import command, journal, streams, view
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.promises import Created
from durasleep.protocol.streams import instant_of
from durasleep.protocol.view import RawView
from durasleep.query import status
from durasleep.query.status import PromiseStatus
from durasleep.runtime.waits import Waiting, inside
from durasleep.settings import Settings
from durasleep.transport.batching import RETRY_FIRST_S
from durasleep.transport.connection import SyncLink
from durasleep.transport.local import PerThread
from durasleep.transport.reply_errors import is_of_moving_slot, refusal
from durasleep.transport.sync_store import SyncStore

_READ_MARGIN_S = 2.0  # the connection of a blocking read is closed this long after the read should have ended
CheckWait = Callable[[PromiseId, float | None], float | None]

POLL_S = 1.0  # a promise that notifies no inbox is read this often
CROWDED_S = 5.0  # what an execution publishes is read this often, if no inbox can be notified


class Subscription:
    """The ending of one promise, once the inbox was notified of it. Without an ending, the promise is asked again."""

    __slots__ = ("__weakref__", "ending", "id", "is_missed", "is_notified", "stream")

    def __init__(self, stream: InboxStream, id: PromiseId) -> None:
        self.stream = stream
        """What notifies it, in the thread of its inbox."""
        self.id = id
        self.ending: PromiseStatus | None = None
        self.is_notified = False
        self.is_missed = False
        """The end is unknown because the inbox may have missed it."""

    def notify(self, ending: PromiseStatus | None) -> None:
        """Notify of the end; None if it is not known."""
        self.ending = ending
        self.is_notified = True

    def on_created(self, answer: Created) -> None:
        """Take the answer to attaching: the promise may have ended already."""
        ending = status_of_created(self.id, answer)
        if ending.is_final:
            self.stream.notify(self.id, ending)
            self.notify(ending)  # a signal handler may have taken it out of the inbox

    def forget(self) -> None:
        """Nobody waits for it any more. There is nothing to do: the inbox holds only weak references to it."""


class Inbox:
    """The inbox of one thread. It has a stream in each partition in which the thread has waited."""

    urgent = nullcontext()  # a thread that reads waits for what comes

    def __init__(self, keys_of: Callable[[str], Keyspace], check_s: float) -> None:
        self.name = requests.IdSource().inbox
        self.waits = 0
        """How many waits there are in this thread: its own, and those of its signal handlers."""
        self._keys_of = keys_of
        self._check_s = check_s
        self._streams: dict[Keyspace, InboxStream] = {}

    def __enter__(self) -> Self:
        self.waits += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.waits -= 1

    def stream(self, id: str) -> InboxStream:
        """The stream that notifies of this promise."""
        keys = self._keys_of(id)
        stream = self._streams.get(keys)
        if stream is None:  # a signal handler may make it at the same time: the first one counts
            stream = self._streams.setdefault(keys, InboxStream(self, keys, self._check_s))
        return stream

    def streams(self, partitions: int) -> list[InboxStream | None]:
        """A thread that starts something does not read: no stream is listening."""
        return [None] * partitions

    def listen(self, _ids: Iterable[str]) -> None:
        """As above: there is nothing to do."""

    def all(self) -> list[InboxStream]:
        """Its streams so far."""
        return list(self._streams.values())


class InboxStream:
    """The inbox of one thread in one partition: the stream by which the scripts notify it of settlements.

    It is read entry by entry. If entries may have been missed, all awaited promises are asked again, and reading
    continues behind the last entry.
    """

    is_listening = False  # a thread that starts something does not read

    def __init__(self, inbox: Inbox, keys: Keyspace, check_s: float) -> None:
        self.inbox = inbox
        self.name = inbox.name
        self.keys = keys
        self.is_open = False
        """Whether this inbox exists on the server, or has existed."""
        self.last: bytes | None = None
        """The entry that was read last; None before the first read, and after ``lose``."""
        self._check_s = check_s
        self._check_at = 0.0
        self._subscriptions: WeakValueDictionary[str, Subscription] = WeakValueDictionary()
        self._watches: WeakSet[Watching] = WeakSet()

    def subscribe(self, id: PromiseId) -> Subscription:
        """Subscribe to the end of a promise."""
        self.check()
        subscription = self._subscriptions.get(id)
        if subscription is None:
            subscription = self._subscriptions[id] = Subscription(self, id)
        return subscription

    def check(self) -> None:
        """Now and then have all promises asked again, because notifications are hints."""
        if self.last is not None and (not self.is_open or time.monotonic() >= self._check_at):
            self.lose()

    def begin(self, last: bytes) -> None:
        """Read on behind ``last``, the last entry before the promises just attached; what was read stays read."""
        if self.last is not None and instant_of(last) < instant_of(self.last):
            self.lose()  # it is not the stream that was read
        if self.last is None:
            self.last = last
            self._check_at = time.monotonic() + self._check_s

    def lose(self) -> None:
        """Notify all without an end, because something may have been missed: then each promise is asked again."""
        self.last = None
        for subscription in list(self._subscriptions.values()):
            subscription.is_missed = True
            self.notify(subscription.id, None)
        for watching in list(self._watches):
            watching.is_changed = True

    def watch(self, watching: Watching) -> None:
        """Note it in ``watching`` whenever what its execution publishes has changed."""
        self._watches.add(watching)

    def unwatch(self, watching: Watching) -> bool:
        """Do not note it any more; returns whether that was the last one for its execution."""
        self._watches.discard(watching)
        return not any(other.id == watching.id for other in list(self._watches))

    def note_change(self, id: str) -> None:
        """What an execution publishes has changed."""
        for watching in list(self._watches):
            if watching.id == id:
                watching.is_changed = True

    def notify(self, id: str, ending: PromiseStatus | None) -> None:
        """Notify the waiters of a promise of its end; None if the promise has to be asked."""
        subscription = self._subscriptions.pop(id, None)
        if subscription is not None:
            subscription.notify(ending)


class Waiter:
    """The connections of one client. It waits for the ends of promises."""

    def __init__(self, store: Callable[[], SyncStore], settings: Settings) -> None:
        self.store = store()
        self.inboxes = PerThread(lambda: Inbox(self.store.keys, settings.client_check_s))
        self.block_s = settings.read_block_s
        """How long a read waits at most."""
        self._readers: dict[Keyspace, SyncLink] = {}
        self._closed = threading.Event()
        """The event of all current waits. It is set when the client is closed; later waits have a new one."""
        self.check_wait: CheckWait | None = None
        """For tests: it looks now and then at each wait outside of tasks and steps, and may end it."""

    @property
    def inbox(self) -> Inbox:
        """The inbox of this thread."""
        return self.inboxes.here()

    def opened(self) -> SyncStore:
        """The store, connected and checked."""
        self.store.open()
        return self.store

    def open_check(self) -> Callable[[], None]:
        """What raises ClientClosed if the client was closed after this: to ask it again would connect again."""
        return partial(_check_open, self._closed)

    def close(self) -> None:
        """Close all connections; the waits of all threads raise ClientClosed."""
        closed, self._closed = self._closed, threading.Event()
        closed.set()
        farewell: list[command.Call] = []
        for inbox in self.inboxes.all():
            for stream in inbox.all():
                if inbox.waits:
                    farewell += streams.wake_inbox(stream.keys, inbox.name)
                elif stream.is_open:
                    farewell.append(streams.drop_inbox(stream.keys, inbox.name))
                stream.is_open = False
        if farewell:
            with suppress(StoreError):
                self.store.call_once(farewell)
        for reader in tuple(self._readers.values()):
            reader.close()
        self.store.close()

    def attach(self, subscriptions: Sequence[Subscription]) -> None:
        """Have the inbox notified of several endings; those that have settled already are known afterwards."""
        of_stream: dict[InboxStream, list[Subscription]] = {}
        for one in subscriptions:
            of_stream.setdefault(one.stream, []).append(one)
        for stream, some in of_stream.items():
            for part in requests.in_parts(some):
                answers = self._attach(stream, [one.id for one in part])
                for one, answer in zip(part, answers, strict=True):
                    if isinstance(answer, Created):
                        one.on_created(answer)
                    else:
                        stream.notify(one.id, None)

    def status(self, id: PromiseId) -> PromiseStatus:
        """The status of a promise; NotFound if there is none."""
        store = self.opened()
        return store.run(status.read(store.keys(id), id))

    def ending(
        self, id: PromiseId, timeout: Duration | None = None, subscription: Subscription | None = None
    ) -> PromiseStatus:
        """Block until a promise has settled; WaitTimeout after ``timeout``, and the promise goes on.

        ``subscription`` is that of an inbox to this promise.
        """
        patience = _Patience(id, timeout)
        with Waiting(id), self.inbox as inbox:
            patience.closed = self._closed  # first of all, so that a close from now on ends this wait
            store = self.opened()
            keys = store.keys(id)
            if owner_of(id) is not None and store.call(journal.read_record(keys, id, outline=True)) is None:
                return self._poll(patience)
            stream = inbox.stream(id)
            is_ours = subscription is not None and subscription.stream is stream
            return self._settled(patience, stream, {id: subscription if is_ours else None})

    def first(
        self, ids: Sequence[PromiseId], timeout: Duration, _subscriptions: Sequence[Subscription]
    ) -> PromiseStatus:
        """The end of the first of these that settles; they are in one partition. WaitTimeout after ``timeout``.

        A task or step waits for the first of them: the others only end that wait.
        """
        patience = _Patience(ids[0], timeout)
        with Waiting(ids[0]), self.inbox as inbox:
            patience.closed = self._closed
            self.opened()
            return self._settled(patience, inbox.stream(ids[0]), dict.fromkeys(ids))

    def watching(self, id: PromiseId, timeout: Duration | None, *, by_inbox: bool) -> Watching:
        """A watch of what an execution publishes; see ``Watching``."""
        patience = _Patience(id, timeout)
        patience.closed = self._closed
        return Watching(self, patience, by_inbox=by_inbox)

    def read_view(self, watching: Watching, stream: InboxStream) -> RawView:
        """What an execution publishes, and from now on the inbox is notified of the next change."""
        stream.is_open = True
        last, found = self.opened().run(requests.view_from(stream.keys, watching.id, stream.name))
        stream.begin(last)
        return found

    def await_change(self, watching: Watching, stream: InboxStream, patience: _Patience) -> None:
        """Block until what an execution publishes may have changed."""
        with self.inbox as inbox:
            while not watching.is_changed and inbox is stream.inbox:  # another thread reads again by its own inbox
                if not self._read(stream, patience.left_s(self.block_s), patience.closed):
                    stream.lose()

    def stop_watching(self, id: PromiseId, stream: InboxStream) -> None:
        """Tell the server that nobody here watches any more."""
        if stream.is_open:
            with suppress(StoreError):
                self.store.call_once([view.unwatch(stream.keys, id, stream.name)])

    def _poll(self, patience: _Patience) -> PromiseStatus:
        """Wait for the end of an entry of a journal, which notifies no inbox."""
        while True:
            patience.check_open()
            ending = self.status(patience.id)
            if ending.is_final:
                return ending
            patience.closed.wait(patience.left_s(POLL_S))

    def _settled(
        self, patience: _Patience, stream: InboxStream, awaited: dict[PromiseId, Subscription | None]
    ) -> PromiseStatus:
        """The end of the first of these that settles; None stands for a subscription that is to be made."""
        since: float | None = None
        while True:
            stream.check()
            unknown = [id for id, one in awaited.items() if one is None or (one.is_notified and one.ending is None)]
            if unknown:
                patience.check_open()
                subscriptions = [stream.subscribe(id) for id in unknown]
                awaited.update(zip(unknown, subscriptions, strict=True))
                for one, answer in zip(subscriptions, self._attach(stream, unknown), strict=True):
                    one.on_created(command.unwrap(answer))
            for one in awaited.values():
                if one is not None and one.ending is not None:
                    return one.ending
            if self.check_wait is not None and inside() is None:
                since = self.check_wait(patience.id, since)
            try:
                block_s = patience.left_s(self.block_s)
            except WaitTimeout:
                for id in awaited:
                    stream.notify(id, None)
                with suppress(StoreError):
                    self.store.call_once([streams.unwait(stream.keys, id, stream.name) for id in awaited])
                raise
            if not self._read(stream, block_s, patience.closed):
                stream.lose()

    def _attach(self, stream: InboxStream, ids: Sequence[PromiseId]) -> list[Created | DurasleepError]:
        """The status of some promises, and from now on the inbox is notified of them. This also keeps it alive."""
        store = self.opened()
        stream.is_open = True
        last, answers = store.run(requests.attach_from(stream.keys, ids, stream.name))
        stream.begin(last)
        return answers

    def _read(self, stream: InboxStream, block_s: float, closed: threading.Event) -> bool:
        """Read the inbox, waiting so long at most; true if there were entries and none can have been missed before."""
        key, last = stream.keys.inbox(stream.name).encode(), stream.last
        if last is None:  # a signal handler has waited, or raised, in between
            return False
        read = streams.read_after({key: last}, count=READ_MAX, block_s=block_s)
        try:
            [found] = self._reader(stream.keys).exchange([read.args])
        except StoreUnavailable as error:
            found = error
        if isinstance(found, Exception):
            is_moving = is_of_moving_slot(refusal(found) or found)
            closed.wait(min(block_s, RETRY_FIRST_S if is_moving else FAILED_S))
            return False
        rows = [row for _, rows in read.parse(found) for row in rows]
        for entry, fields in rows:
            stream.last = entry
            for id, ending in statuses_in(fields):
                stream.notify(id, ending)
            for id in changes_in(fields):
                stream.note_change(id)
        return bool(rows) and not (len(rows) == READ_MAX and self._is_cut(stream.keys, key, last))

    def _reader(self, keys: Keyspace) -> SyncLink:
        reader = self._readers.get(keys)
        if reader is None:  # two threads may make it at the same time: the first one counts
            reader = self._readers.setdefault(keys, self.store.link(keys, self.block_s + _READ_MARGIN_S))
        return reader

    def _is_cut(self, keys: Keyspace, key: bytes, last: bytes) -> bool:
        """Whether the cap of the stream may have cut entries behind ``last`` before this slow reader read them."""
        read = streams.read_first(key)
        try:
            [reply] = self._reader(keys).exchange([read.args])
        except StoreUnavailable:
            return True
        if isinstance(reply, Exception):
            return True
        first = read.parse(reply)
        return first is not None and instant_of(first) > instant_of(last)


def check_waits(client: object, check: CheckWait, every_s: float) -> None:
    """For tests: ``check`` each wait of a client ``every_s``; it gets the id and what it has returned last time."""
    waiter: Waiter = client._waiter  # type: ignore[attr-defined]
    waiter.check_wait, waiter.block_s = check, every_s


def _check_open(closed: threading.Event) -> None:
    if closed.is_set():
        raise ClientClosed(requests.CLOSED)


class _Patience:
    """How long one wait may take."""

    closed: threading.Event
    """Set once the client is closed."""

    def __init__(self, id: PromiseId, timeout: Duration | None) -> None:
        self.id = id
        self._limit_s = None if timeout is None else seconds_of(timeout)
        self._give_up_at = None if self._limit_s is None else time.monotonic() + self._limit_s

    def check_open(self) -> None:
        """ClientClosed if the client was closed meanwhile."""
        _check_open(self.closed)

    def left_s(self, most_s: float) -> float:
        """The time left, at most ``most_s``; ClientClosed or WaitTimeout if the wait is over."""
        self.check_open()
        if self._give_up_at is None:
            return most_s
        left_s = self._give_up_at - time.monotonic()
        if left_s <= 0:
            raise WaitTimeout(f"{self.id} has not settled within {self._limit_s:g} s; it goes on")
        return min(left_s, most_s)


class Watching:
    """Reads what an execution publishes, and waits for the next change, in turn; ``stop`` it at its end.

    The inbox is notified once after each read. As that is only a hint, the wait ends now and then without a change.
    """

    def __init__(self, waiter: Waiter, patience: _Patience, *, by_inbox: bool) -> None:
        """Without ``by_inbox`` the inbox is not to be notified."""
        self.id = patience.id
        self.is_changed = False
        """Whether it may have changed since it was read."""
        self._waiter = waiter
        self._patience = patience
        self._by_inbox = by_inbox
        self._is_watched = False
        self._stream: InboxStream | None = None

    def read(self) -> RawView:
        """What it publishes now; NotFound if there is no such execution."""
        self._patience.check_open()
        store = self._waiter.opened()
        if not self._by_inbox:
            return store.call(view.read_view(store.keys(self.id), self.id))
        stream = self._stream = self._waiter.inbox.stream(self.id)
        stream.check()
        stream.watch(self)
        self.is_changed = False
        self._is_watched = True  # if the answer is lost
        found = self._waiter.read_view(self, stream)
        self._is_watched = found.is_watched
        return found

    def changed(self) -> None:
        """Block until it may have changed; WaitTimeout when the time for the whole watch is over."""
        if self._is_watched and self._stream is not None:
            self._waiter.await_change(self, self._stream, self._patience)
        else:
            self._patience.closed.wait(self._patience.left_s(CROWDED_S))
        self._patience.check_open()

    def stop(self) -> None:
        """Nobody watches any more."""
        if self._stream is not None and self._stream.unwatch(self) and self._is_watched:
            self._waiter.stop_watching(self.id, self._stream)
