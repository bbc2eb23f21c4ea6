"""The client verbs for asyncio, and the handle of an execution or promise."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Generator, Iterator
from datetime import datetime, timedelta
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from durasleep.codec import Codec
from durasleep.errors import DurasleepError, NotFound, StoreError, WaitTimeout
from durasleep.model import Disposition, PromiseId, Recording, State, check_id, owner_of
from durasleep.runtime.context import Context
from durasleep.runtime.definition import name_of, returns_of
from durasleep.settings import Settings
from durasleep.store import calls, commands, reads, search, tree
from durasleep.store.calls import Description, Duration, Ending, Pipeline
from durasleep.store.commands import Controlled
from durasleep.store.connection import Link
from durasleep.store.search import Found, Timer
from durasleep.store.store import Store
from durasleep.store.tree import Tree

T = TypeVar("T")
P = ParamSpec("P")

logger = logging.getLogger("durasleep")

TTL_REFRESH_S = 20.0  # of the inbox: well within its life


class Handle(Generic[T]):
    """An execution or promise and, once awaited, its result."""

    def __init__(
        self, client: Client, id: PromiseId, hint: Any, disposition: Disposition | None, ending: Ending | None
    ) -> None:
        self.id = id
        self.disposition = disposition
        """What ``rpc`` found: ``created``, ``attached`` or ``finished``; None from ``get`` or in a pipeline."""
        self._client = client
        self._hint = hint
        self._ending = ending

    def __await__(self) -> Generator[Any, None, T]:
        return self.result().__await__()

    async def result(self, timeout: Duration | None = None) -> T:
        """The value; raises what the execution raised, Canceled or TimedOut, WaitTimeout after ``timeout``."""
        if self._ending is None or not self._ending.is_final:
            self._ending = await self._client.wait(self.id, timeout)
        return calls.result_of(self._ending, self._client.codec, self._hint)

    async def done(self) -> bool:
        """Whether it has settled; NotFound if it is not kept any more."""
        if self._ending is None or not self._ending.is_final:
            self._ending = await self._client.look(self.id)
        return self._ending.is_final

    async def cancel(self, *, force: bool = False) -> str:
        """Ask it to end; with ``force`` it ends without running its code again. Answers what happened, in words."""
        return (await self._client.cancel(self.id, force=force)).word

    def __repr__(self) -> str:
        state = self._ending.state.value if self._ending else "unknown"
        return f"<Handle {self.id} {self.disposition or 'of get'}, {state}>"


class Inbox:
    """Reads what settles for this client from one stream, in the background, while anybody waits."""

    def __init__(self, store: Store, name: str, settings: Settings) -> None:
        self.name = name
        self._store = store
        self._settings = settings
        self._key = store.keys().inbox(name).encode()
        self._link: Link = store.link()
        self._last = b"0-0"
        self._waiting: dict[str, set[asyncio.Future[Ending | None]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._fresh_until = 0.0

    def expect(self, id: str) -> asyncio.Future[Ending | None]:
        """A future for the ending of a promise; None in it means: look yourself."""
        future: asyncio.Future[Ending | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(id, set()).add(future)
        future.add_done_callback(lambda done: self._forget(id, done))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="durasleep-inbox")
        return future

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for futures in tuple(self._waiting.values()):
            for future in tuple(futures):
                future.cancel()
        await self._link.close()

    def _forget(self, id: str, future: asyncio.Future[Ending | None]) -> None:
        futures = self._waiting.get(id, set())
        futures.discard(future)
        if not futures:
            self._waiting.pop(id, None)

    def _tell(self, id: str, ending: Ending | None) -> None:
        for future in tuple(self._waiting.get(id, ())):
            if not future.done():
                future.set_result(ending)

    async def _run(self) -> None:
        while self._waiting:
            try:
                await self._once()
            except DurasleepError as error:
                logger.warning("results are looked up one by one: the inbox cannot be read (%s)", error)
                for id in tuple(self._waiting):
                    self._tell(id, None)
                await asyncio.sleep(1.0)

    async def _once(self) -> None:
        loop = asyncio.get_running_loop()
        reads: list[list[bytes]] = []
        if not self._link.connected or loop.time() > self._fresh_until:
            reads.append([b"PEXPIRE", self._key, b"%d" % (self._settings.inbox_ttl_s * 1000)])
        if reads:
            is_new = not self._link.connected
            [kept] = await self._link.exchange(reads)
            if kept != 1 or is_new:
                await self._begin_again(kept == 1)
            self._fresh_until = loop.time() + TTL_REFRESH_S
        block_s = self._settings.read_block_s
        [found] = await self._link.exchange(
            [[b"XREAD", b"BLOCK", b"%d" % (block_s * 1000), b"COUNT", b"256", b"STREAMS", self._key, self._last]],
            block_s=block_s,
        )
        if isinstance(found, Exception):
            raise StoreError(f"{found}")
        for _, rows in found or ():
            for entry, fields in rows:
                self._last = entry
                for told in _split(fields):
                    self._hear(told)

    async def _begin_again(self, exists: bool) -> None:
        """After a gap everyone looks for himself, and the stream is read from its own end."""
        if not exists:
            await self._link.exchange(
                [
                    [b"XADD", self._key, b"*", b"o", b""],
                    [b"PEXPIRE", self._key, b"%d" % (self._settings.inbox_ttl_s * 1000)],
                ]
            )
        [rows] = await self._link.exchange([[b"XREVRANGE", self._key, b"+", b"-", b"COUNT", b"1"]])
        if isinstance(rows, Exception):
            raise StoreError(f"{rows}")
        self._last = rows[0][0] if rows else b"0-0"
        for id in tuple(self._waiting):
            self._tell(id, None)

    def _hear(self, content: dict[bytes, bytes]) -> None:
        id = content.get(b"i", b"").decode(errors="replace")
        state = commands.STATE_OF.get(content.get(b"s", b""))
        if not id:
            return
        value = content.get(b"v")
        self._tell(id, Ending(PromiseId(id), state, value) if state and value is not None else None)


def _split(fields: list[bytes]) -> Iterator[dict[bytes, bytes]]:
    """The endings one entry tells of; each begins with its id."""
    told: dict[bytes, bytes] = {}
    for name, value in zip(fields[::2], fields[1::2], strict=False):
        if name == b"i" and told:
            yield told
            told = {}
        told[name] = value
    yield told


class Promises:
    """Promises on their own: what a person, a webhook or another program settles."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def create(self, id: str, *, timeout: Duration | datetime | None = None, timer: bool = False) -> Handle[Any]:
        """Make a promise; after ``timeout`` it is ``timedout``, or, if it is a ``timer``, resolved."""
        store = await self._client.opened()
        created = await store.call(
            calls.create_promise(store.keys(id), id, timeout=timeout, timer=timer, settings=self._client.settings)
        )
        return Handle(
            self._client, PromiseId(id), Any, created.disposition, Ending(PromiseId(id), created.state, created.value)
        )

    async def get(self, id: str) -> Description:
        """How it stands; NotFound if there is none."""
        return await self._client.describe(id)

    async def resolve(self, id: str, value: object = None) -> bool:
        """Resolve it; false if it had settled before, otherwise."""
        return await self._settle(id, State.RESOLVED, self._client.codec.encode(value, f"the value of {id}"))

    async def reject(self, id: str, error: BaseException | str) -> bool:
        """Reject it with an error, which is raised where it is awaited; false if it had settled before."""
        failure = RuntimeError(error) if isinstance(error, str) else error
        return await self._settle(id, State.REJECTED, self._client.codec.encode_error(failure))

    async def cancel(self, id: str) -> bool:
        """Cancel it; false if it had settled before."""
        return await self._settle(id, State.CANCELED, b"")

    async def _settle(self, id: str, state: State, payload: bytes) -> bool:
        store = await self._client.opened()
        return (await store.call(calls.settle(store.keys(id), id, state, payload))).by_us


class Client:
    """Starts, awaits and steers executions in one namespace. Connects at the first call."""

    def __init__(self, store: Store, codec: Codec, settings: Settings, *, group: str) -> None:
        self.codec = codec
        self.settings = settings
        self.promises = Promises(self)
        self._store = store
        self._group = group
        self._inbox = Inbox(store, calls.new_name("client"), settings)

    async def opened(self) -> Store:
        """The store, connected and checked."""
        await self._store.open()
        return self._store

    async def aclose(self) -> None:
        await self._inbox.close()
        await self._store.aclose()

    async def __aenter__(self) -> Self:
        await self._store.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    @overload
    async def rpc(
        self,
        id: str,
        fn: Callable[Concatenate[Context, P], Coroutine[Any, Any, T]],
        *args: Any,
        target: str | None = None,
        timeout: Duration | None = None,
        delay: Duration | datetime | None = None,
        pipeline: Pipeline | None = None,
        **kwargs: Any,
    ) -> Handle[T]: ...

    @overload
    async def rpc(
        self,
        id: str,
        fn: Callable[..., Any] | str,
        *args: Any,
        target: str | None = None,
        timeout: Duration | None = None,
        delay: Duration | datetime | None = None,
        pipeline: Pipeline | None = None,
        **kwargs: Any,
    ) -> Handle[Any]: ...

    async def rpc(
        self,
        id: str,
        fn: Callable[..., Any] | str,
        *args: Any,
        target: str | None = None,
        timeout: Duration | None = None,
        delay: Duration | datetime | None = None,
        pipeline: Pipeline | None = None,
        **kwargs: Any,
    ) -> Handle[Any]:
        """Start ``fn`` under ``id``, or attach to the execution that has this id, and give its handle at once.

        ``timeout`` is the deadline of the execution itself; ``delay`` starts it later. OtherFunction if the id is
        used by another function; nothing is written for arguments that cannot be sent. With ``pipeline`` it becomes a
        part of the caller's own MULTI and exists once that was executed; the answer is the pipeline's.
        """
        name = name_of(fn)
        payload = self.codec.encode_args(args, kwargs, name)
        store = await self.opened()
        call = calls.rpc(
            store.keys(id),
            id,
            name,
            payload,
            target=target or self._group,
            timeout=timeout,
            delay=delay,
            inbox=self._inbox.name,
            settings=self.settings,
        )
        hint = Any if isinstance(fn, str) else returns_of(fn)
        if pipeline is not None:
            calls.enqueue(pipeline, call, self.settings)
            return Handle(self, PromiseId(id), hint, None, None)
        created = await store.call(call)
        ending = calls.ending_of_created(PromiseId(id), created)
        return Handle(self, PromiseId(id), hint, created.disposition, ending)

    def get(self, id: str, hint: Any = Any) -> Handle[Any]:
        """A handle for what has this id, its result shaped by ``hint``; whether it exists shows when it is awaited."""
        return Handle(self, check_id(id), hint, None, None)

    async def describe(self, id: str) -> Description:
        """Everything there is to see of a promise; NotFound if there is none."""
        store = await self.opened()
        return await store.run(calls.describe(store.keys(id), check_id(id), self.codec))

    async def export(self, id: str) -> Recording:
        """An execution with its journal, see ``durasleep.runtime.recording``; NotFound if there is none."""
        store = await self.opened()
        return await store.run(calls.export(store.keys(id), check_id(id)))

    async def look(self, id: PromiseId) -> Ending:
        """How a promise stands; NotFound if there is none."""
        store = await self.opened()
        return await store.run(calls.look(store.keys(id), id))

    async def wait(self, id: PromiseId, timeout: Duration | None = None) -> Ending:
        """Wait until a promise has settled; WaitTimeout after ``timeout``, and it goes on."""
        limit_s = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        try:
            async with asyncio.timeout(limit_s):
                return await self._wait(id)
        except TimeoutError:
            raise WaitTimeout(f"{id} has not settled within {limit_s:g} s; it goes on") from None

    async def _wait(self, id: PromiseId) -> Ending:
        store = await self.opened()
        expected = self._inbox.expect(id)
        try:
            if owner_of(id) is None or await store.call(reads.read_head(store.keys(id), id)) is not None:
                created = await store.call(commands.attach(store.keys(id), id, inbox=self._inbox.name))
                ending = calls.ending_of_created(id, created)
                check_s = self.settings.client_check_s
            else:
                ending = await self.look(id)  # an entry of a journal tells no inbox
                check_s = 1.0
            while not ending.is_final:
                done, _ = await asyncio.wait({expected}, timeout=check_s)
                heard = expected.result() if done else None
                if done and heard is None:
                    expected = self._inbox.expect(id)
                ending = heard or await self.look(id)
            return ending
        finally:
            expected.cancel()

    async def search(
        self,
        *,
        status: str | Collection[str] | None = None,
        group: str | None = None,
        function: str | None = None,
        limit: int = 1_000,
    ) -> Found:
        """Executions that are ``queued``, ``running``, ``suspended``, ``delayed``, ``halted`` or ``done``.

        All but ``done`` by default; of those the latest thousand. ``Found.is_all`` tells whether a limit cut it.
        """
        store = await self.opened()
        plan = search.search(store.keys(), status=status, group=group, function=function, limit=limit)
        return await store.run(plan)

    async def timers(self, limit: int = 20) -> list[Timer]:
        """What falls due next, soonest first."""
        store = await self.opened()
        return await store.run(search.timers(store.keys(), limit))

    async def tree(self, id: str) -> Tree:
        """An execution and all it has called, as one tree; NotFound if there is none."""
        store = await self.opened()
        return await store.run(tree.tree(store.keys, id))

    async def cancel(self, id: str, *, force: bool = False) -> Controlled:
        """Ask an execution to end, or end it by ``force`` without running its code again."""
        return await self._control("force" if force else "cancel", id)

    async def halt(self, id: str, reason: str = "halted by hand") -> Controlled:
        """Stop an execution where it is until ``resume``; its timers go on."""
        return await self._control("halt", id, reason=reason)

    async def resume(self, id: str) -> Controlled:
        """Let a halted execution go on."""
        return await self._control("resume", id)

    async def wake(self, id: str) -> Controlled:
        """A sleep ends now; a delayed execution starts now.

        The id is that of a timer, or of an execution that waits for exactly one.
        """
        return await self._control("wake", id)

    async def reschedule(self, id: str, due: Duration | datetime) -> Controlled:
        """Move a delayed start, a deadline, a timeout, or a timer, which may be the only one an execution waits for."""
        return await self._control("reschedule", id, due=due)

    async def workers(self, group: str | None = None) -> list[str]:
        """Names of the workers of a group that are alive, as far as their beats tell."""
        store = await self.opened()
        keys = store.keys()
        try:
            consumers = await store.call(reads.read_consumers(keys, group or self._group))
        except NotFound:
            return []
        beats = await asyncio.gather(*(store.call(reads.read_beat(keys, consumer)) for consumer in consumers))
        return [name.partition("/")[0] for name, beat in zip(consumers, beats, strict=True) if beat is not None]

    async def _control(
        self, action: str, id: str, *, due: Duration | datetime | None = None, reason: str = ""
    ) -> Controlled:
        store = await self.opened()
        return await store.run(calls.steer(store.keys(id), action, id, due=due, reason=reason))
