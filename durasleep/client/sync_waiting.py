"""What the sync client waits with: an inbox in each thread, which is read while that thread waits.

The twin of ``inbox`` and ``waiting``, with the same methods. A thread has nobody who reads in the background, and may
be interrupted anywhere: by a signal handler that waits, too, and by a finalizer that drops a handle.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from typing import Self
from weakref import WeakValueDictionary

from durasleep.client import requests
from durasleep.client.inbox import READ_MAX, statuses_in
from durasleep.client.requests import status_of_created
from durasleep.errors import ClientClosed, DurasleepError, StoreError, StoreUnavailable, WaitTimeout
from durasleep.model import Duration, PromiseId, owner_of, seconds_of
from durasleep.protocol import command, journal, streams
from durasleep.protocol.promises import Created
from durasleep.protocol.streams import instant_of
from durasleep.query import status
from durasleep.query.status import PromiseStatus
from durasleep.runtime.waits import Waiting
from durasleep.settings import Settings
from durasleep.transport.connection import SyncLink
from durasleep.transport.local import PerThread
from durasleep.transport.sync_store import SyncStore

_READ_MARGIN_S = 2.0  # a blocking read's connection is given up this long after the read should have ended
POLL_S = 1.0  # what tells no inbox is looked at this often


class Subscription:
    """The ending of one promise, once the inbox has told it; what is told without an ending is to be asked again."""

    __slots__ = ("__weakref__", "ending", "id", "inbox", "is_missed", "is_notified")

    def __init__(self, inbox: Inbox, id: PromiseId) -> None:
        self.inbox = inbox
        """Who tells it, in the thread of that one."""
        self.id = id
        self.ending: PromiseStatus | None = None
        self.is_notified = False
        self.is_missed = False
        """It was not told because the inbox may have missed it."""

    def notify(self, ending: PromiseStatus | None) -> None:
        """How it has ended; None if that is not known."""
        self.ending = ending
        self.is_notified = True

    def on_created(self, answer: Created) -> None:
        """What attaching has answered: it may have ended already."""
        ending = status_of_created(self.id, answer)
        if ending.is_final:
            self.inbox.notify(self.id, ending)
            self.notify(ending)  # a signal handler may have taken it out of the inbox

    def forget(self) -> None:
        """Nobody waits for it any more: an inbox keeps only what somebody holds, so there is nothing to do."""


class Inbox:
    """The inbox of one thread: the stream by which the scripts notify it of settlements.

    It is read entry by entry. If entries may have been missed, all awaited promises are asked again, and reading
    continues behind the last entry.
    """

    is_listening = False  # a thread that starts something does not read
    hurry = nullcontext()  # and when it reads, it waits for what comes

    def __init__(self, check_s: float) -> None:
        self.name = requests.IdSource().inbox
        self.is_open = False
        """Whether there is such an inbox, or has been."""
        self.waits = 0
        """How many wait in this thread: one, and those of its signal handlers."""
        self.last: bytes | None = None
        """Its entry that was read last; None before it is first read, and once it is lost."""
        self._check_s = check_s
        self._check_at = 0.0
        self._subscriptions: WeakValueDictionary[str, Subscription] = WeakValueDictionary()

    def __enter__(self) -> Self:
        self.waits += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.waits -= 1

    def subscribe(self, id: PromiseId) -> Subscription:
        """What will be told of a promise."""
        self.check()
        subscription = self._subscriptions.get(id)
        if subscription is None:
            subscription = self._subscriptions[id] = Subscription(self, id)
        return subscription

    def subscribe_all(self, ids: Iterable[PromiseId]) -> list[Subscription]:
        """What will be told of some promises, in their order."""
        return [self.subscribe(id) for id in ids]

    def check(self) -> None:
        """Now and then it is asked how everything stands: what an inbox is told are hints."""
        if self.last is not None and (not self.is_open or time.monotonic() >= self._check_at):
            self.lose()

    def begin(self, last: bytes) -> None:
        """What was just attached is told behind ``last``, the last entry there is by now; what was read stays read."""
        if self.last is not None and instant_of(last) < instant_of(self.last):
            self.lose()  # it is not the stream that was read
        if self.last is None:
            self.last = last
            self._check_at = time.monotonic() + self._check_s

    def lose(self) -> None:
        """Something may have been missed."""
        self.last = None
        for subscription in list(self._subscriptions.values()):
            subscription.is_missed = True
            self.notify(subscription.id, None)

    def notify(self, id: str, ending: PromiseStatus | None) -> None:
        """How a promise has ended, to whoever waits for that; None if it is to be asked."""
        subscription = self._subscriptions.pop(id, None)
        if subscription is not None:
            subscription.notify(ending)


class Waiter:
    """The connections of one client, and how it hears of the ends of promises."""

    def __init__(self, store: Callable[[], SyncStore], settings: Settings) -> None:
        self.store = store()
        self.inboxes = PerThread(lambda: Inbox(settings.client_check_s))
        self._block_s = settings.read_block_s
        self._reader: SyncLink = self.store.link(settings.read_block_s + _READ_MARGIN_S)
        self._closed = threading.Event()
        """Of those who wait now: set when the client is closed, and then another one's turn."""

    @property
    def inbox(self) -> Inbox:
        """Where this thread hears of results."""
        return self.inboxes.here()

    def opened(self) -> SyncStore:
        """The store, connected and checked."""
        self.store.open()
        return self.store

    def close(self) -> None:
        """Let go of all connections; who waits in any thread hears ClientClosed."""
        closed, self._closed = self._closed, threading.Event()
        closed.set()
        keys = self.store.keys()
        farewell: list[command.Call] = []
        for inbox in self.inboxes.all():
            if inbox.waits:
                farewell += streams.wake_inbox(keys, inbox.name)
            elif inbox.is_open:
                farewell.append(streams.drop_inbox(keys, inbox.name))
            inbox.is_open = False
        if farewell:
            with suppress(StoreError):
                self.store.call_once(farewell)
        self._reader.close()
        self.store.close()

    def attach(self, subscriptions: Sequence[Subscription]) -> None:
        """Have the inbox told of several endings; what has ended already is known then."""
        inbox = self.inbox
        for part in requests.in_parts(subscriptions):
            answers = self._attach(inbox, [one.id for one in part])
            for one, answer in zip(part, answers, strict=True):
                if isinstance(answer, Created):
                    one.on_created(answer)
                else:
                    inbox.notify(one.id, None)

    def status(self, id: PromiseId) -> PromiseStatus:
        """How a promise stands; NotFound if there is none."""
        store = self.opened()
        return store.run(status.read(store.keys(id), id))

    def ending(
        self, id: PromiseId, timeout: Duration | None = None, subscription: Subscription | None = None
    ) -> PromiseStatus:
        """Block until a promise has settled; WaitTimeout after ``timeout``, and it goes on.

        ``subscription`` is how the inbox is notified of it.
        """
        patience = _Patience(id, timeout)
        with Waiting(id), self.inbox as inbox:
            patience.closed = self._closed  # before it is asked which close would end it
            store = self.opened()
            keys = store.keys(id)
            if owner_of(id) is not None and store.call(journal.read_record(keys, id, outline=True)) is None:
                return self._poll(patience)
            return self._settled(
                patience, inbox, None if subscription is None or subscription.inbox is not inbox else subscription
            )

    def _poll(self, patience: _Patience) -> PromiseStatus:
        """How an entry of a journal ends, which tells no inbox."""
        while True:
            patience.check_open()
            ending = self.status(patience.id)
            if ending.is_final:
                return ending
            patience.closed.wait(patience.left_s(POLL_S))

    def _settled(self, patience: _Patience, inbox: Inbox, subscription: Subscription | None) -> PromiseStatus:
        id = patience.id
        while True:
            inbox.check()
            if subscription is None or (subscription.is_notified and subscription.ending is None):
                patience.check_open()
                subscription = inbox.subscribe(id)
                [answer] = self._attach(inbox, [id])
                subscription.on_created(command.unwrap(answer))
            if subscription.ending is not None:
                return subscription.ending
            try:
                block_s = patience.left_s(self._block_s)
            except WaitTimeout:
                inbox.notify(id, None)
                with suppress(StoreError):
                    self.store.call_once([streams.unwait(self.store.keys(id), id, inbox.name)])
                raise
            if not self._read(inbox, block_s, patience.closed):
                inbox.lose()

    def _attach(self, inbox: Inbox, ids: Sequence[PromiseId]) -> list[Created | DurasleepError]:
        """How some promises stand, and the inbox will be told; this also keeps it alive."""
        store = self.opened()
        inbox.is_open = True
        last, answers = store.run(requests.attach_from(store.keys(), ids, inbox.name))
        inbox.begin(last)
        return answers

    def _read(self, inbox: Inbox, block_s: float, closed: threading.Event) -> bool:
        """Wait so long for what is told; whether anything was, and nothing can have been missed before it."""
        key, last = self.store.keys().inbox(inbox.name).encode(), inbox.last
        if last is None:  # a signal handler has waited, or raised, in between
            return False
        read = streams.read_after({key: last}, count=READ_MAX, block_s=block_s)
        try:
            [found] = self._reader.exchange([read.args])
        except StoreUnavailable as error:
            found = error
        if isinstance(found, Exception):
            closed.wait(min(block_s, 1.0))
            return False
        rows = [row for _, rows in read.parse(found) for row in rows]
        for entry, fields in rows:
            inbox.last = entry
            for id, ending in statuses_in(fields):
                inbox.notify(id, ending)
        return bool(rows) and not (len(rows) == READ_MAX and self._is_cut(key, last))

    def _is_cut(self, key: bytes, last: bytes) -> bool:
        """Whether a reader far behind may have missed, after the entry ``last``, what the cap of the stream has cut."""
        read = streams.read_first(key)
        try:
            [reply] = self._reader.exchange([read.args])
        except StoreUnavailable:
            return True
        if isinstance(reply, Exception):
            return True
        first = read.parse(reply)
        return first is not None and instant_of(first) > instant_of(last)


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
        if self.closed.is_set():
            raise ClientClosed(requests.CLOSED)

    def left_s(self, most_s: float) -> float:
        """How long it may go on, at most so long; ClientClosed or WaitTimeout if it may not."""
        self.check_open()
        if self._give_up_at is None:
            return most_s
        left_s = self._give_up_at - time.monotonic()
        if left_s <= 0:
            raise WaitTimeout(f"{self.id} has not settled within {self._limit_s:g} s; it goes on")
        return min(left_s, most_s)
