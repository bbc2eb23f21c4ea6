"""The same store for code without asyncio, around the same commands."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from durasleep.errors import DurasleepError, NotFound, NotReplicated, SchemaMismatch, StoreUnavailable
from durasleep.model import PromiseId
from durasleep.protocol import command, journal, slots, versions
from durasleep.protocol.command import BatchItem, Call, Command, Plan, Reply, slot_of_call
from durasleep.protocol.journal import Loaded
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.protocol.slots import Address, Location
from durasleep.settings import Settings
from durasleep.transport import batching, handshake
from durasleep.transport.connection import SyncLink
from durasleep.transport.connector import Connector
from durasleep.transport.partitions import Partitions
from durasleep.transport.portion import Portion
from durasleep.transport.reply_errors import MOVING, Routing
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
        self._links: dict[Address | None, SyncLink] = {}
        """The connections of calls to each node of a cluster; to a single server under None."""
        self._confirmation = batching.confirmation(settings)
        self.partitions = partitions or Partitions(namespace, settings, connector.topology)
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

    def link(self, keys: Keyspace, timeout_s: float) -> SyncLink:
        """A connection of its own to the node of a partition, for blocking commands."""
        return SyncLink(self.connector, self.name, timeout_s, keys.slot)

    def _link(self, node: Address | None) -> SyncLink:
        link = self._links.get(node)
        if link is None:  # two threads may make it at the same time: the first one counts
            connector = self.connector if node is None else self.connector.at(node)
            link = self._links.setdefault(node, SyncLink(connector, self.name, self.settings.command_timeout_s))
        return link

    def keys(self, id: str) -> Keyspace:
        """See ``Store.keys``."""
        return self.partitions.keyspaces.of(id)

    @property
    def keyspaces(self) -> Keyspaces:
        """See ``Store.keyspaces``."""
        return self.partitions.keyspaces

    def open(self, *, partitions: int | None = None) -> None:
        """See ``Store.open``."""
        if time.monotonic() < self._check_at:
            return
        if self._check_at:
            self._check_again()
            return
        link = self._link(self._check_nodes())
        is_cluster = self.connector.topology is not None
        greeting = handshake.greet(self.keyspaces[0], partitions=partitions, is_cluster=is_cluster)
        try:
            commands = next(greeting)
            while True:
                commands = greeting.send(link.exchange(commands))
        except StopIteration as end:
            self.partitions.set_count(end.value)
        if self._confirmation:
            check_confirms(link.exchange(self._confirmation))
        self._check_at = time.monotonic() + CHECK_S

    def _check_again(self) -> None:
        """See ``Store._check_again``."""
        self._check_at = time.monotonic() + CHECK_S
        try:
            [meta] = self._answers([versions.read_meta(self.namespace)])
            handshake.check(self.namespace, command.unwrap(meta), len(self.keyspaces))
        except SchemaMismatch:
            self._check_at = time.monotonic()
            raise

    def _check_nodes(self) -> Address | None:
        """See ``check_server``, of each node; returns the one that knows the namespace as a whole."""
        topology = self.connector.topology
        if topology is None:
            [info] = self._link(None).exchange([ASK_INFO.args])
            check_server(info, self.connector)
            return None
        topology.refresh_sync()
        topology.check_coverage()
        for info in self.ask_nodes(ASK_INFO).values():
            check_server(info, self.connector)
        return topology.find_sync(self.partitions.meta_slot)

    def init(self, partitions: int) -> None:
        """See ``Store.init``."""
        self.open(partitions=check_partitions(partitions))
        if partitions != len(self.keyspaces) and self.run(versions.is_unused(self.keyspaces)):
            self.call(versions.choose_partitions(self.namespace, partitions))
            self._check_at = 0.0
            self.open()
        check_found(self.namespace, len(self.keyspaces), partitions)

    def ask_nodes(self, command: Command[T]) -> dict[Address | None, T | DurasleepError]:
        """See ``Store.ask_nodes``."""
        topology = self.connector.topology
        answers: dict[Address | None, Any] = {}
        for node in [None] if topology is None else topology.masters:
            answer: list[Any] = [None]
            _, problem = self._exchange(node, [command], [0], answer)
            answers[node] = problem or answer[0]
        return answers

    def slots_of_nodes(self) -> list[tuple[str, int]]:
        """See ``Store.slots_of_nodes``."""
        topology = self.connector.topology
        return [] if topology is None else topology.slots_of_masters()

    def locate(self) -> list[Location]:
        """See ``Store.locate``."""
        topology = self.connector.topology
        if topology is None:
            return self.partitions.locate({})
        topology.refresh_sync()
        answers = self.ask_nodes(slots.read_moving())
        return self.partitions.locate({node: answer for node, answer in answers.items() if node is not None})

    def call(self, call: BatchItem[T] | Command[T]) -> T:
        """See ``Store.call``."""
        [answer] = self._answers([call])
        if isinstance(answer, NotFound) and self._check_at:
            self._check_again()  # it may have been moved
        return command.unwrap(answer)

    def ask_once(self, calls: Sequence[Call]) -> list[Any]:
        """The answers, without repeats; an error of a call takes the place of its answer."""
        answers: list[Any] = [None] * len(calls)
        unserved, problem = self._once(calls, list(range(len(calls))), answers)
        for position in unserved:
            answers[position] = problem
        return answers

    def call_once(self, calls: Sequence[Call]) -> None:
        """Send hints, once; StoreUnavailable at once if that fails."""
        _, problem = self._once(calls, list(range(len(calls))), [None] * len(calls))
        if problem is not None:
            raise problem

    def run(self, plan: Plan[T]) -> T:
        """See ``Store.run``."""
        try:
            calls = next(plan)
            while True:
                calls = plan.send(self._answers(calls))
        except StopIteration as end:
            return end.value
        except NotFound:
            if self._check_at:
                self._check_again()  # as above
            raise

    def load(self, id: PromiseId) -> Loaded | None:
        """See ``journal.load``."""
        return self.run(journal.load(self.keys(id), id))

    def _answers(self, calls: Sequence[Call]) -> list[Any]:
        give_up_at = time.monotonic() + self._patience_s
        delay_s = batching.RETRY_FIRST_S
        answers: list[Any] = [None] * len(calls)
        left = list(range(len(calls)))
        portion = Portion(len(calls))
        has_moved = False
        while True:
            now, later = left[: portion.now], left[portion.now :]
            again, problem = self._once(calls, now, answers)
            left = again + later
            if not left:
                return answers
            if problem is None:  # only a part had no answer, and the patience counts for each
                portion.grow()
                give_up_at, delay_s = time.monotonic() + self._patience_s, batching.RETRY_FIRST_S
                continue
            if problem.reason == Routing.MOVED and not has_moved:
                has_moved = True
                continue
            if not problem.reason and not isinstance(problem, NotReplicated):
                portion.halve(len(now))
            if time.monotonic() + delay_s > give_up_at:
                raise problem
            time.sleep(delay_s)
            delay_s = min(delay_s * 2, batching.RETRY_MAX_S)

    def _once(
        self, calls: Sequence[Call], left: list[int], answers: list[Any]
    ) -> tuple[list[int], StoreUnavailable | None]:
        """One exchange with each node; returns the positions to repeat, and why."""
        topology = self.connector.topology
        if topology is None:
            return self._exchange(None, calls, left, answers)
        again: list[int] = []
        by_node: dict[Address, list[int]] = {}
        problem: StoreUnavailable | None = None
        for position in left:
            try:
                node = topology.find_sync(slot_of_call(calls[position]))
            except StoreUnavailable as error:
                problem = error
                again.append(position)
            else:
                by_node.setdefault(node, []).append(position)
        for node, positions in by_node.items():
            unserved, why = self._exchange(node, calls, positions, answers)
            again += unserved
            if why is not None:
                problem = why
                if why.reason not in MOVING:
                    for position in unserved:
                        topology.distrust(slot_of_call(calls[position]), node)
        return again, problem

    def _exchange(
        self, node: Address | None, calls: Sequence[Call], left: list[int], answers: list[Any]
    ) -> tuple[list[int], StoreUnavailable | None]:
        """One exchange with a node; see ``_once``."""
        try:
            return self._answers_of(self._link(node), calls, left, answers)
        except StoreUnavailable as error:
            return left, error

    def _answers_of(
        self, link: SyncLink, calls: Sequence[Call], left: list[int], answers: list[Any]
    ) -> tuple[list[int], StoreUnavailable | None]:
        exchange_plan = batching.exchange_plan([calls[position] for position in left], self.settings)
        confirmed: list[Reply] = []  # by the last exchange, which also confirms those before it
        try:
            commands = next(exchange_plan)
            while True:
                replies = link.exchange([*commands, *self._confirmation])
                confirmed = replies[len(commands) :]
                commands = exchange_plan.send(replies[: len(commands)])
        except StopIteration as end:
            raws: list[Reply] = end.value
        unconfirmed = batching.why_unconfirmed(confirmed, self.settings)
        again: list[int] = []
        problem: StoreUnavailable | None = None
        for position, raw in zip(left, raws, strict=True):
            answer = batching.answer_of(calls[position], raw)
            if answer is batching.AGAIN:
                again.append(position)
            elif batching.is_unserved(answer, waits_for_rights=False):
                problem = answer
                again.append(position)
            elif unconfirmed is not None:
                problem = unconfirmed
                again.append(position)
            else:
                answers[position] = answer
        return again, problem

    def close(self) -> None:
        for other in self._confirming.values():
            other.close()
        for link in tuple(self._links.values()):
            link.close()
