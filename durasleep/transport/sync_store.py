"""The store: one namespace in one Redis, as calls that answer records. Async, and sync around the same commands."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

from durasleep.errors import (
    NotReplicated,
    StoreError,
    StoreUnavailable,
    UnsupportedServer,
    UsageError,
)
from durasleep.model import PromiseId
from durasleep.protocol import command, journal
from durasleep.protocol.command import Call, Command, Item, Plan
from durasleep.protocol.journal import Loaded
from durasleep.protocol.keys import Keyspace
from durasleep.settings import DEFAULTS, Settings
from durasleep.transport import batcher, handshake
from durasleep.transport.batcher import Batcher
from durasleep.transport.connection import Connector, Link, Reply, SyncLink, refusal
from durasleep.transport.outage import Outage
from durasleep.transport.portion import Portion
from durasleep.transport.server_clock import Clock

T = TypeVar("T")

SERVER_MIN = (6, 2)
CHECK_S = 60.0  # from one look at the schema of the namespace to the next: clients live long, and send no beats

_INFO = [b"INFO", b"server"]

logger = logging.getLogger("durasleep")


def _check_server(info: Any) -> None:
    """UnsupportedServer if this Redis is not for us; asked before anything is written."""
    if isinstance(info, bytes):  # fakeredis has no INFO, an ACL may forbid it: the scripts will tell
        match = re.search(rb"redis_version:(\d+)\.(\d+)", info)
        if match and (int(match[1]), int(match[2])) < SERVER_MIN:
            found = match[0].removeprefix(b"redis_version:").decode()
            raise UnsupportedServer(f"this server speaks Redis {found}; durasleep needs 6.2 or newer (or Valkey)")


def _check_confirms(replies: list[Any]) -> None:
    """UnsupportedServer if this one can never confirm what it is asked to, StoreUnavailable if it cannot now."""
    for reply in replies:
        if isinstance(reply, Exception):
            if "replica" in str(reply):
                raise StoreUnavailable(f"Redis cannot serve us now: {reply}")
            raise refusal(reply) or UnsupportedServer(f"this server cannot confirm writes as the settings ask: {reply}")


def _keyspace(namespace: str, settings: Settings) -> Keyspace:
    """The partition there is. What others write may be as large as the defaults allow, whatever our own limits are."""
    return Keyspace(
        namespace,
        0,
        settings.movable_clock,
        value_bytes_max=2 * max(settings.payload_bytes_max, DEFAULTS.payload_bytes_max),
        journal_bytes_max=2 * max(settings.journal_bytes_max, DEFAULTS.journal_bytes_max),
    )


def confirming(settings: Settings, min_replicas: int | None, fsync: bool | None) -> Settings:
    """Settings under which writes are confirmed so; what is None stays as it is. UsageError below 0."""
    if min_replicas is not None and min_replicas < 0:
        raise UsageError(f"min_replicas is {min_replicas}: 0 or more replicas can have it")
    return replace(
        settings,
        min_replicas=settings.min_replicas if min_replicas is None else min_replicas,
        fsync=settings.fsync if fsync is None else fsync,
    )


class Store:
    """One namespace, for asyncio. Every call may be repeated; see ``Batcher`` for what is gathered."""

    def __init__(
        self,
        connector: Connector,
        *,
        namespace: str,
        settings: Settings,
        name: str = "client",
        patience_s: float | None = None,
        outage: Outage | None = None,
    ) -> None:
        self.connector = connector
        self.namespace = namespace
        self.settings = settings
        self.name = f"durasleep/{namespace}/{name}"
        self.outage = outage or Outage()
        self._short_name = name
        self._patience_s = patience_s
        self._confirming: dict[Settings, Store] = {}
        self._link = self.link()
        self._batcher = Batcher(self._link, settings, patience_s, self.outage)
        self._check_at = 0.0
        """When the namespace is checked again, by the monotonic clock; 0 before the first time."""
        self._keys = _keyspace(namespace, settings)
        self.clock = Clock(settings.clock_ahead_max_s)

    def link(self, timeout_s: float | None = None) -> Link:
        """A connection of its own, for what blocks."""
        return Link(self.connector, self.name, timeout_s or self.settings.command_timeout_s)

    def beside(self, settings: Settings | None = None) -> Store:
        """The same, by the same clock, over a connection of its own: its calls and ours do not wait for one another."""
        other = Store(
            self.connector,
            namespace=self.namespace,
            settings=settings or self.settings,
            name=self._short_name,
            patience_s=self._patience_s,
            outage=self.outage,
        )
        other.clock = self.clock
        return other

    def confirming(self, min_replicas: int | None, fsync: bool | None) -> Store:
        """One whose writes count once so many replicas, or the disk, have them; None is as in the settings."""
        if min_replicas is None and fsync is None:  # nearly always: to compare all settings takes as long as a call
            return self
        settings = confirming(self.settings, min_replicas, fsync)
        if settings == self.settings:
            return self
        if settings not in self._confirming:
            self._confirming[settings] = self.beside(settings)
        return self._confirming[settings]

    @property
    def connected(self) -> bool:
        """Whether there is a connection by now, or one is being made; what it is worth shows when it is used."""
        return self._link.connected or self._batcher.is_asking

    def keys(self, _id: str = "") -> Keyspace:
        """The partition an id lives in: the only one there is so far."""
        return self._keys

    @property
    def is_checked(self) -> bool:
        """Whether server and schema have been looked at lately."""
        return time.monotonic() < self._check_at

    async def open(self, *, moves: bool = False) -> None:
        """Connect and check server and schema, which is done again now and then; StoreUnavailable at once if nobody
        answers. A worker ``moves`` a namespace from the schema before.
        """
        if self.is_checked:
            return
        if self._check_at:
            self._check_at = time.monotonic() + CHECK_S
            handshake.check(self.namespace, await self.call(handshake.read_meta(self.namespace)))
            return
        link = self.link()
        try:
            _check_server(*await link.exchange([_INFO]))
            greeting = handshake.greet(self._keys, moves=moves)
            with suppress(StopIteration):
                commands = next(greeting)
                while True:
                    commands = greeting.send(await link.exchange(commands))
            if confirmation := batcher.confirmation(self.settings):
                _check_confirms(await link.exchange(confirmation))
        finally:
            await link.close()
        self._check_at = time.monotonic() + CHECK_S

    async def call(self, call: Item[T] | Command[T]) -> T:
        """Run one command or batched item; DurasleepError as the script says, StoreUnavailable after the patience."""
        return await self._batcher.send(call)

    def send(self, call: Item[T] | Command[T]) -> asyncio.Future[T]:
        """The same as a future; what is sent in one turn of the loop travels together."""
        return self._batcher.send(call)

    async def run(self, plan: Plan[T]) -> T:
        """Carry out a plan of calls, those of each step in one round trip."""
        try:
            calls = next(plan)
            while True:
                calls = plan.send(await self._batcher.ask(calls))
        except StopIteration as end:
            return end.value

    def ask(self, calls: Sequence[Call]) -> asyncio.Future[list[Any]]:
        """The answers to several calls, in order; see ``Batcher.ask``."""
        return self._batcher.ask(calls)

    async def ask_once(self, calls: Sequence[Call]) -> list[Any]:
        """The answers to several calls over a connection of its own, none repeated, confirmed as the settings ask."""
        link = self.link()
        try:
            answers = await batcher.ask_once(link, calls, self.settings)
            if confirmation := batcher.confirmation(self.settings):
                batcher.check_confirmed(await link.exchange(confirmation), self.settings)
            return answers
        finally:
            await link.close()

    async def load(self, id: PromiseId) -> Loaded | None:
        """See ``journal.load``."""
        keys = self.keys(id)
        return await self.run(journal.load_rest(keys, id, await self.send(journal.read_page(keys, id))))

    async def load_news(self, id: PromiseId) -> Loaded | None:
        """A promise and only what has settled since its last commit; None if that cannot be told in one answer."""
        keys = self.keys(id)
        page = await self.send(journal.read_page(keys, id, news=True))
        return None if page.cursor else await self.run(journal.load_rest(keys, id, page))

    async def aclose(self, error: Exception | None = None) -> None:
        """Close; who still waits for an answer hears ``error``, or is cancelled without one."""
        for other in self._confirming.values():
            await other.aclose(error)
        await self._batcher.close(error)

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Store]:
        """Open, and close at the end."""
        try:
            await self.open()
            yield self
        finally:
            await self.aclose()


class SyncStore:
    """One namespace, for code without asyncio: for any thread and any forked child."""

    def __init__(
        self,
        connector: Connector,
        *,
        namespace: str,
        settings: Settings,
        name: str = "client",
        patience_s: float = 10.0,
    ) -> None:
        self.connector = connector
        self.namespace = namespace
        self.settings = settings
        self.name = f"durasleep/{namespace}/{name}"
        self._patience_s = patience_s
        self._link = self.link(settings.command_timeout_s)
        self._confirmation = batcher.confirmation(settings)
        self._keys = _keyspace(namespace, settings)
        self._check_at = 0.0
        """When the namespace is checked again, by the monotonic clock; 0 before the first time."""
        self._short_name = name
        self._confirming: dict[Settings, SyncStore] = {}

    def confirming(self, min_replicas: int | None, fsync: bool | None) -> SyncStore:
        """See ``Store.confirming``."""
        if min_replicas is None and fsync is None:  # nearly always: to compare all settings takes as long as a call
            return self
        settings = confirming(self.settings, min_replicas, fsync)
        if settings == self.settings:
            return self
        if settings not in self._confirming:
            self._confirming[settings] = SyncStore(
                self.connector,
                namespace=self.namespace,
                settings=settings,
                name=self._short_name,
                patience_s=self._patience_s,
            )
        return self._confirming[settings]

    def link(self, timeout_s: float) -> SyncLink:
        """A connection of its own, for what blocks."""
        return SyncLink(self.connector, self.name, timeout_s)

    def keys(self, _id: str = "") -> Keyspace:
        """See ``Store.keys``."""
        return self._keys

    def open(self) -> None:
        """See ``Store.open``."""
        if time.monotonic() < self._check_at:
            return
        if self._check_at:
            self._check_at = time.monotonic() + CHECK_S
            handshake.check(self.namespace, self.call(handshake.read_meta(self.namespace)))
            return
        _check_server(*self._link.exchange([_INFO]))
        greeting = handshake.greet(self._keys)
        with suppress(StopIteration):
            commands = next(greeting)
            while True:
                commands = greeting.send(self._link.exchange(commands))
        if self._confirmation:
            _check_confirms(self._link.exchange(self._confirmation))
        self._check_at = time.monotonic() + CHECK_S

    def call(self, call: Item[T] | Command[T]) -> T:
        """See ``Store.call``."""
        [answer] = self._answers([call])
        return command.value_of(answer)

    def call_once(self, calls: Sequence[Call]) -> None:
        """Hints, sent once: StoreUnavailable at once if they cannot be."""
        self._once(calls, list(range(len(calls))), [None] * len(calls))

    def run(self, plan: Plan[T]) -> T:
        """See ``Store.run``."""
        try:
            calls = next(plan)
            while True:
                calls = plan.send(self._answers(calls))
        except StopIteration as end:
            return end.value

    def load(self, id: PromiseId) -> Loaded | None:
        """See ``journal.load``."""
        return self.run(journal.load(self.keys(id), id))

    def _answers(self, calls: Sequence[Call]) -> list[Any]:
        give_up_at = time.monotonic() + self._patience_s
        delay_s = batcher.RETRY_FIRST_S
        answers: list[Any] = [None] * len(calls)
        left = list(range(len(calls)))
        portion = Portion(len(calls))
        while True:
            now, later = left[: portion.now], left[portion.now :]
            try:
                again, problem = self._once(calls, now, answers)
                left = again + later
                if not left:
                    return answers
                if problem is None:  # a part of them, and the patience is for each
                    portion.grow()
                    give_up_at, delay_s = time.monotonic() + self._patience_s, batcher.RETRY_FIRST_S
                    continue
            except NotReplicated as error:
                problem = error
            except StoreUnavailable as error:
                problem = error
                portion.halve(len(now))
            if time.monotonic() + delay_s > give_up_at:
                raise problem
            time.sleep(delay_s)
            delay_s = min(delay_s * 2, batcher.RETRY_MAX_S)

    def _once(self, calls: Sequence[Call], left: list[int], answers: list[Any]) -> tuple[list[int], StoreError | None]:
        """One exchange; answers the positions of what is left to repeat, and why."""
        talk = batcher.talk([calls[position] for position in left], self.settings)
        confirmed: list[Reply] = []  # by the last exchange, which speaks of those before it, too
        try:
            commands = next(talk)
            while True:
                replies = self._link.exchange([*commands, *self._confirmation])
                confirmed = replies[len(commands) :]
                commands = talk.send(replies[: len(commands)])
        except StopIteration as end:
            raws: list[Reply] = end.value
        batcher.check_confirmed(confirmed, self.settings)
        again: list[int] = []
        problem: StoreError | None = None
        for position, raw in zip(left, raws, strict=True):
            answer = batcher.answer_of(calls[position], raw)
            if answer is batcher.AGAIN:
                again.append(position)
            elif batcher.is_unserved(answer, waits_for_rights=False):
                problem = answer
                again.append(position)
            else:
                answers[position] = answer
        return again, problem

    def close(self) -> None:
        for other in self._confirming.values():
            other.close()
        self._link.close()
