"""The same store for code without asyncio, around the same commands."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from durasleep.errors import NotReplicated, StoreError, StoreUnavailable
from durasleep.model import PromiseId
from durasleep.protocol import command, journal, versions
from durasleep.protocol.command import BatchItem, Call, Command, Plan, Reply
from durasleep.protocol.journal import Loaded
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.settings import Settings
from durasleep.transport import batching, handshake
from durasleep.transport.connection import SyncLink
from durasleep.transport.connector import Connector
from durasleep.transport.partitions import Partitions
from durasleep.transport.portion import Portion
from durasleep.transport.store import (
    ASK_INFO,
    CHECK_S,
    T,
    check_confirms,
    check_found,
    check_partitions,
    check_server,
    confirming,
)


class SyncStore:
    """One namespace, for code without asyncio; any thread and any forked child may use it."""

    def __init__(
        self,
        connector: Connector,
        *,
        namespace: str,
        settings: Settings,
        name: str = "client",
        patience_s: float = 10.0,
        partitions: Partitions | None = None,
    ) -> None:
        self.connector = connector
        self.namespace = namespace
        self.settings = settings
        self.name = f"durasleep/{namespace}/{name}"
        self._patience_s = patience_s
        self._link = self.link(settings.command_timeout_s)
        self._confirmation = batching.confirmation(settings)
        self.partitions = partitions or Partitions(namespace, settings)
        self._check_at = 0.0
        """When the namespace is checked again, by the monotonic clock; 0 before the first time."""
        self._short_name = name
        self._confirming: dict[Settings, SyncStore] = {}

    def confirming(self, min_replicas: int | None, fsync: bool | None) -> SyncStore:
        """See ``Store.confirming``."""
        if min_replicas is None and fsync is None:  # nearly always: comparing all settings takes as long as a call
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
                partitions=self.partitions,
            )
        return self._confirming[settings]

    def link(self, timeout_s: float) -> SyncLink:
        """A connection of its own, for blocking commands."""
        return SyncLink(self.connector, self.name, timeout_s)

    def keys(self, id: str) -> Keyspace:
        """See ``Store.keys``."""
        return self.partitions.keyspaces.of(id)

    @property
    def keyspaces(self) -> Keyspaces:
        """See ``Store.keyspaces``."""
        return self.partitions.keyspaces

    def open(self, *, partitions: int = 1) -> None:
        """See ``Store.open``."""
        if time.monotonic() < self._check_at:
            return
        if self._check_at:
            self._check_at = time.monotonic() + CHECK_S
            handshake.check(self.namespace, self.call(versions.read_meta(self.namespace)), len(self.keyspaces))
            return
        check_server(*self._link.exchange([ASK_INFO]))
        greeting = handshake.greet(self.keyspaces[0], partitions=partitions)
        try:
            commands = next(greeting)
            while True:
                commands = greeting.send(self._link.exchange(commands))
        except StopIteration as end:
            self.partitions.set_count(end.value)
        if self._confirmation:
            check_confirms(self._link.exchange(self._confirmation))
        self._check_at = time.monotonic() + CHECK_S

    def init(self, partitions: int) -> None:
        """See ``Store.init``."""
        self.open(partitions=check_partitions(partitions))
        check_found(self.namespace, len(self.keyspaces), partitions)

    def call(self, call: BatchItem[T] | Command[T]) -> T:
        """See ``Store.call``."""
        [answer] = self._answers([call])
        return command.unwrap(answer)

    def call_once(self, calls: Sequence[Call]) -> None:
        """Send hints, once; StoreUnavailable at once if that fails."""
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
        delay_s = batching.RETRY_FIRST_S
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
                if problem is None:  # only a part had no answer, and the patience counts for each
                    portion.grow()
                    give_up_at, delay_s = time.monotonic() + self._patience_s, batching.RETRY_FIRST_S
                    continue
            except NotReplicated as error:
                problem = error
            except StoreUnavailable as error:
                problem = error
                portion.halve(len(now))
            if time.monotonic() + delay_s > give_up_at:
                raise problem
            time.sleep(delay_s)
            delay_s = min(delay_s * 2, batching.RETRY_MAX_S)

    def _once(self, calls: Sequence[Call], left: list[int], answers: list[Any]) -> tuple[list[int], StoreError | None]:
        """One exchange; returns the positions to repeat, and why."""
        exchange_plan = batching.exchange_plan([calls[position] for position in left], self.settings)
        confirmed: list[Reply] = []  # by the last exchange, which also confirms those before it
        try:
            commands = next(exchange_plan)
            while True:
                replies = self._link.exchange([*commands, *self._confirmation])
                confirmed = replies[len(commands) :]
                commands = exchange_plan.send(replies[: len(commands)])
        except StopIteration as end:
            raws: list[Reply] = end.value
        batching.check_confirmed(confirmed, self.settings)
        again: list[int] = []
        problem: StoreError | None = None
        for position, raw in zip(left, raws, strict=True):
            answer = batching.answer_of(calls[position], raw)
            if answer is batching.AGAIN:
                again.append(position)
            elif batching.is_unserved(answer, waits_for_rights=False):
                problem = answer
                again.append(position)
            else:
                answers[position] = answer
        return again, problem

    def close(self) -> None:
        for other in self._confirming.values():
            other.close()
        self._link.close()
