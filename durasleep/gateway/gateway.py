"""The gateway: one process that speaks HTTP for a namespace."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from durasleep.app import Durasleep
from durasleep.client.client import unopened_store_of
from durasleep.errors import DurasleepError, StoreRefused, StoreUnavailable, UsageError
from durasleep.gateway import envelope
from durasleep.gateway.access import Access
from durasleep.gateway.api import Api
from durasleep.gateway.connection import Connection, Connections
from durasleep.gateway.debug import Debug
from durasleep.gateway.delivery import Delivery
from durasleep.gateway.http import Response
from durasleep.gateway.polls import Polls
from durasleep.gateway.site import Site
from durasleep.protocol import resonate_requests, server
from durasleep.protocol.resonate import Answer
from durasleep.transport.batching import RETRY_FIRST_S, RETRY_MAX_S
from durasleep.transport.store import CHECK_S, Store

CONNECTIONS_MAX = 2_000
COMMENT_S = 15.0
"""Between two lines that say nothing, on the connections of polls: proxies close those on which nothing comes."""
LOOK_S = 1.0
"""Between two looks for connections that are too slow."""
READY_S = 1.0
"""Without an answer of Redis for this long, the gateway is not ready."""
PATIENCE_S = 3.0
"""A request is repeated this long while Redis does not answer: longer than a short interruption, and shorter than
clients wait."""
GRACE_S = 10.0
"""How long requests under way may take after SIGTERM."""
_BACKLOG = 512  # connections that wait to be accepted
_WAITS = "this gateway waits for Redis: its log says why"

Part = Callable[["Gateway"], Coroutine[Any, Any, None]]
"""Works beside the server until it is cancelled; if it fails, the gateway ends."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a gateway serves. For ``token`` and ``allowed_hosts`` see ``Access``; with ``debug`` requests may choose the
    time.
    """

    token: str | None = None
    allowed_hosts: Sequence[str] = ()
    debug: bool = False


class Gateway:
    """Serves a namespace by HTTP; ``client`` says which one, and where. Whoever made the client closes it."""

    def __init__(self, client: Durasleep, options: Options | None = None, parts: Sequence[Part] = ()) -> None:
        """UsageError for options that cannot be used."""
        options = options or Options()
        self.client = client
        self.api = Api(client)
        self.ready = asyncio.Event()
        """Set when Redis serves it; until then it answers that it waits."""
        self.store: Store
        self.delivery: Delivery
        self._access = Access(options.token, options.allowed_hosts)
        self._is_debugged = options.debug
        self._debug: Debug
        self._parts = parts

    async def run(self, sockets: Sequence[socket.socket], stop: asyncio.Event) -> None:
        """Serve at these sockets until ``stop``; then what is under way is answered. It waits for a Redis that is gone,
        also when it begins.

        StoreRefused or UnsupportedServer if this Redis does not serve it at all; SchemaMismatch, or another
        DurasleepError, if its namespace cannot be used, or not any more.
        """
        opened = unopened_store_of(self.client)
        self.store, delivering = self._store_beside(opened), self._store_beside(opened)
        self.delivery = Delivery(delivering)
        self._debug = Debug(self.store, self.delivery)
        polls = Polls(self.delivery)
        site = Site(self._rpc, polls, self.api, self._access, self._why_not_ready)
        connections = Connections(site, connections_max=CONNECTIONS_MAX)
        always = [every(LOOK_S, connections.look), every(COMMENT_S, polls.comment), _until(stop)]
        try:
            await self._serve(sockets, connections, opened, always)
        finally:
            await self.store.aclose()
            await delivering.aclose()

    async def _serve(
        self,
        sockets: Sequence[socket.socket],
        connections: Connections,
        opened: Store,
        always: Sequence[Coroutine[Any, Any, None]],
    ) -> None:
        """Serve until one of ``always`` ends, or anything fails."""
        loop = asyncio.get_running_loop()
        servers = [
            await loop.create_server(lambda: Connection(connections), sock=one, backlog=_BACKLOG) for one in sockets
        ]
        opening = loop.create_task(self._open(opened))
        tasks = [opening, *[loop.create_task(work) for work in always]]
        try:
            await _first_of(tasks)
            if opening.done():
                tasks.remove(opening)
                works = [self.delivery.run(), _check(opened), *[part(self) for part in self._parts]]
                tasks += [loop.create_task(work) for work in works]
                self.ready.set()
                await _first_of(tasks)
        finally:
            for server in servers:
                server.close()
            await self.api.aclose()
            await connections.close(GRACE_S)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _open(self, opened: Store) -> None:
        """Wait for a Redis that serves us."""
        delay_s = RETRY_FIRST_S
        while True:
            try:
                await opened.open()
            except StoreUnavailable as error:
                self.delivery.outage.report(error)
            else:
                self.delivery.outage.recovered()
                return
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_MAX_S)

    def _store_beside(self, opened: Store) -> Store:
        """The store of the client over a connection of its own, with our patience."""
        return Store(
            opened.connector,
            namespace=opened.namespace,
            settings=opened.settings,
            name="gateway",
            patience_s=PATIENCE_S,
            partitions=opened.partitions,
        )

    def _rpc(self, body: bytes) -> Awaitable[Response]:
        """The answer to a request of Resonate's protocol. StoreUnavailable before Redis has served us."""
        if not self.ready.is_set():
            raise StoreUnavailable(_WAITS)
        if self._is_debugged:
            return self._simulate(body)
        command = resonate_requests.plain(self.store.keyspaces, body)
        return self._ask(body) if command is None else self.store.send(command.map(_response))

    async def _ask(self, body: bytes) -> Response:
        return _response(await self.store.run(resonate_requests.ask(self.store.keyspaces, body)))

    async def _simulate(self, body: bytes) -> Response:
        asked = envelope.read(body)
        if asked.kind.startswith("debug."):
            return _response(await self._debug.answer(asked.kind, asked.corr_id, asked.data))
        plan = resonate_requests.ask(self.store.keyspaces, body, may_simulate=True)
        return _response(await self.store.run(plan))

    async def _why_not_ready(self) -> str:
        if not self.ready.is_set():
            return _WAITS
        try:
            async with asyncio.timeout(READY_S):
                answers = await self.store.ask([server.ping().at(keys.slot) for keys in self.store.keyspaces])
        except TimeoutError:
            return f"Redis has not answered for {READY_S:.0f} s"
        return next((str(answer) for answer in answers if isinstance(answer, DurasleepError)), "")


def _response(answer: Answer) -> Response:
    return Response(answer.status, answer.body)


async def _check(store: Store) -> None:
    """Look now and then whether the namespace can still be used: it may have been moved, or have a newer schema."""
    while True:
        await asyncio.sleep(CHECK_S)
        with suppress(StoreUnavailable, StoreRefused):  # of both, the loops that ask Redis tell
            await store.open()


async def _first_of(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait until one has ended; raises its error."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


async def every(seconds: float, do: Callable[[], None]) -> None:
    """Do it again and again, until it is cancelled."""
    while True:
        await asyncio.sleep(seconds)
        do()


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen at all addresses of a host, on one port; 0 is a free one. UsageError if that cannot be."""
    made: list[socket.socket] = []
    problem: OSError | UnicodeError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # no name of a host can be encoded that is too long
        found, problem = [], error
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            made.append(_listen_at(family, (address[0], made[0].getsockname()[1] if made else port)))
        except OSError as error:
            problem = error
            if error.errno not in _MISSING:
                break
    if made and (problem is None or getattr(problem, "errno", None) in _MISSING):
        return made
    for one in made:
        one.close()
    raise UsageError(f"cannot listen on {host}:{port}: {_reason(problem)}")


def _reason(problem: OSError | UnicodeError | None) -> str:
    code = problem.errno if isinstance(problem, OSError) else None
    if code is not None and code > 0:  # those of getaddrinfo are below
        return os.strerror(code).lower()  # its own text repeats the address
    return str(getattr(problem, "strerror", None) or problem or "the host has no address").lower()


_MISSING = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""This machine has no IPv6, although it knows an address of it."""


def _listen_at(family: int, address: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made
