"""Waiting of the async client: a store and an inbox in each event loop. ``sync_waiting`` is its twin for threads.

Both are written by hand and have the same methods, so that everything built on them can be written once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from durasleep.client import requests
from durasleep.client.inbox import Inbox, InboxStream, Subscription, on_answers
from durasleep.errors import ClientClosed, DurasleepError, WaitTimeout
from durasleep.model import Duration, PromiseId, owner_of, seconds_of
from durasleep.protocol import journal, promises, streams, view
from durasleep.protocol.view import RawView
from durasleep.query import status
from durasleep.query.status import PromiseStatus
from durasleep.runtime.waits import Waiting, inside
from durasleep.settings import Settings
from durasleep.transport.local import PerLoop
from durasleep.transport.store import Store

WaitWrapper = Callable[[PromiseId, Coroutine[Any, Any, PromiseStatus]], Coroutine[Any, Any, PromiseStatus]]

POLL_S = 1.0  # a promise that notifies no inbox is read this often
CROWDED_S = 5.0  # what an execution publishes is read this often, if no inbox can be notified
_LAST_LOOK_S = 1.0
_FAREWELL_S = 1.0  # in which a client that closes removes its inbox


def _ignore(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()


class _Connected:
    """The store and the inbox of a client in one event loop."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.inbox = Inbox(store, requests.IdSource().inbox, settings)

    async def close(self) -> None:
        error = ClientClosed(requests.CLOSED)
        await self.inbox.close(error)
        if self.store.connected:
            with suppress(DurasleepError, TimeoutError):
                async with asyncio.timeout(_FAREWELL_S):
                    await self.inbox.drop()
        await self.store.aclose(error)


class Waiter:
    """The connections of one client. It waits for the ends of promises."""

    def __init__(self, store: Callable[[], Store], settings: Settings) -> None:
        self._of_loop = PerLoop(lambda: _Connected(store().second_connection(), settings), _Connected.close)
        self._check_s = settings.client_check_s
        self.wrap_wait: WaitWrapper | None = None
        """For tests: it wraps each wait outside of tasks and steps, and may end it."""

    @property
    def store(self) -> Store:
        """The store of this event loop, which may not be open yet."""
        return self._of_loop.here().store

    @property
    def inbox(self) -> Inbox:
        """The inbox of this event loop."""
        return self._of_loop.here().inbox

    async def opened(self) -> Store:
        """The store of this event loop, connected and checked."""
        store = self._of_loop.here().store
        if not store.is_checked:
            await store.open()
        return store

    def open_check(self) -> Callable[[], None]:
        """What raises ClientClosed if the client was closed after this: to ask it again would connect again."""
        return self.inbox.check_open

    def watching(self, id: PromiseId, timeout: Duration | None, *, by_inbox: bool) -> Watching:
        """A watch of what an execution publishes; see ``Watching``."""
        return Watching(self._of_loop.here(), id, timeout, by_inbox, self._check_s)

    async def aclose(self) -> None:
        """Close the connections of this event loop; its waits raise ClientClosed."""
        await self._of_loop.close()

    async def attach(self, subscriptions: Sequence[Subscription]) -> None:
        """Have the inbox notified of several endings, without waiting for the server's answer."""
        here = self._of_loop.here()
        for stream in {one.stream for one in subscriptions}:
            await stream.opened()
        for part in requests.in_parts(subscriptions):
            made = [promises.attach(here.store.keys(one.id), one.id, inbox=here.inbox.name) for one in part]
            here.store.ask(made).add_done_callback(partial(on_answers, part))

    async def status(self, id: PromiseId) -> PromiseStatus:
        """The status of a promise; NotFound if there is none."""
        store = await self.opened()
        return await store.run(status.read(store.keys(id), id))

    def ending(
        self, id: PromiseId, timeout: Duration | None = None, subscription: Subscription | None = None
    ) -> Coroutine[Any, Any, PromiseStatus]:
        """A coroutine that waits until a promise has settled; WaitTimeout after ``timeout``, and the promise goes on.

        ``subscription`` is that of the inbox to this promise. Mostly the caller awaits the coroutine of the wait
        directly, with no other one between.
        """
        if timeout is not None:
            return self._ending_within(id, timeout, subscription)
        if inside() is not None:
            return self._settle_inside(id, subscription)
        hearing = self._settled(id, subscription)
        return hearing if self.wrap_wait is None else self.wrap_wait(id, hearing)

    async def first(
        self, ids: Sequence[PromiseId], timeout: Duration, subscriptions: Sequence[Subscription]
    ) -> PromiseStatus:
        """The end of the first of these that settles; they are in one partition. WaitTimeout after ``timeout``.

        ``subscriptions`` are those to all of them, or none. A task or step waits for the first of them: the others only
        end that wait.
        """
        known = dict(zip(ids, subscriptions, strict=False))
        awaited, *others = ids
        waits = [asyncio.ensure_future(self.ending(awaited, timeout, known.get(awaited)))]
        waits += [asyncio.ensure_future(self._settled(id, known.get(id))) for id in others]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return next(one for one in waits if one.done()).result()
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _ending_within(
        self, id: PromiseId, timeout: Duration, subscription: Subscription | None
    ) -> PromiseStatus:
        limit_s = seconds_of(timeout)
        try:
            async with asyncio.timeout(limit_s):
                return await self.ending(id, None, subscription)
        except TimeoutError:
            ending = await self._last_status(id)
            if ending is None or not ending.is_final:
                raise WaitTimeout(f"{id} has not settled within {limit_s:g} s; it goes on") from None
            return ending

    async def _last_status(self, id: PromiseId) -> PromiseStatus | None:
        """The status of a promise when the time to wait for it is over. So a wait of no time reads it once.

        None if Redis does not answer soon.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_LOOK_S):
                return await self.status(id)
        return None

    async def _settle_inside(self, id: PromiseId, subscription: Subscription | None) -> PromiseStatus:
        with Waiting(id):
            return await self._settled(id, subscription)

    async def _settled(self, id: PromiseId, subscription: Subscription | None) -> PromiseStatus:
        here = self._of_loop.here()
        store, inbox = here.store, here.inbox
        if not store.is_checked:
            await store.open()
        stream = inbox.stream(id)
        if subscription is not None and subscription.stream is not stream:
            subscription = None  # it belongs to another event loop
        while True:
            if subscription is None:
                if not store.is_checked:
                    await store.open()
                subscription = stream.subscribe(id)
                ending = await self._attach(store, id, subscription)
                if ending is None or ending.is_final:
                    subscription.forget()
                    return ending or await self._poll(inbox, id)
            try:
                status = await subscription.future
            except BaseException:
                subscription.forget()
                self._stop_waiting(store, stream, id)
                raise
            subscription.forget()
            if status is not None:
                return status
            subscription = None  # something may have been missed

    def _stop_waiting(self, store: Store, stream: InboxStream, id: PromiseId) -> None:
        """Tell the server that nobody here waits for it any more: a hint, whose answer is not awaited."""
        if store.connected and not stream.is_subscribed(id):
            store.send(streams.unwait(store.keys(id), id, stream.inbox.name)).add_done_callback(_ignore)

    async def _attach(self, store: Store, id: PromiseId, subscription: Subscription) -> PromiseStatus | None:
        """Its status; our inbox is notified from now on. None for an entry of a journal, which notifies no inbox."""
        try:
            await subscription.stream.opened()
            if (
                owner_of(id) is not None
                and await store.call(journal.read_record(store.keys(id), id, outline=True)) is None
            ):
                return None
            created = await store.call(promises.attach(store.keys(id), id, inbox=subscription.stream.inbox.name))
        except BaseException:
            subscription.forget()
            self._stop_waiting(store, subscription.stream, id)
            raise
        return requests.status_of_created(id, created)

    async def _poll(self, inbox: Inbox, id: PromiseId) -> PromiseStatus:
        """How an entry of a journal ends, which tells no inbox."""
        while True:
            inbox.check_open()  # to look again would connect again
            ending = await self.status(id)
            if ending.is_final:
                return ending
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await inbox.closed.wait()


class Watching:
    """Reads what an execution publishes, and waits for the next change, in turn; ``stop`` it at its end.

    The inbox is notified once after each read. As that is only a hint, the wait ends now and then without a change.
    """

    def __init__(
        self, here: _Connected, id: PromiseId, timeout: Duration | None, by_inbox: bool, check_s: float
    ) -> None:
        """Without ``by_inbox`` the inbox is not to be notified."""
        self._here = here
        self._id = id
        self._limit_s = None if timeout is None else seconds_of(timeout)
        self._give_up_at = None if self._limit_s is None else time.monotonic() + self._limit_s
        self._by_inbox = by_inbox
        self._check_s = check_s
        self._is_watched = False
        self._stream: InboxStream | None = None
        self._changed = asyncio.Event()

    async def read(self) -> RawView:
        """What it publishes now; NotFound if there is no such execution."""
        store, inbox = self._here.store, self._here.inbox
        if not self._by_inbox:
            return await store.call(view.read_view(store.keys(self._id), self._id))
        if self._stream is None:
            self._stream = inbox.stream(self._id)
        self._stream.watch(self._id, self._changed)
        await self._stream.opened()
        self._changed.clear()
        self._is_watched = True  # if the answer is lost
        found = await store.call(view.read_view(store.keys(self._id), self._id, inbox=inbox.name))
        self._is_watched = found.is_watched
        return found

    async def changed(self) -> None:
        """Wait until it may have changed; WaitTimeout when the time for the whole watch is over."""
        pause_s = self._check_s if self._is_watched else min(CROWDED_S, self._check_s)
        left_s = pause_s if self._give_up_at is None else min(pause_s, self._give_up_at - time.monotonic())
        with suppress(TimeoutError):
            async with asyncio.timeout(left_s):
                await self._changed.wait()
        self._here.inbox.check_open()
        if not self._changed.is_set() and self._give_up_at is not None and time.monotonic() >= self._give_up_at:
            raise WaitTimeout(f"{self._id} has not settled within {self._limit_s:g} s; it goes on")

    def stop(self) -> None:
        """Nobody watches any more: the server hears of it, and its answer is not awaited."""
        stream, store = self._stream, self._here.store
        if stream is not None and stream.unwatch(self._id, self._changed) and self._is_watched and store.connected:
            unwatch = view.unwatch(store.keys(self._id), self._id, stream.inbox.name)
            store.send(unwatch).add_done_callback(_ignore)
