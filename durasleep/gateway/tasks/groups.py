"""The groups that are polled over HTTP: a worker for each, from its first poll until nobody has asked for a while."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Coroutine, Iterable, Sequence
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
from durasleep.protocol.command import Call
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
LEAVE_S = 2.0
"""At the end of the gateway; then what is under way is given up."""
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
            self._begin_task(self._note([(group, asked.worker)]))
        leased: Leased | None = None
        try:
            await asyncio.wait((polling, served.running), return_when=asyncio.FIRST_COMPLETED)
            if polling.done():
                leased = polling.result()
            elif not self._is_closing:
                served.running.result()  # why it could not serve
            return leased
        finally:
            polling.cancel()
            asked.is_gone = True
            if leased is None and asked.lent.done() and (lent := asked.lent.result()) is not None:
                self.release_lent(lent.token)

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
            except Exception:
                logger.exception("the %s loop failed and begins again", "polls")

    async def _look(self) -> None:
        """Note who waits, for people; and let the workers of groups leave for which nobody asks."""
        now = time.monotonic()
        waiting = {(group, worker) for group, served in self._served.items() for worker in served.lender.waiting()}
        in_use = {group for group, _ in waiting}
        for group, served in self._served.items():
            if group in in_use:
                served.used_at = now
            elif now - served.used_at > IDLE_S:
                served.worker.stop()
        gone, self._noted = self._noted - waiting, waiting
        await self._forget(gone)
        await self._note(waiting)

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

    async def _note(self, workers: Iterable[tuple[str, str]]) -> None:
        keys = (await self.open()).keyspaces[0]
        info, beat_ms = f"http {self._name}", round(LOOK_S * 1000)
        await self._ask(
            [
                membership.note_waiting(
                    keys, f"{worker}/{self._mark}", group=group, info=info, knows=handshake.KNOWS, beat_ms=beat_ms
                )
                for group, worker in workers
            ]
        )

    async def _forget(self, workers: Iterable[tuple[str, str]]) -> None:
        keys = (await self.open()).keyspaces[0]
        await self._ask([membership.part(keys, f"{worker}/{self._mark}", group) for group, worker in workers])

    async def _ask(self, calls: Sequence[Call]) -> None:
        for answer in await (await self.open()).ask(calls):
            if isinstance(answer, DurasleepError):
                raise answer

    async def aclose(self) -> None:
        """Answer all polls, and let the workers leave. Leases stay with those who have them.

        While Redis is away, this takes no longer than a worker takes to leave. Who waited here is forgotten by itself.
        """
        self._is_closing = True
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        served = tuple(self._served.values())
        for one in served:
            one.lender.leave()  # a worker that has not come to serve yet would not tell it
            one.worker.stop()
        if self._noted:
            self._begin_task(self._forget(self._noted))
        running, tasks = [one.running for one in served], tuple(self._tasks)
        if running or tasks:
            _, late = await asyncio.wait((*running, *tasks), timeout=LEAVE_S)
            for one in served if late else ():
                one.worker.abort()
            for task in late.intersection(tasks):
                task.cancel()
        await asyncio.gather(*running, *tasks, return_exceptions=True)
