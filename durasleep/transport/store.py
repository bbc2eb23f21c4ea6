"""The store: one namespace in one Redis, as calls that return records, for asyncio."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from durasleep.errors import (
    DurasleepError,
    NotFound,
    SchemaMismatch,
    StoreUnavailable,
    UnsupportedServer,
    UsageError,
)
from durasleep.model import PromiseId
from durasleep.protocol import journal, server, slots, versions
from durasleep.protocol.command import BatchItem, Call, Command, Plan, slot_of_call
from durasleep.protocol.journal import Loaded
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.protocol.partitions import PARTITIONS_MAX
from durasleep.protocol.slots import Address, Location
from durasleep.settings import Settings
from durasleep.transport import batcher, batching, handshake
from durasleep.transport.batcher import Batcher, OnExchange
from durasleep.transport.connection import Link
from durasleep.transport.connector import Connector
from durasleep.transport.outage import Outage
from durasleep.transport.partitions import Partitions
from durasleep.transport.reply_errors import refusal
from durasleep.transport.server_clock import Clock

if TYPE_CHECKING:  # imported only for the few who use a cluster
    from durasleep.transport.lanes import Lanes

T = TypeVar("T")
_SERVER_MIN = (6, 2)
CHECK_S = 60.0  # between two checks of the namespace's schema: clients live long, and send no heartbeats
ASK_INFO = server.read_info("server")
logger = logging.getLogger("durasleep")


def check_server(info: Any, connector: Connector) -> None:
    """UnsupportedServer or UsageError if we cannot use this Redis; checked before anything is written."""
    if isinstance(info, bytes) and connector.topology is None and b"_mode:cluster" in info:
        raise UsageError(
            f"the server at {connector.address} is a node of a Redis Cluster, and the others serve most of its keys: "
            "give the cluster, as redis+cluster://HOST:PORT or as a redis.RedisCluster"
        )
    if isinstance(info, bytes):  # fakeredis has no INFO, an ACL may forbid it: then the scripts will show it
        match = re.search(rb"redis_version:(\d+)\.(\d+)", info)
        if match and (int(match[1]), int(match[2])) < _SERVER_MIN:
            found = match[0].removeprefix(b"redis_version:").decode()
            raise UnsupportedServer(f"this server speaks Redis {found}; durasleep needs 6.2 or newer (or Valkey)")


def check_confirms(replies: list[Any]) -> None:
    """UnsupportedServer if this server can never confirm writes as asked, StoreUnavailable if it cannot now."""
    for reply in replies:
        if isinstance(reply, Exception):
            if "replica" in str(reply):
                raise StoreUnavailable(f"Redis cannot serve us now: {reply}")
            raise refusal(reply) or UnsupportedServer(f"this server cannot confirm writes as the settings ask: {reply}")


def check_partitions(partitions: int) -> int:
    """The number of partitions of a new namespace, or UsageError."""
    if not isinstance(partitions, int) or not 1 <= partitions <= PARTITIONS_MAX:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"a namespace has 1 to {PARTITIONS_MAX} partitions, not {partitions!r}")
    return partitions


def check_found(namespace: str, found: int, partitions: int) -> None:
    """UsageError if a namespace has not this number."""
    if found != partitions:
        raise UsageError(
            f"namespace {namespace!r} has {handshake.counted(found)} already: `durasleep move` takes what is in it to "
            "another one"
        )


def confirming(settings: Settings, min_replicas: int | None, fsync: bool | None) -> Settings:
    """Settings with these confirmations of writes; None leaves a setting as it is. UsageError below 0."""
    if min_replicas is not None and min_replicas < 0:
        raise UsageError(f"min_replicas is {min_replicas}: give 0 or more")
    return replace(
        settings,
        min_replicas=settings.min_replicas if min_replicas is None else min_replicas,
        fsync=settings.fsync if fsync is None else fsync,
    )


class Store:
    """One namespace, for asyncio. Every call may be repeated; see ``Batcher`` for the gathering of calls."""

    def __init__(
        self,
        connector: Connector,
        *,
        namespace: str,
        settings: Settings,
        name: str = "client",
        patience_s: float | None = None,
        outage: Outage | None = None,
        partitions: Partitions | None = None,
        on_exchange: OnExchange | None = None,
    ) -> None:
        self.connector = connector
        self._on_exchange = on_exchange
        self.namespace = namespace
        self.settings = settings
        self.name = f"durasleep/{namespace}/{name}"
        self.outage = outage or Outage()
        self._short_name = name
        self._patience_s = patience_s
        self._confirming: dict[Settings, Store] = {}
        self.partitions = partitions or Partitions(namespace, settings, connector.topology)
        self._calls = self._calls_to_nodes()
        self._check_at = 0.0
        """When the namespace is checked again, by the monotonic clock; 0 before the first time."""

    def _calls_to_nodes(self) -> Batcher | Lanes:
        topology, patience_s, outage = self.connector.topology, self._patience_s, self.outage
        if topology is None:
            link = self._open_link(self.connector)
            return Batcher(link, self.settings, patience_s, outage, on_exchange=self._on_exchange)
        from durasleep.transport.lanes import Lanes

        def open_link(node: Address) -> Link:
            return self._open_link(self.connector.at(node))

        return Lanes(topology, open_link, self.settings, patience_s, outage, self._on_exchange)

    def _open_link(self, connector: Connector) -> Link:
        return Link(connector, self.name, self.settings.command_timeout_s)

    def link(self, keys: Keyspace, timeout_s: float | None = None) -> Link:
        """A connection of its own to the node of a partition, for blocking commands."""
        return self.link_to(keys.slot, timeout_s)

    def link_to(self, slot: int, timeout_s: float | None = None) -> Link:
        """The same to the node of a slot."""
        return Link(self.connector, self.name, timeout_s or self.settings.command_timeout_s, slot)

    def second_connection(self, settings: Settings | None = None) -> Store:
        """The same store over a second connection: its calls and ours do not wait for one another."""
        return Store(
            self.connector,
            namespace=self.namespace,
            settings=settings or self.settings,
            name=self._short_name,
            patience_s=self._patience_s,
            outage=self.outage,
            partitions=self.partitions,
            on_exchange=self._on_exchange,
        )

    def confirming(self, min_replicas: int | None, fsync: bool | None) -> Store:
        """A store whose writes count when this many replicas, or the disk, have them; None is as in the settings."""
        if min_replicas is None and fsync is None:  # nearly always: comparing all settings takes as long as a call
            return self
        settings = confirming(self.settings, min_replicas, fsync)
        if settings == self.settings:
            return self
        if settings not in self._confirming:
            self._confirming[settings] = self.second_connection(settings)
        return self._confirming[settings]

    @property
    def connected(self) -> bool:
        """See ``Batcher.connected``."""
        return self._calls.connected

    @property
    def keyspaces(self) -> Keyspaces:
        """The keys of each partition; of the only one, before ``open``."""
        return self.partitions.keyspaces

    def keys(self, id: str) -> Keyspace:
        """The partition of an id, see ``Keyspaces.of``."""
        return self.partitions.keyspaces.of(id)

    def clock(self, keys: Keyspace) -> Clock:
        """The clock of the server that this partition is on."""
        return self.partitions.clocks[keys.partition]

    @property
    def is_checked(self) -> bool:
        """Whether server and schema were checked lately."""
        return time.monotonic() < self._check_at

    async def open(self, *, moves: bool = False, partitions: int | None = None) -> None:
        """Connect, and check server and schema, which is repeated now and then. StoreUnavailable at once if there is no
        answer. A worker ``moves`` a namespace from the previous schema.

        A new namespace is made with this many ``partitions``. By default it gets one, but in a cluster it is not made:
        see ``handshake.greet``.
        """
        if self.is_checked:
            return
        if self._check_at:
            await self._check_again()
            return
        if self.connector.topology is not None:
            await self.check_servers()
        link = self.link_to(self.partitions.meta_slot)
        try:
            [info] = await link.exchange([ASK_INFO.args])
            check_server(info, self.connector)
            is_cluster = self.connector.topology is not None
            greeting = handshake.greet(self.keyspaces[0], moves=moves, partitions=partitions, is_cluster=is_cluster)
            try:
                commands = next(greeting)
                while True:
                    commands = greeting.send(await link.exchange(commands))
            except StopIteration as end:
                self.partitions.set_count(end.value)
            if confirmation := batching.confirmation(self.settings):
                check_confirms(await link.exchange(confirmation))
        finally:
            await link.close()
        self._check_at = time.monotonic() + CHECK_S

    async def _check_again(self) -> None:
        """Check the namespace once more; if it cannot be used any more, the next call checks it, too."""
        self._check_at = time.monotonic() + CHECK_S
        try:
            meta = await self._calls.send(versions.read_meta(self.namespace))
            handshake.check(self.namespace, meta, len(self.keyspaces))
        except SchemaMismatch:
            self._check_at = time.monotonic()
            raise

    async def check_servers(self) -> None:
        """See ``check_server``, of each node that can be reached; StoreUnavailable if the nodes do not serve all slots.

        One that cannot be reached may be lost, and its replica about to take over: the others serve meanwhile.
        """
        if self.connector.topology is not None:
            await self.connector.topology.refresh()
            self.connector.topology.check_coverage()
        for info in (await self.ask_nodes(ASK_INFO)).values():
            check_server(info, self.connector)

    async def init(self, partitions: int) -> None:
        """Make the namespace, with this many partitions; UsageError if another number was chosen, or is in use."""
        await self.open(partitions=check_partitions(partitions))
        if partitions != len(self.keyspaces) and await self.run(versions.is_unused(self.keyspaces)):
            await self.call(versions.choose_partitions(self.namespace, partitions))
            self._check_at = 0.0
            await self.open()
        check_found(self.namespace, len(self.keyspaces), partitions)

    async def call(self, call: BatchItem[T] | Command[T]) -> T:
        """Run a command or batched item; raises the script's DurasleepError, or StoreUnavailable in the end."""
        try:
            return await self._calls.send(call)
        except NotFound:
            if self._check_at:
                await self._check_again()  # it may have been moved
            raise

    def send(self, call: BatchItem[T] | Command[T]) -> asyncio.Future[T]:
        """The same as a future; calls of one turn of the loop are sent together."""
        return self._calls.send(call)

    async def run(self, plan: Plan[T]) -> T:
        """Carry out a plan of calls, those of each step in one round trip."""
        try:
            calls = next(plan)
            while True:
                calls = plan.send(await self._calls.ask(calls))
        except StopIteration as end:
            return end.value
        except NotFound:
            if self._check_at:
                await self._check_again()  # as above
            raise

    def ask(self, calls: Sequence[Call]) -> asyncio.Future[list[Any]]:
        """The answers to several calls, in order; see ``Batcher.ask``."""
        return self._calls.ask(calls)

    async def ask_once(self, calls: Sequence[Call]) -> list[Any]:
        """The answers to several calls in one partition, over a connection of its own, without repeats, confirmed as
        the settings say.
        """
        link = self.link_to(slot_of_call(calls[0]))
        try:
            answers = await batcher.ask_once(link, calls, self.settings)
            if confirmation := batching.confirmation(self.settings):
                batching.check_confirmed(await link.exchange(confirmation), self.settings)
            return answers
        finally:
            await link.close()

    async def ask_nodes(self, command: Command[T]) -> dict[Address | None, T | DurasleepError]:
        """The answer of each node that serves slots to a command that names no key, without repeats.

        Outside a cluster it is that of the server, under None. That of a node which cannot be reached is
        StoreUnavailable.
        """
        topology = self.connector.topology
        nodes: Sequence[Address | None] = [None] if topology is None else topology.masters
        answers = await asyncio.gather(*[self._ask_node(node, command) for node in nodes])
        return dict(zip(nodes, answers, strict=True))

    async def _ask_node(self, node: Address | None, command: Command[T]) -> T | DurasleepError:
        link = self._open_link(self.connector if node is None else self.connector.at(node))
        try:
            [answer] = await batcher.ask_once(link, [command], self.settings)
        except StoreUnavailable as problem:
            return problem
        finally:
            await link.close()
        return answer

    def slots_of_nodes(self) -> list[tuple[str, int]]:
        """Each node of a cluster that serves slots, and one of its slots; empty outside a cluster."""
        topology = self.connector.topology
        return [] if topology is None else topology.slots_of_masters()

    async def locate(self) -> list[Location]:
        """Where each partition is in a cluster, asked anew."""
        topology = self.connector.topology
        if topology is None:
            return self.partitions.locate({})
        await topology.refresh()
        answers = await self.ask_nodes(slots.read_moving())
        return self.partitions.locate({node: answer for node, answer in answers.items() if node is not None})

    async def load(self, id: PromiseId) -> Loaded | None:
        """See ``journal.load``."""
        keys = self.keys(id)
        return await self.run(journal.load_rest(keys, id, await self.send(journal.read_page(keys, id))))

    async def load_unseen(self, id: PromiseId) -> Loaded | None:
        """A promise and only its settlements since its last commit; None if one answer cannot have them."""
        keys = self.keys(id)
        page = await self.send(journal.read_page(keys, id, unseen_only=True))
        return None if page.cursor else await self.run(journal.load_rest(keys, id, page))

    async def aclose(self, error: Exception | None = None) -> None:
        """Close; waiters get ``error``, or are cancelled without one."""
        for other in self._confirming.values():
            await other.aclose(error)
        await self._calls.close(error)

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Store]:
        """Open, and close at the end."""
        try:
            await self.open()
            yield self
        finally:
            await self.aclose()
