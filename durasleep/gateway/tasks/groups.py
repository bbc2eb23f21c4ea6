"""The groups that are polled over HTTP: a worker for each, from its first poll until nobody has asked for a while."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from durasleep.client import Client
from durasleep.client.client import store_of
from durasleep.codec import Codec
from durasleep.errors import DurasleepError, StoreUnavailable
from durasleep.gateway.tasks.leases import Failed, Failure, Leases, Token, release_lent
from durasleep.gateway.tasks.lender import Asked, Leased, Lender
from durasleep.model import State
from durasleep.protocol import membership
from durasleep.protocol.membership import Lent
from durasleep.runtime.definition import Registry
from durasleep.transport import handshake
from durasleep.transport.store import Store
from durasleep.worker.worker import Worker, default_name

T = TypeVar("T")
logger = logging.getLogger("durasleep")

GROUPS_MAX = 100
"""That one gateway serves at a time: each takes some connections to Redis."""
IDLE_S = 300.0
"""After the last request for a group, its worker leaves."""
LOOK_S = 3.0
"""Between two looks at who waits; people see that a worker waits so much later."""


class TooManyGroups(StoreUnavailable):
    """This gateway serves as many groups as it may."""


@dataclass(slots=True, eq=False)
class _Served:
    """A group that is served here."""

    worker: Worker
    lender: Lender
    running: asyncio.Task[None]
    used_at: float = field(default_factory=time.monotonic)


class Groups:
    """Everything of one gateway about tasks over HTTP. Nothing of it is begun before the first request."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._store: Store | None = None
        self._leases: Leases | None = None
        self._served: dict[str, _Served] = {}
        self._looking: asyncio.Task[None] | None = None
        self._name = f"gateway-{default_name()}"[:60]
        self._mark = secrets.token_hex(4)
        """Behind the names of the workers that wait here."""
        self._noted: set[tuple[str, str]] = set()
        """Which workers were last seen to wait, by group and name."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False

    # -- what requests ask

    async def open(self) -> Store:
        """The store; it connects at the first use."""
        if self._store is None:
            self._store = await store_of(self._client)
        return self._store

    async def poll(self, group: str, asked: Asked, wait_s: float) -> Leased | None:
        """An execution of the group for a worker, leased to it; None if there is none in time, or no gateway soon."""
        served = await self._serve(group)
        if served is None:
            return None
        polling = asyncio.ensure_future(served.lender.poll(asked, wait_s))
        if (group, asked.worker) not in self._noted:
            self._noted.add((group, asked.worker))
            self._begin_task(self._note(group, asked.worker))
        try:
            await asyncio.wait((polling, served.running), return_when=asyncio.FIRST_COMPLETED)
            if not polling.done() and served.running.done() and not self._is_closing:
                served.running.result()  # what it could not serve, or why it has left
                return None
            return await polling
        except asyncio.CancelledError:
            polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                if (leased := await polling) is not None:
                    self.release_lent(leased.token)
            raise
        finally:
            polling.cancel()

    def release_lent(self, token: Token) -> None:
        """The worker has not got the answer with this lease: others may have it at once."""
        self._begin_task(self._release(token))

    async def _release(self, token: Token) -> None:
        store = await self.open()
        await release_lent(store, store.keyspaces[token.partition], token.lease, token.consumer)

    async def extend(self, token: Token, **kept: Any) -> Lent:
        """See ``Leases.extend``."""
        lent = await (await self._leases_here()).extend(token, **kept)
        with contextlib.suppress(TooManyGroups):
            await self._serve(token.group)  # somebody has to notice when it is not extended any more
        return lent

    async def complete(self, token: Token, value: object) -> State:
        """See ``Leases.complete``."""
        return await (await self._leases_here()).complete(token, value)

    async def fail(self, token: Token, failure: Failure) -> Failed:
        """See ``Leases.fail``."""
        return await (await self._leases_here()).fail(token, failure)

    async def cancel(self, token: Token) -> State:
        """See ``Leases.cancel``."""
        return await (await self._leases_here()).cancel(token)

    async def _leases_here(self) -> Leases:
        if self._leases is None:
            self._leases = Leases(await self.open(), self._codec)
        return self._leases

    @property
    def _codec(self) -> Codec:
        return self._client.codec

    # -- the workers of the groups

    async def _serve(self, group: str) -> _Served | None:
        """The worker of a group, from now on; None while the gateway closes. TooManyGroups if there are too many."""
        store = await self.open()
        if self._is_closing:
            return None
        served = self._served.get(group)
        if served is None:
            if len(self._served) >= GROUPS_MAX:
                raise TooManyGroups(f"this gateway serves {GROUPS_MAX} groups already; ask again in some minutes")
            served = self._served[group] = self._begin(group, store)
        served.used_at = time.monotonic()
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look_often(), name="durasleep-polls")
        return served

    def _begin(self, group: str, store: Store) -> _Served:
        made: list[Lender] = []

        def make(around: Any) -> Lender:
            made.append(Lender(around, self._codec, group, f"http {self._name}"))
            return made[0]

        worker = Worker(
            store.connector,
            Registry(),
            self._codec,
            namespace=store.namespace,
            group=group,
            concurrency=0,
            settings=store.settings,
            name=self._name,
            make_holder=make,
        )
        running = asyncio.get_running_loop().create_task(worker.run(), name=f"durasleep-group-{group}")
        running.add_done_callback(partial(self._end, group))
        return _Served(worker, made[0], running)

    def _end(self, group: str, running: asyncio.Task[None]) -> None:
        """A worker has left; the next poll begins another one."""
        served = self._served.get(group)
        if served is not None and served.running is running:
            del self._served[group]
        if not running.cancelled() and (error := running.exception()) is not None:
            logger.error("group %s is not served here any more: %s", group, error)

    async def _look_often(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except DurasleepError as error:
                logger.info("who waits here could not be noted: %s", error)

    async def _look(self) -> None:
        """Note who waits, for people; and let the workers of groups leave for which nobody asks."""
        now = time.monotonic()
        waiting = {(group, worker) for group, served in self._served.items() for worker in served.lender.waiting()}
        for group, worker in self._noted - waiting:
            await self._forget(group, worker)
        for group, worker in waiting:
            self._served[group].used_at = now
            await self._note(group, worker)
        for served in tuple(self._served.values()):
            if now - served.used_at > IDLE_S:
                served.worker.stop()

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Nobody waits for this."""

        async def run() -> None:
            try:
                await work
            except DurasleepError as error:
                logger.info("what a gateway does for its groups has failed: %s", error)

        task = asyncio.get_running_loop().create_task(run(), name="durasleep-groups")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _note(self, group: str, worker: str) -> None:
        self._noted.add((group, worker))
        store = await self.open()
        await store.call(
            membership.note_waiting(
                store.keyspaces[0],
                f"{worker}/{self._mark}",
                group=group,
                info=f"http {self._name}",
                knows=handshake.KNOWS,
                beat_ms=round(LOOK_S * 1000),
            )
        )

    async def _forget(self, group: str, worker: str) -> None:
        self._noted.discard((group, worker))
        store = await self.open()
        await store.call(membership.part(store.keyspaces[0], f"{worker}/{self._mark}", group))

    async def aclose(self) -> None:
        """Answer all polls, and let the workers leave. Leases stay with those who have them."""
        self._is_closing = True
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        served = tuple(self._served.values())
        for one in served:
            one.worker.stop()
        await asyncio.gather(*[one.running for one in served], *self._tasks, return_exceptions=True)
        for group, worker in tuple(self._noted):
            with contextlib.suppress(DurasleepError):
                await self._forget(group, worker)
