"""The client verbs, and the handle of an execution or promise. A script writes ``sync.py`` from this file."""

# The classes here use private members of one another, which are not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache, partial
from types import UnionType
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, ParamSpec, Self, TypeVar, Unpack, overload

from durasleep import query
from durasleep.channel import Channel, channel_of
from durasleep.client import requests
from durasleep.client.inbox import Inbox, InboxStream, Subscription
from durasleep.client.indexes import Indexes
from durasleep.client.limits import Limits
from durasleep.client.requests import CallOptions, Options, Pipeline
from durasleep.client.waiting import Waiter, WaitWrapper
from durasleep.codec import Codec
from durasleep.declared import NOTHING_DECLARED, Declared
from durasleep.deprecation import warn_renamed
from durasleep.errors import (
    DurasleepError,
    Ended,
    LimitFull,
    NamespaceMissing,
    NotAllowed,
    NotFound,
    TimedOut,
    UsageError,
    WaitTimeout,
)
from durasleep.model import (
    Delivery,
    Disposition,
    Due,
    Duration,
    Place,
    PromiseId,
    Recording,
    State,
    check_by,
    check_id,
    check_key_name,
    check_message_key,
    check_name,
    due_in,
    owner_of,
    seconds_of,
)
from durasleep.observe import tracing
from durasleep.protocol import audit, journal, server, streams
from durasleep.protocol import view as views
from durasleep.protocol.command import BatchItem
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.partitions import short_tag
from durasleep.protocol.promises import Controlled, Created
from durasleep.protocol.slots import Location
from durasleep.protocol.versions import CHANNELS, FLOW
from durasleep.query import control, declaring, describe, result
from durasleep.query.describe import Description
from durasleep.query.status import PromiseStatus
from durasleep.query.view import View, view_of
from durasleep.runtime.definition import Registry, called_by, name_of, returns_of
from durasleep.settings import Settings
from durasleep.transport.store import Store

if TYPE_CHECKING:
    from durasleep.client.schedules import Schedules
    from durasleep.protocol.channels import Sent
    from durasleep.runtime.context import AsyncTask, Workflow

T = TypeVar("T")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)
P = ParamSpec("P")

Start = tuple[Callable[..., Any] | str, *tuple[Any, ...]]
"""A function, or its name, and its arguments: how an execution begins that is sent a message first."""

_NO_OPTIONS = CallOptions()

logger = logging.getLogger("durasleep")


def _deaf(_keys: Keyspace) -> None:
    """The inbox is told nothing: the call is made later, by somebody else."""


RELEASE_S = 60.0  # how long a release is kept: every worker accepts it within a second or two


class Handle(Generic[T_co]):
    """An execution or promise; ``result`` waits for its end."""

    __slots__ = ("__weakref__", "_client", "_ending", "_subscription", "_type_hint", "disposition", "id")

    def __init__(
        self,
        client: Client,
        id: PromiseId,
        type_hint: Any,
        disposition: Disposition | None,
        ending: PromiseStatus | None,
        subscription: Subscription | None = None,
    ) -> None:
        self.id = id
        self.disposition = disposition
        """What ``rpc`` found: ``created``, ``attached``, ``finished`` or ``debounced``; ``dropped`` if the limit of the
        function had no room, so that nothing was made; None from ``get`` or in a pipeline.
        """
        self._client = client
        self._type_hint = type_hint
        self._ending = ending
        self._subscription = subscription

    def __await__(self) -> Generator[Any, None, T_co]:  # asyncio only
        return self.result().__await__()

    async def result(self, timeout: Duration | None = None) -> T_co:
        """Wait for the value; raises what the execution raised, or Canceled or TimedOut.

        ``timeout`` is seconds, a timedelta, or text such as ``"30s"``. After it WaitTimeout is raised, and the
        execution goes on. By default the wait has no end. Raises ClientClosed if the client is closed meanwhile,
        NotFound if there is no such execution or promise, RemoteError if the class of the error is not known here, and
        UsageError if the value does not fit the type hint.
        """
        ending = self._known()
        if ending is None:
            with self._client._waiter.inbox.urgent:
                ending = await self._settled(timeout)
        return self._result_of(ending)

    @property
    def _is_missed(self) -> bool:
        """Whether the inbox may have missed its end."""
        return self._subscription is not None and self._subscription.is_missed

    async def _settled(self, timeout: Duration | None = None) -> PromiseStatus:
        """Wait for its end. If very many are awaited, the inbox pauses after each read."""
        ending = self._known()
        if ending is None:
            subscription, self._subscription = self._subscription, None
            self._ending = ending = await self._client._waiter.ending(self.id, timeout, subscription)
        return ending

    def _result_of(self, ending: PromiseStatus) -> T_co:
        """The result, given its end; raises as ``result`` does."""
        return result.result_of(ending, self._client.codec, self._type_hint)

    def _known(self) -> PromiseStatus | None:
        """Its end, if that is known already: then the server need not be asked."""
        self._check_made()
        if self._subscription is not None and self._subscription.ending is not None:
            self._ending, self._subscription = self._subscription.ending, None
        return self._ending if self._ending is not None and self._ending.is_final else None

    def _check_made(self) -> None:
        if self.disposition is Disposition.DROPPED:
            raise LimitFull(f"{self.id} was not started: the limit of its function had no room for another one to wait")

    async def done(self) -> bool:
        """Whether it has settled; raises NotFound if it is not kept any more, and LimitFull if it was dropped."""
        self._check_made()
        if self._ending is None or not self._ending.is_final:
            self._ending = await self._client._waiter.status(self.id)
        return self._ending.is_final

    async def cancel(self, *, force: bool = False) -> str:
        """Ask it to end; with ``force`` it ends without running its code again.

        Answers what happened: ``canceling``, ``canceled``, ``canceled while delayed``, ``canceled while halted`` or
        ``already``, as ``cancel`` of the client does. Raises NotFound if it is not kept any more, and NotAllowed for a
        step.
        """
        return (await self._client.cancel(self.id, force=force)).word

    def _begin(self, created: Created) -> None:
        """Keep what the call has found: the disposition, and the end if there is one already."""
        self.disposition = created.disposition
        if created.disposition is Disposition.DROPPED and self._subscription is not None:
            self._subscription.forget()
            self._subscription = None
        if created.state is State.PENDING:
            return
        self._ending = requests.status_of_created(self.id, created)
        if self._subscription is not None:
            self._subscription.forget()
            self._subscription = None

    def _subscribe(self) -> Subscription | None:
        """A new subscription, to be attached; None if its end is known, or the inbox is notified of it already."""
        is_known = self._ending is not None and self._ending.is_final
        subscription = self._subscription
        is_subscribed = (
            subscription is not None
            and subscription.stream.inbox is self._client._waiter.inbox
            and not subscription.is_missed
        )
        if is_known or is_subscribed or owner_of(self.id) is not None:
            return None
        self._subscription = self._client._waiter.inbox.stream(self.id).subscribe(self.id)
        return self._subscription

    def __del__(self) -> None:
        if self._subscription is not None:  # nobody waits for it any more
            self._subscription.forget()

    def __repr__(self) -> str:
        found = "unknown" if self.disposition is None else State.PENDING.value
        state = self._ending.state.value if self._ending else found
        return f"<Handle {self.id} {self.disposition or 'of get'}, {state}>"


async def attach(handles: Sequence[Handle[Any]]) -> None:
    """Subscribe to the endings of some handles, each through its own client."""
    for client in {handle._client for handle in handles}:
        await client._notify_of([handle for handle in handles if handle._client is client])


class Promises:
    """Promises on their own: a person, a webhook or another program settles them."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def create(self, id: str, *, timeout: Duration | datetime | None = None, timer: bool = False) -> Handle[Any]:
        """Make a promise; after ``timeout`` it is ``timedout``, or, if it is a ``timer``, resolved.

        ``timeout`` is seconds, a timedelta, text such as ``"1h30m"``, or an aware datetime; by default there is none.
        If there is a promise under this id already, its handle is the answer. Raises OtherFunction if the id belongs to
        an execution, and UsageError for an id or timeout that cannot be used, or a timer without a timeout.
        """
        store = await self._client._opened()
        created = await store.call(
            requests.create_promise(
                store.keys(id),
                id,
                timeout=timeout,
                timer=timer,
                idempotency_key=self._client._new_key(),
                settings=self._client.settings,
            )
        )
        return Handle(
            self._client,
            PromiseId(id),
            Any,
            created.disposition,
            PromiseStatus(PromiseId(id), created.state, created.value),
        )

    async def get(self, id: str) -> Description:
        """Everything there is to see of a promise; raises NotFound if there is none."""
        return await self._client.describe(id)

    async def resolve(self, id: str, value: object = None) -> bool:
        """Resolve it with ``value``; false if it had already settled in another way, which is not changed.

        It may be repeated: the same call with the same value answers true again. Raises NotFound if there is no such
        promise, NotAllowed for an execution, which only settles itself, and UsageError for a value that cannot be sent.
        """
        return await self._settle(id, State.RESOLVED, self._client.codec.encode(value, f"the value of {id}"))

    async def reject(self, id: str, error: BaseException | str) -> bool:
        """Reject it with ``error``, which is raised where it is awaited; false if it had settled in another way.

        A text becomes a RuntimeError. Raises NotFound and NotAllowed as ``resolve`` does.
        """
        failure = RuntimeError(error) if isinstance(error, str) else error
        return await self._settle(id, State.REJECTED, self._client.codec.encode_error(failure))

    async def cancel(self, id: str) -> bool:
        """Cancel it; false if it had settled in another way. Raises NotFound and NotAllowed as ``resolve`` does."""
        return await self._settle(id, State.CANCELED, b"")

    async def _settle(self, id: str, state: State, payload: bytes) -> bool:
        store = await self._client._opened()
        by_us = (await store.call(requests.settle(store.keys(id), id, state, payload))).by_us
        if by_us:
            await self._client._note(store.keys(id), "settle", id, word=state.value)
        return by_us


class _Verbs:
    """The verbs that are the same with options and without."""

    __slots__ = ()

    @overload
    async def start(self, fn: Workflow[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Handle[T]: ...

    @overload
    async def start(self, fn: AsyncTask[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Handle[T]: ...

    @overload
    async def start(self, fn: str, /, *args: Any, **kwargs: Any) -> Handle[Any]: ...

    @overload
    async def start(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Handle[T]: ...

    async def start(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Handle[Any]:
        """Start ``fn`` with these arguments, under a new id each time::

            handle = await app.start(send_mail, "ada@example.org", subject="Hello")
            print(handle.id)

        The id is a UUID of version 7, and later ids sort behind. With several partitions, and a limit that counts by
        key, the key in braces stands before it. Raises UsageError as ``rpc`` does.
        """
        return await self._start(fn, args, kwargs)

    @overload
    async def send(
        self, id: str, channel: Channel[T], value: T, /, *, key: str | None = None, start: Start | None = None
    ) -> Delivery: ...

    @overload
    async def send(
        self, id: str, channel: str, value: Any = None, /, *, key: str | None = None, start: Start | None = None
    ) -> Delivery: ...

    async def send(
        self,
        id: str,
        channel: Channel[Any] | str,
        value: Any = None,
        /,
        *,
        key: str | None = None,
        start: Start | None = None,
    ) -> Delivery:
        """Send a message to an execution, whose code gets it by ``ctx.receive`` or ``ctx.messages``::

            await app.send("order-42", "payment", Payment(4200), key="invoice-9")

        The answer says what became of it: ``"delivered"`` if the execution waited for it, ``"stored"`` if it is in its
        mailbox, and ``"duplicate"`` if another call had sent a message with this ``key`` to this channel. The mailbox
        remembers the last 1,000 keys while the execution lives. ``channel`` is a name, or a ``Channel``, which also
        checks the value.

        ``start`` is a function, or its name, and its arguments: it begins the execution if there is none, in the same
        script, so that nobody can be first: ``start=(checkout, cart)``. Options of this begin are given by ``options``.

        Raises NotFound if there is no such execution, Ended if it has ended, and MailboxFull if it has 1,000 unread
        messages, or 1 MiB of them: nothing is written then. Raises UsageError for a value that cannot be sent or does
        not fit its channel, NotAllowed for anything but an execution, and while workers of an older version are left;
        for ``start`` as ``rpc`` does.
        """
        return await self._send(id, channel, value, key, start)

    @overload
    async def ask(
        self,
        id: str,
        channel: Channel[T],
        value: T,
        /,
        *,
        timeout: Duration,
        returns: type[R],
        start: Start | None = None,
    ) -> R: ...

    @overload
    async def ask(
        self,
        id: str,
        channel: str,
        value: Any = None,
        /,
        *,
        timeout: Duration,
        returns: type[R],
        start: Start | None = None,
    ) -> R: ...

    @overload
    async def ask(
        self,
        id: str,
        channel: Channel[T],
        value: T,
        /,
        *,
        timeout: Duration,
        returns: Any = Any,
        start: Start | None = None,
    ) -> Any: ...

    @overload
    async def ask(
        self,
        id: str,
        channel: str,
        value: Any = None,
        /,
        *,
        timeout: Duration,
        returns: Any = Any,
        start: Start | None = None,
    ) -> Any: ...

    async def ask(
        self,
        id: str,
        channel: Channel[Any] | str,
        value: Any = None,
        /,
        *,
        timeout: Duration,
        returns: Any = Any,
        start: Start | None = None,
    ) -> Any:
        """Send a message to an execution, and wait for its answer, which is the code's ``message.reply``::

            price = await app.ask("order-42", "quote", {"item": 7}, timeout="30s", returns=Price)

        ``returns`` shapes the answer; by default it is plain data. ``channel``, ``value`` and ``start`` are as for
        ``send``. ``timeout`` is seconds, a timedelta, or text such as ``"30s"``. After it TimedOut is raised; the
        message stays, and its answer is heard by nobody. Raises Ended as soon as the execution ends without an answer,
        and the error that the code answers with. If nothing was sent, it raises as ``send`` does. What becomes of a
        message after TimedOut is not known: a key in its value tells the code of a second call that it is the same.
        """
        return await self._ask(id, channel, value, timeout, returns, start)

    async def _start(self, fn: Callable[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Handle[Any]:
        raise NotImplementedError

    async def _send(
        self, id: str, channel: Channel[Any] | str, value: Any, key: str | None, start: Start | None
    ) -> Delivery:
        raise NotImplementedError

    async def _ask(
        self,
        id: str,
        channel: Channel[Any] | str,
        value: Any,
        timeout: Duration,
        returns: Any,
        start: Start | None,
    ) -> Any:
        raise NotImplementedError


class Caller(_Verbs):
    """The verbs with options, as ``app.options(...)`` gives them. It may be kept and used again.

    All arguments after the function are the function's own, whatever their names are.
    """

    __slots__ = ("_client", "_options")

    def __init__(self, client: Client, options: CallOptions) -> None:
        self._client = client
        self._options = options

    @overload
    async def rpc(self, id: str, fn: Workflow[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Handle[T]: ...

    @overload
    async def rpc(self, id: str, fn: AsyncTask[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Handle[T]: ...

    @overload
    async def rpc(self, id: str, fn: str, /, *args: Any, **kwargs: Any) -> Handle[Any]: ...

    @overload
    async def rpc(self, id: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Handle[T]: ...

    async def rpc(self, id: str, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Handle[Any]:
        """Start ``fn`` under ``id``, or attach to the execution that has this id: see ``rpc`` of the client."""
        return await self._client._rpc(id, fn, args, kwargs, self._options)

    @overload
    async def rpc_many(
        self, fn: Callable[..., Awaitable[T]], many: Iterable[tuple[Any, ...]], /
    ) -> list[Handle[T]]: ...

    @overload
    async def rpc_many(self, fn: str, many: Iterable[tuple[Any, ...]], /) -> list[Handle[Any]]: ...

    @overload
    async def rpc_many(self, fn: Callable[..., T], many: Iterable[tuple[Any, ...]], /) -> list[Handle[T]]: ...

    async def rpc_many(self, fn: Callable[..., Any] | str, many: Iterable[tuple[Any, ...]], /) -> list[Handle[Any]]:
        """Start ``fn`` many times, each with an id and its arguments: see ``rpc_many`` of the client."""
        return await self._client._rpc_many(fn, many, self._options)

    async def schedule(
        self, name: str, line: str, fn: Callable[..., Any] | str, /, *args: Any, zone: str = "UTC", **kwargs: Any
    ) -> datetime:
        """See ``schedule`` of the client. It takes only the options ``target`` and ``retention``, else UsageError."""
        options = self._options
        if options != CallOptions(target=options.target, retention=options.retention):
            raise UsageError(f"schedule {name!r}: it takes only the options target and retention")
        return await self._client._schedule(name, line, fn, args, kwargs, zone, options)

    async def _start(self, fn: Callable[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Handle[Any]:
        return await self._client._rpc(None, fn, args, kwargs, self._options)

    async def _send(
        self, id: str, channel: Channel[Any] | str, value: Any, key: str | None, start: Start | None
    ) -> Delivery:
        return await self._client._send_with(self._options, id, channel, value, key, start)

    async def _ask(
        self,
        id: str,
        channel: Channel[Any] | str,
        value: Any,
        timeout: Duration,
        returns: Any,
        start: Start | None,
    ) -> Any:
        return await self._client._ask_with(self._options, id, channel, value, timeout, returns, start)


class _Called(NamedTuple):
    """A function that is to be called, with its arguments."""

    name: str
    declared: Declared
    payload: bytes
    key: str
    """That of its arguments, for its limit."""


def _absent(where: Sequence[Location]) -> set[int]:
    """The partitions that cannot be asked now."""
    return {number for number, location in enumerate(where) if not location.rests}


async def start_once(
    caller: Caller, unique: str, id: str | None, fn: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Handle[Any]:
    """Start ``fn`` under ``id``, or under an id that is made of ``unique``. A call that is repeated with the same
    ``unique``, by whatever program, starts nothing twice, and is answered as the first one.
    """
    return await caller._client._rpc(id, fn, args, kwargs, caller._options, unique)


async def store_of(client: Client) -> Store:
    """The store of a client here, connected and checked: for code that is built on clients."""
    return await client._opened()


def unopened_store_of(client: Client) -> Store:  # asyncio only
    """The store of a client here, which may not be connected yet."""
    return client._waiter.store


def inbox_of(client: Client) -> Inbox:
    """The inbox of a client here."""
    return client._waiter.inbox


def watch_waits(client: Client, wrap_wait: WaitWrapper) -> None:  # asyncio only
    """For tests: ``wrap_wait`` wraps each wait outside of tasks and steps, and may end it."""
    client._waiter.wrap_wait = wrap_wait


def acting_as(client: Client, by: str | None) -> Client:  # asyncio only
    """The same client, over the same connections, whose changes somebody else makes, see ``by``; None is nobody."""
    from copy import copy

    other = copy(client)
    other._by = "" if by is None else check_by(by)
    other.promises, other.limits, other.indexes = Promises(other), Limits(other), Indexes(other)
    return other


async def ending_of(client: Client, id: PromiseId, timeout: Duration | None = None) -> PromiseStatus:
    """Wait for the end of a promise, as it is kept; WaitTimeout after ``timeout``, and the promise goes on."""
    return await client._waiter.ending(id, timeout)


async def status_of(client: Client, id: PromiseId) -> PromiseStatus:
    """The status of a promise, as it is kept; NotFound if there is none."""
    return await client._waiter.status(id)


async def next_page(client: Client, looking: query.search.Search, limit: int) -> query.search.SearchPage:
    """The next page of a search, in the namespace of a client."""
    return await client._next_page(await client._opened(), looking, limit)


class Client(_Verbs):
    """Starts, awaits and controls executions in one namespace. It connects at the first call.

    One client serves all event loops, in any thread: each has a connection of its own, made at its first call.

    Every call that asks Redis may raise a StoreError: StoreUnavailable if Redis gives no answer for ten seconds, and at
    once until a first call has got through, or StoreRefused if it rejects our password or permissions. An id or name
    that cannot be used raises InvalidId, which is a UsageError.
    """

    def __init__(
        self,
        store: Callable[[], Store],
        codec: Codec,
        settings: Settings,
        *,
        registry: Registry,
        group: str,
        by: str | None = None,
    ) -> None:
        self.registry = registry
        self.codec = codec
        self.settings = settings
        self.promises = Promises(self)
        self.limits = Limits(self)
        self.indexes = Indexes(self)
        self._store = cache(store)  # made when it is first needed
        self._waiter = Waiter(self._store, settings)
        self._group = group
        self._ids = requests.IdSource()
        self._kept: dict[str, Declared] = {}
        """What this program has declared of functions."""
        self._by = "" if by is None else check_by(by)
        self._finder: query.overview.Finder | None = None
        self._minutes: query.stats.Minutes | None = None

    def _new_key(self) -> str:
        """The idempotency key of one call, under which it may be repeated."""
        return self._ids.idempotency_key()

    async def _opened(self) -> Store:
        """The store, connected and checked."""
        return await self._waiter.opened()

    async def aclose(self) -> None:
        """Close the connections of this event loop; its waits raise ClientClosed. The next call connects again."""
        await self._waiter.aclose()

    async def __aenter__(self) -> Self:
        with suppress(NamespaceMissing):  # its first call may be ``init``
            await self._opened()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    @overload
    async def rpc(
        self,
        id: str,
        fn: Callable[..., Awaitable[T]],
        *args: Any,
        target: str | None = None,
        timeout: Duration | None = None,
        delay: Duration | datetime | None = None,
        pipeline: Pipeline | None = None,
        min_replicas: int | None = None,
        fsync: bool | None = None,
        **kwargs: Any,
    ) -> Handle[T]: ...

    @overload
    async def rpc(
        self,
        id: str,
        fn: str,
        *args: Any,
        target: str | None = None,
        timeout: Duration | None = None,
        delay: Duration | datetime | None = None,
        pipeline: Pipeline | None = None,
        min_replicas: int | None = None,
        fsync: bool | None = None,
        **kwargs: Any,
    ) -> Handle[Any]: ...

    @overload
    async def rpc(
        self,
        id: str,
        fn: Callable[..., T],
        *args: Any,
        target: str | None = None,
        timeout: Duration | None = None,
        delay: Duration | datetime | None = None,
        pipeline: Pipeline | None = None,
        min_replicas: int | None = None,
        fsync: bool | None = None,
        **kwargs: Any,
    ) -> Handle[T]: ...

    async def rpc(
        self,
        id: str,
        fn: Callable[..., Any] | str,
        *args: Any,
        target: str | None = None,
        timeout: Duration | None = None,
        delay: Duration | datetime | None = None,
        pipeline: Pipeline | None = None,
        min_replicas: int | None = None,
        fsync: bool | None = None,
        **kwargs: Any,
    ) -> Handle[Any]:
        """Start ``fn`` under ``id``, or attach to the execution that has this id, and give its handle at once::

            handle = await app.rpc("order-1", checkout, cart, timeout="1h")
            receipt = await handle.result()

        ``target`` says who runs it. ``"gpu"`` or ``"poll://any@gpu"`` is any worker of that group, and
        ``"poll://uni@gpu/w1"`` is the worker of that name. By default it is the group of this application. The
        functions of a group that ``durasleep serve --bridge`` names live in another language; call them by name.
        ``timeout`` is the deadline of the execution itself, and ``delay`` starts it later. Both are seconds, a
        timedelta, or text such as ``"1h30m"``, from now; a ``delay`` may also be an aware datetime. For arguments of
        these names, and more options, see ``options``.

        With ``pipeline``, a redis-py pipeline, the call becomes part of the caller's own MULTI. It exists once the
        MULTI was executed, and its answer is among those of the pipeline.

        With ``min_replicas`` the call is confirmed once so many replicas have received it, with ``fsync`` once the
        server's disk has it. By default both are as in the settings.

        Raises UsageError for arguments that cannot be sent or that do not fit ``fn``: nothing is written then. Raises
        LimitFull if the limit of ``fn`` has no room for another one to wait, and NotAllowed for a priority, label or
        limit while workers of an older version are left. Raises OtherFunction if the id is used by another function.
        Raises NotReplicated if the call could not be confirmed in time: the execution has started and goes on, and it
        is safe to call again.
        """
        options = CallOptions(target, timeout, delay, None, pipeline, min_replicas, fsync)
        return await self._rpc(id, fn, args, kwargs, options)

    @overload
    async def rpc_many(
        self,
        fn: Callable[..., Awaitable[T]],
        many: Iterable[tuple[Any, ...]],
        *,
        target: str | None = None,
        timeout: Duration | None = None,
        delay: Duration | datetime | None = None,
    ) -> list[Handle[T]]: ...

    @overload
    async def rpc_many(
        self,
        fn: str,
        many: Iterable[tuple[Any, ...]],
        *,
        target: str | None = None,
        timeout: Duration | None = None,
        delay: Duration | datetime | None = None,
    ) -> list[Handle[Any]]: ...

    @overload
    async def rpc_many(
        self,
        fn: Callable[..., T],
        many: Iterable[tuple[Any, ...]],
        *,
        target: str | None = None,
        timeout: Duration | None = None,
        delay: Duration | datetime | None = None,
    ) -> list[Handle[T]]: ...

    async def rpc_many(
        self,
        fn: Callable[..., Any] | str,
        many: Iterable[tuple[Any, ...]],
        *,
        target: str | None = None,
        timeout: Duration | None = None,
        delay: Duration | datetime | None = None,
    ) -> list[Handle[Any]]:
        """Start ``fn`` many times: each of ``many`` is an id, followed by the arguments::

            handles = await app.rpc_many(pay, [("order-1", 5), ("order-2", 7)])
            receipts = await app.gather(handles)

        It is as ``rpc`` for each of them, in the order given, but hundreds are sent together. If one is refused, for
        example with OtherFunction, its error is raised: those sent together with it have begun, later ones have not.
        ``target``, ``timeout`` and ``delay`` are as for ``rpc``.
        """
        return await self._rpc_many(fn, many, CallOptions(target, timeout, delay))

    def options(self, **options: Unpack[Options]) -> Caller:
        """The verbs with options, so that all arguments of the verb are the function's own::

            late = app.options(delay="1h", retention="30d")
            handle = await late.rpc("reminder-7", remind, user)

        ``target`` says who runs it, as for ``rpc``. ``timeout`` is its deadline, ``delay`` the time until it starts,
        and ``retention`` how long it is kept after its end. They are seconds, a timedelta, or text such as ``"1h30m"``;
        a ``delay`` may also be an aware datetime, and a ``retention`` ``"forever"``. ``priority`` is from 1, which
        comes first, to 5; by default that of its function, or 3. ``key`` is for the limit of its function, if the
        function does not make it from its arguments. ``labels`` are names and values by which people find it, such as
        ``{"customer": "7"}``. Its children have both, too. ``if_finished="start"`` starts it anew if the execution of
        this id has ended; by default the call answers its result. ``debounce="5s"`` starts it 5 seconds after the last
        of several calls under its id, with the arguments of that one; ``debounce=("5s", "1m")`` no later than a minute
        after the first. ``pipeline``, ``min_replicas`` and ``fsync`` are as for ``rpc``. ``schedule`` may be called
        with options, too. Raises TypeError for an unknown option and UsageError for a value that cannot be used: here,
        not at the call.
        """
        return Caller(self, requests.call_options(options))

    async def _start(self, fn: Callable[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Handle[Any]:
        return await self._rpc(None, fn, args, kwargs, _NO_OPTIONS)

    async def _send(
        self, id: str, channel: Channel[Any] | str, value: Any, key: str | None, start: Start | None
    ) -> Delivery:
        return await self._send_with(_NO_OPTIONS, id, channel, value, key, start)

    async def _ask(
        self,
        id: str,
        channel: Channel[Any] | str,
        value: Any,
        timeout: Duration,
        returns: Any,
        start: Start | None,
    ) -> Any:
        return await self._ask_with(_NO_OPTIONS, id, channel, value, timeout, returns, start)

    async def _rpc(
        self,
        id: str | None,
        fn: Callable[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
        unique: str = "",
    ) -> Handle[Any]:
        """See ``rpc`` and ``start``; for ``unique`` see ``start_once``."""
        requests.check_id_stands_first(id)
        called = self._called(fn, args, kwargs, options)
        store = self._waiter.store.confirming(options.min_replicas, options.fsync)
        await store.open()
        if id is None:
            id = requests.new_id(options.key or called.key if len(store.keyspaces) > 1 else "", unique)
        listening = self._listening(store) if options.pipeline is None else _deaf
        type_hint = Any if isinstance(fn, str) else returns_of(fn)
        with tracing.calling("rpc", called.name, group=options.group(self._group), id=id) as span:
            call = await self._beginning(store, id, called, options, listening, span.trace, unique)
            if options.pipeline is not None:
                requests.check_unconfirmed(options.min_replicas, options.fsync)
                of_cluster = store.connector.topology is not None
                requests.enqueue(options.pipeline, call, self.settings, of_cluster=of_cluster)
                return Handle(self, PromiseId(id), type_hint, None, None)
            [handle] = self._handles([PromiseId(id)], type_hint, store, listening)
            handle._begin(await store.call(call))
        return handle

    def _called(
        self, fn: Callable[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions
    ) -> _Called:
        """A function with its arguments, checked; UsageError for what cannot be sent or does not fit it."""
        self.registry.check_registered(fn)
        definition = self.registry.called(fn)
        name = name_of(fn) if definition is None else definition.name
        payload = self.codec.encode_args(args, kwargs, name, called_by(definition or fn))
        if definition is not None:
            definition.check(args, kwargs)
            definition.declared.check_key(name, options.key)
        declared = NOTHING_DECLARED if definition is None else definition.declared
        return _Called(name, declared, payload, "" if options.key else declared.key_of(name, args, kwargs))

    async def _beginning(
        self,
        store: Store,
        id: str,
        called: _Called,
        options: CallOptions,
        listening: Callable[[Keyspace], InboxStream | None],
        trace: str,
        unique: str = "",
    ) -> BatchItem[Created]:
        """The call that begins an execution, or attaches to it; everything that must be before it has been done."""
        await self._prepare(store, called.name, called.declared, options)
        make = self._maker(store, called.name, options, listening, called.declared, trace)
        return make(id, called.payload, requests.call_key(unique) if unique else self._new_key(), called.key)

    async def _send_with(
        self,
        options: CallOptions,
        id: str,
        channel: Channel[Any] | str,
        value: Any,
        key: str | None,
        start: Start | None,
    ) -> Delivery:
        if key is not None:
            check_message_key(key)
        name, _ = channel_of(channel)
        with tracing.calling("send", name, group=name, id=id) as span:
            store, make = await self._message(options, id, channel, value, start, span.trace)
            sent = await store.call(make(key=key))
        await self._note(store.keys(id), "send", id, word=f"{sent.delivery} {name}")
        return sent.delivery

    async def _ask_with(
        self,
        options: CallOptions,
        id: str,
        channel: Channel[Any] | str,
        value: Any,
        timeout: Duration,
        returns: Any,
        start: Start | None,
    ) -> Any:
        due = due_in(timeout, "timeout")
        name, _ = channel_of(channel)
        with tracing.calling("ask", name, group=name, id=id) as span:
            return await self._ask_traced(options, id, channel, value, timeout, due, returns, start, span.trace)

    async def _ask_traced(
        self,
        options: CallOptions,
        id: str,
        channel: Channel[Any] | str,
        value: Any,
        timeout: Duration,
        due: Due,
        returns: Any,
        start: Start | None,
        trace: str,
    ) -> Any:
        store, make = await self._message(options, id, channel, value, start, trace)
        keys = store.keys(id)
        reply_id = PromiseId(requests.new_id(short_tag(keys.partition, keys.partitions)))
        awaited = (reply_id, check_id(id))
        stream = self._listening(store)(keys)
        subscriptions = [] if stream is None else [stream.subscribe(one) for one in awaited]
        try:
            sent = await store.call(make(reply=reply_id, due=due, inbox=self._waiter.inbox.name))
            await self._note(keys, "ask", id, word=f"{sent.delivery} {channel_of(channel)[0]}")
            with self._waiter.inbox.urgent:
                answer = await self._answer(awaited, timeout, subscriptions)
        finally:
            for one in subscriptions:
                one.forget()
        return result.result_of(answer, self.codec, returns)

    async def _answer(
        self, awaited: tuple[PromiseId, PromiseId], timeout: Duration, subscriptions: Sequence[Subscription]
    ) -> PromiseStatus:
        """How the promise of an answer has settled, the first of two; the other one is the execution that was asked."""
        reply_id, id = awaited
        try:
            ending = await self._waiter.first(awaited, timeout, subscriptions)
            how = f": {ending.state}"
        except WaitTimeout:
            raise await self._unanswered(id, timeout) from None
        except NotFound:  # one of them: an execution that has ended is not kept for ever
            ending, how = None, ""
        if ending is None or ending.id != reply_id:
            ending = await self._waiter.status(reply_id)  # its answer may have been its last deed
            if not ending.is_final:
                raise Ended(f"{id} has ended without an answer{how}")
        if ending.state is State.TIMEDOUT:
            raise await self._unanswered(id, timeout)
        return ending

    async def _unanswered(self, id: PromiseId, timeout: Duration) -> TimedOut:
        """That there is no answer; and why, if a person has to look at the execution."""
        text = f"{id} has not answered within {seconds_of(timeout):g} s; it has the message"
        with suppress(DurasleepError):
            store = await self._opened()
            record = await store.call(journal.read_outcome(store.keys(id), id))
            if record is not None and record.place is Place.HALTED:
                text += f"; it is halted: {record.reason.partition(chr(10))[0]}"
        return TimedOut(text)

    async def _message(
        self, options: CallOptions, id: str, channel: Channel[Any] | str, value: Any, start: Start | None, trace: str
    ) -> tuple[Store, Callable[..., BatchItem[Sent]]]:
        """The store, and what makes the call that sends a message; everything that must be before it has been done."""
        from durasleep.codec.messages import encode_message
        from durasleep.protocol import channels

        to = check_id(id)
        name, type_hint = channel_of(channel)
        requests.check_sending(options, start)
        payload = encode_message(self.codec, name, type_hint, value)
        called = None if start is None else self._called(start[0], start[1:], {}, options)
        await self._require(await self._opened(), CHANNELS)
        store = self._waiter.store.confirming(options.min_replicas, options.fsync)
        await store.open()
        begin = None if called is None else await self._beginning(store, id, called, options, _deaf, trace)
        return store, partial(channels.send, store.keys(id), to, name, payload, channels.new_call(), start=begin)

    async def _rpc_many(
        self, fn: Callable[..., Any] | str, many: Iterable[tuple[Any, ...]], options: CallOptions
    ) -> list[Handle[Any]]:
        requests.check_unpipelined(options)
        self.registry.check_registered(fn)
        definition = self.registry.called(fn)
        name = name_of(fn) if definition is None else definition.name
        if definition is not None:
            definition.declared.check_key(name, options.key)
        store = self._waiter.store.confirming(options.min_replicas, options.fsync)
        await store.open()
        declared = NOTHING_DECLARED if definition is None else definition.declared
        await self._prepare(store, name, declared, options)
        type_hint = Any if isinstance(fn, str) else returns_of(fn)
        encode = requests.encoder(
            self.codec, name, called_by(definition or fn), definition.check if definition is not None else None
        )
        new_key = self._ids.idempotency_key
        handles: list[Handle[Any]] = []
        for part in requests.in_parts(many):
            await self._waiter.inbox.listen(id for id, *_ in part)
            listening = self._listening(store)
            with tracing.calling("rpc", name, group=options.group(self._group), count=len(part)) as span:
                make = self._maker(store, name, options, listening, declared, span.trace)
                if declared.by is None:
                    made = [make(id, encode(args), new_key(), "") for id, *args in part]
                else:
                    made = [make(id, encode(args), new_key(), declared.key_of(name, args, {})) for id, *args in part]
                begun = self._handles([id for id, *_ in part], type_hint, store, listening)
                for handle, created in zip(begun, await store.run(requests.all_of(made)), strict=True):
                    handle._begin(created)
            handles += begun
        return handles

    async def _require(self, store: Store, feature: str) -> None:
        """From now on the namespace has what older versions do not know; NotAllowed while a worker of one is alive."""
        if feature not in store.partitions.features:
            await store.run(declaring.require(store.keyspaces, feature))
            store.partitions.features.add(feature)

    async def _prepare(self, store: Store, name: str, declared: Declared, options: CallOptions) -> None:
        """Before the first call that older versions would not understand: they must be gone, and what is declared of
        this function is kept.
        """
        if options.has_traits or declared is not NOTHING_DECLARED:
            await self._require(store, FLOW)
        if declared is not NOTHING_DECLARED and self._kept.get(name) is not declared:
            await store.run(declaring.declare(store.keyspaces, {name: declared}))
            self._kept[name] = declared

    def _maker(
        self,
        store: Store,
        name: str,
        options: CallOptions,
        listening: Callable[[Keyspace], InboxStream | None],
        declared: Declared,
        trace: str,
    ) -> Callable[[str, bytes, str, str], BatchItem[Created]]:
        def inbox_name(keys: Keyspace) -> str:
            return self._waiter.inbox.name if listening(keys) else ""

        return requests.rpc_maker(
            store.keys,
            name,
            options,
            group=self._group,
            inbox=inbox_name,
            settings=self.settings,
            limit=declared.limit,
            trace=trace,
        )

    def _listening(self, store: Store) -> Callable[[Keyspace], InboxStream | None]:
        """For each partition our inbox there, if it is being read now. New executions attach to it at once, so that no
        early result is missed.

        None while nobody waits. A later wait attaches to the inbox itself.
        """
        inbox = self._waiter.inbox
        heard = [
            stream if stream is not None and stream.is_listening else None
            for stream in inbox.streams(len(store.keyspaces))
        ]
        return lambda keys: heard[keys.partition]

    def _handles(
        self,
        ids: Sequence[PromiseId],
        type_hint: Any,
        store: Store,
        listening: Callable[[Keyspace], InboxStream | None],
    ) -> list[Handle[Any]]:
        """Handles of executions about to be created, subscribed to our inbox where it is being read."""
        streams = [listening(store.keys(id)) for id in ids]
        return [
            Handle(self, id, type_hint, None, None, None if stream is None else stream.subscribe(id))
            for id, stream in zip(ids, streams, strict=True)
        ]

    @overload
    async def gather(self, handles: Sequence[Handle[T]], *, return_exceptions: Literal[False] = False) -> list[T]: ...

    @overload
    async def gather(self, handles: Sequence[Handle[T]], *, return_exceptions: bool) -> list[T | Exception]: ...

    async def gather(self, handles: Sequence[Handle[Any]], *, return_exceptions: bool = False) -> list[Any]:
        """The results of many ``handles``, in order. By default the first error is raised. With ``return_exceptions``
        each error stands in the list, in the place of the result.

        It is cheaper than waiting for each handle, because all of them are requested together. The errors are those of
        ``Handle.result``. Raises ClientClosed if the client is closed meanwhile.
        """
        check_open = self._waiter.open_check()
        await self._opened()
        await attach(handles)
        results: list[Any] = []
        for at, handle in enumerate(handles):
            try:
                ending = handle._known()
                if ending is None:
                    check_open()  # a close ends the wait for all of them
                    if handle._is_missed:  # then those after it are, too: attach them again together, not one by one
                        await attach(handles[at:])
                    ending = await handle._settled()
                results.append(handle._result_of(ending))
            except Exception as error:
                if not return_exceptions:
                    raise
                results.append(error)
        return results

    async def _notify_of(self, handles: Iterable[Handle[Any]]) -> None:
        await self._waiter.attach([one for handle in handles if (one := handle._subscribe()) is not None])

    async def schedule(
        self,
        name: str,
        line: str,
        fn: Callable[..., Any] | str,
        *args: Any,
        zone: str = "UTC",
        target: str | None = None,
        **kwargs: Any,
    ) -> datetime:
        """Start ``fn`` at every time of a cron ``line`` in a time ``zone``, by default UTC; answers the next time::

            await app.schedule("nightly-report", "0 3 * * *", report, zone="Europe/Berlin")

        Each start has the id ``<name>@<time>``. A schedule of the same ``name`` is replaced. With the same line and
        zone it keeps its next time, even if that has passed and no worker has seen it yet. So an application may
        schedule everything it needs each time it starts.

        It is short for ``schedules.put`` with ``overlap="allow"``, ``catch_up="first"`` and ``window="forever"``:
        executions may overlap, and times at which no worker ran are made up for by one execution, that of the first.
        ``target`` says who runs it, as in ``rpc``. Its executions are kept as long as the settings say; for another
        retention use ``app.options(retention="30d").schedule(...)``. Raises UsageError for arguments that do not fit
        ``fn``, and for a line or zone that cannot be read.
        """
        return await self._schedule(name, line, fn, args, kwargs, zone, CallOptions(target))

    async def _schedule(
        self,
        name: str,
        line: str,
        fn: Callable[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        zone: str,
        options: CallOptions,
    ) -> datetime:
        from durasleep.client.schedule_options import KeptOptions
        from durasleep.client.schedules import put

        kept = KeptOptions(
            overlap="allow",
            catch_up="first",
            window="forever",
            cron=line,
            zone=zone,
            args=args,
            kwargs=kwargs,
            target=options.target,
            retention=options.retention,
        )
        due_ms = await put(self, check_name(name, "schedule"), fn, kept)
        return datetime.fromtimestamp(due_ms / 1000, UTC)

    async def unschedule(self, name: str) -> bool:
        """Remove the schedule of this ``name``; false if there is none. Executions that it started go on."""
        return await self.schedules.delete(name)

    @property
    def schedules(self) -> Schedules:
        """Schedules with all their options, and what is done to them."""
        from durasleep.client.schedules import Schedules

        return Schedules(self)

    async def key(self, id: str, name: str) -> str:
        """The key that ``ctx.key(name)`` gives in the execution with this ``id``, whether that exists or not."""
        store = await self._opened()
        return f"{store.keys(check_id(id)).own}{check_key_name(name)}"

    async def partitions(self) -> list[query.partitions.PartitionSummary]:
        """What is in each partition of the namespace, in their order."""
        from durasleep.query import partitions

        store = await self._opened()
        return await store.run(partitions.summarize(store.keyspaces, await store.locate()))

    async def init(self, *, partitions: int = 1) -> None:
        """Make the namespace, with a number of ``partitions`` from 1 to 256, by default one; see ``durasleep init``.

        UsageError if the namespace has another number. Outside a cluster, a first use without ``init`` makes it with
        one; ``init`` may change that as long as nothing is in it. Everything else takes `durasleep move`.
        """
        await self._waiter.store.init(partitions)

    @overload
    def get(self, id: str) -> Handle[Any]: ...

    @overload
    def get(self, id: str, type_hint: type[T]) -> Handle[T]: ...

    @overload
    def get(self, id: str, type_hint: UnionType) -> Handle[Any]: ...

    @overload
    def get(self, id: str, *, hint: Any) -> Handle[Any]: ...

    def get(self, id: str, type_hint: Any = Any, *, hint: Any = None) -> Handle[Any]:
        """A handle for the execution or promise with this id. Redis is not asked yet, not even whether it exists.

        ``type_hint`` shapes the result: ``app.get("order-1", Receipt)``. By default it is plain data. ``hint``
        is the old name of ``type_hint``.
        """
        if hint is not None:
            warn_renamed("hint", "type_hint")
            type_hint = hint
        return Handle(self, check_id(id), type_hint, None, None)

    async def describe(self, id: str) -> Description:
        """Everything there is to see of a promise; raises NotFound if there is none."""
        store = await self._opened()
        return await store.run(describe.describe(store.keys, check_id(id), self.codec))

    async def view(self, id: str) -> View:
        """What an execution publishes, and how far it has come, without running any code::

            view = await app.view("order-42")
            print(view.status, view.progress)

        It is one short call, also after the end, as long as the execution is kept. Raises NotFound if there is no such
        execution.
        """
        store = await self._opened()
        found = await store.call(views.read_view(store.keys(id), check_id(id)))
        return view_of(PromiseId(id), found, self.codec)

    async def watch(self, id: str, *, timeout: Duration | None = None) -> AsyncGenerator[View]:
        """What an execution publishes, now and after each change; the last one is that at its end::

            async for view in app.watch("order-42"):
                print(view.status, view.progress)

        Changes that come faster than they are read are left out: it gives the latest, not each. ``timeout`` is seconds,
        a timedelta, or text such as ``"30s"``: after it WaitTimeout is raised, and the execution goes on. By default
        the watch has no end. Any number of watches is possible; beyond 256 clients for one execution, they see a change
        some seconds later. Raises NotFound if there is no such execution, and ClientClosed if the client is closed
        meanwhile.
        """
        store = await self._opened()
        with suppress(NotAllowed):  # as long as workers of an older version are left, it is read again and again
            await self._require(store, CHANNELS)
        by_inbox = CHANNELS in store.partitions.features
        watching = self._waiter.watching(check_id(id), timeout, by_inbox=by_inbox)
        last: View | None = None
        try:
            while last is None or not last.has_ended:
                view = view_of(PromiseId(id), await watching.read(), self.codec)
                if view != last:
                    yield view
                last = view
                if not view.has_ended:
                    await watching.changed()
        finally:
            watching.stop()

    async def export(self, id: str) -> Recording:
        """An execution with its journal, for a file or a replay; raises NotFound if there is none."""
        store = await self._opened()
        return await store.run(describe.export(store.keys(id), check_id(id)))

    async def search(
        self,
        *,
        status: str | Collection[str] | None = None,
        group: str | None = None,
        function: str | None = None,
        labels: Mapping[str, str] | None = None,
        since: Duration | datetime | None = None,
        limit: int = 1_000,
    ) -> query.search.SearchPage:
        """Executions by their status, group and function::

            for one in await app.search(status="failed", function="checkout", limit=50):
                print(one.id, one.error)

        ``status`` is one word or several. By default all executions are found that have not ended: ``queued``,
        ``running``, ``suspended``, ``delayed``, ``parked`` and ``halted``. Those that have ended are ``done``:
        ``resolved``, ``failed`` (``rejected`` or ``timedout``) or ``canceled``; the latest thousands of them are found.
        ``group`` and ``function`` are names, by default any. ``labels`` are some that they have; ``since`` finds those
        that were made in this time (seconds, a timedelta, or text such as ``"1h"``) or since an aware datetime. Where
        the function or a label has an index (see ``Durasleep``), they are found at once; else at most tens of thousands
        of executions are looked at. At most ``limit`` are found, and ``SearchPage.is_all`` is false if there are more.
        Raises UsageError for an unknown status, and for a ``limit`` that is not 1 to 10,000.
        """
        from durasleep.query import search

        store = await self._opened()
        looking = search.Search(
            status=status,
            group=group,
            function=function,
            labels=labels,
            since_ms=requests.since_ms(since),
            codec=self.codec,
        )
        return await self._next_page(store, looking, limit)

    async def search_all(
        self,
        *,
        status: str | Collection[str] | None = None,
        group: str | None = None,
        function: str | None = None,
        labels: Mapping[str, str] | None = None,
        since: Duration | datetime | None = None,
    ) -> AsyncGenerator[query.search.SearchPage]:
        """As ``search``, page by page to the end. Executions on a page may be controlled before the next is read."""
        from durasleep.query import search

        store = await self._opened()
        looking = search.Search(
            status=status,
            group=group,
            function=function,
            labels=labels,
            since_ms=requests.since_ms(since),
            codec=self.codec,
        )
        while not looking.is_over or looking.again():
            yield await self._next_page(store, looking, search.FOUND_MAX)

    async def _next_page(self, store: Store, looking: query.search.Search, limit: int) -> query.search.SearchPage:
        """The next page of a search, without what cannot be asked now, see ``Location``."""
        before = await store.locate()
        absent = _absent(before)
        found = await store.run(looking.part(store.keyspaces.without(absent), limit))
        if absent or await store.locate() != before:
            found.note_missed()
        return found

    async def timers(self, limit: int = 20) -> query.search.Timers:
        """The timers that fall due next, soonest first.

        At most ``limit``, which is 1 to 1,000 and by default 20; else UsageError.
        """
        from durasleep.query import search

        store = await self._opened()
        absent = _absent(await store.locate())
        found = await store.run(search.timers(store.keyspaces.without(absent), limit))
        found.is_all = not absent
        return found

    async def tree(self, id: str) -> query.call_tree.Tree:
        """An execution and everything it has called, as one tree; raises NotFound if there is none."""
        from durasleep.query import call_tree

        store = await self._opened()
        return await store.run(call_tree.tree(store.keys, id))

    async def history(self, id: str, *, limit: int = 100, values: bool = False) -> query.history.History:
        """What an execution has called, in the order of its code: when, how long each call took, and what came of it::

            for call in (await app.history("order-42")).calls:
                print(call.kind, call.name, call.state, call.took_ms, call.attempts)

        The last ``limit`` calls, which is 1 to 10,000 and by default 100; with ``values`` also what they returned.
        Raises NotFound if there is no such execution, and UsageError for another ``limit``.
        """
        from durasleep.query import history

        store = await self._opened()
        return await store.run(history.read(store.keys, id, self.codec, limit=limit, with_values=values))

    async def cancel(self, id: str, *, force: bool = False) -> Controlled:
        """Ask an execution to end: its code is canceled. With ``force`` it ends without running its code again.

        The id may also be that of a timer or promise. The word of the answer is ``canceling`` if code has to run first,
        and ``canceled`` if it has ended; ``canceled while delayed`` and ``canceled while halted`` say where it was. It
        is ``already`` if it had settled before. Raises NotFound if there is no such id, and NotAllowed for a step.
        """
        return await self._control("force" if force else "cancel", id)

    async def halt(self, id: str, reason: str = "halted by hand") -> Controlled:
        """Stop an execution where it is until ``resume``; its timers go on.

        ``reason`` is shown to people, by default "halted by hand".
        The word of the answer is ``halted``, or ``already`` if the execution has settled. Raises NotFound if there is
        no such id, and NotAllowed if it is no execution.
        """
        return await self._control("halt", id, reason=reason)

    async def resume(self, id: str) -> Controlled:
        """Let a halted execution go on.

        The word of the answer is ``resumed``. It is ``running`` if the execution is not halted, and ``already`` if it
        has settled. Raises NotFound if there is no such id, and NotAllowed if it is no execution.
        """
        return await self._control("resume", id)

    async def retry(self, id: str) -> Controlled:
        """Run an execution again that was rejected, timed out or canceled: with its id, arguments and timeout.

        Its journal is dropped, so its steps run again, with other idempotency keys. Executions that it had started
        under ids of their own stay: if one of them has failed, retry that one first. The word of the answer
        is ``retrying``. It is ``running`` if the execution has not ended, and ``halted`` if it needs ``resume``.

        Raises NotFound if it is not kept any more. Raises NotAllowed if it has resolved, if it is no execution, and if
        it is a part of another one. An old handle keeps its result: ``get`` gives a new one.
        """
        return await self._control("retry", id)

    async def fork(self, id: str, new_id: str, *, before: str | int) -> Handle[Any]:
        """Begin a new execution with what another one had done ``before`` a step, and return its handle::

            fixed = await app.fork("order-42", "order-42-again", before="ship")

        It has the same function, arguments and queue, as much time as the other one had, and every result that had
        settled before the step did. It goes on from there with the code that is deployed now. What was pending there is
        asked for anew: sleeps begin again, and so do children. ``id`` may run, or have ended in any way, and is not
        changed. ``before`` is the number of an entry of its journal, or the name of a step, timer, promise or child.
        ``"cancel"`` stands for what it was before it was canceled. ``"end"`` stands for all that had settled when it
        ended or was halted: after an error in the code of a workflow, corrected code goes on there, and no step that
        has ended runs again. What is called ``cancel`` or ``end`` itself is chosen by its number.

        The disposition of the handle is ``created``, or ``attached`` if the same call had made it before. An
        interrupted call leaves it halted; the same call goes on with it. Raises NotFound if there is no such execution
        or step; NotAllowed if the name stands for several entries, if nothing can be forked there, for the end of one
        that has not ended and is not halted, and if ``new_id`` is in use by something else; InvalidId for a ``new_id``
        that cannot be used.
        """
        from durasleep.query.forking import fork

        store = await self._opened()
        made = await store.run(fork(store.keys, id, new_id, before))
        if made.is_new:
            await self._note(store.keys(new_id), "fork", new_id, word=f"of {id} before {before}")
        found = Disposition.CREATED if made.is_new else Disposition.ATTACHED
        return Handle(self, PromiseId(new_id), Any, found, None)

    async def wake(self, id: str) -> Controlled:
        """End a sleep now, or start a delayed execution now.

        The id is that of a timer, or of an execution that waits for exactly one timer. The word of the answer is
        ``woken``, or ``already`` if it had been woken or had settled before. Raises NotFound if there is no such id,
        and NotAllowed if there is no timer to end: for a promise, for a halted execution, and for one that waits for no
        timer or for several.
        """
        return await self._control("wake", id)

    async def reschedule(self, id: str, due: Duration | datetime) -> Controlled:
        """Move a delayed start, a deadline, a timeout, or a timer. A timer is named by its own id, or by the id of an
        execution that waits for this timer only.

        ``due`` is seconds, a timedelta, or text such as ``"1h30m"``, from now; or an aware datetime. The word of the
        answer is ``rescheduled``, or ``already`` if it had settled before. Raises NotFound if there is no such id,
        NotAllowed if there is nothing to move, or if several timers could be meant, and InvalidDuration for a ``due``
        that cannot be waited for.
        """
        return await self._control("reschedule", id, due=due)

    async def fsck(self, *, repair: bool = False) -> query.fsck.Report:
        """Check everything that is kept, while workers go on; with ``repair``, fix what needs no guess.

        The time it takes grows with what is kept. ``docs/operate/troubleshooting.md`` explains each kind of finding.
        """
        from durasleep.query import fsck

        store = await self._opened()
        before = await store.locate()
        absent = _absent(before)
        report = await store.run(fsck.fsck(store.keyspaces.without(absent), repair=repair))
        report.is_whole = not absent and await store.locate() == before
        repaired = sum(one.repaired for one in report.findings)
        if repaired:
            await self._note(store.keyspaces[0], "repair", word=f"{repaired} findings")
        return report

    async def discard_quarantined(self, name: str) -> bool:
        """Forget a ``name`` that was quarantined, as ``fsck`` and ``search`` show it; false if there is no such name.

        It names no execution, but a stream entry or timer that was not ours, or a key of another type. The part before
        ``": "`` is enough if no other name begins with it. Raises NotAllowed if another one does.
        """
        from durasleep.query import search

        store = await self._opened()
        return await store.run(search.discard_quarantined(store.keyspaces, name, by=self._by))

    async def forget(self, name: str) -> bool:
        """The old name of ``discard_quarantined``."""
        warn_renamed("forget", "discard_quarantined")
        return await self.discard_quarantined(name)

    async def diagnose(self) -> list[query.doctor.Diagnosis]:
        """Data that the server's configuration may lose, and work that waits for a person or a worker; worst first.

        It only reads.
        """
        from durasleep.query import attention, doctor

        store = await self._opened()
        where = await store.locate()
        silent = {location.node for location in where if not location.answers}
        nodes = [(node, slot) for node, slot in store.slots_of_nodes() if node not in silent]
        if store.connector.topology is not None:
            from durasleep.query import doctor_cluster

            facts = {node: await store.run(doctor.collect_facts(store.keyspaces[0], slot)) for node, slot in nodes}
            found = doctor_cluster.diagnose_cluster(facts, where)
        else:
            found = doctor.diagnose(await store.run(doctor.collect_facts(store.keyspaces[0])))
        resting = store.keyspaces.without(_absent(where))
        return doctor.worst_first([*found, *await store.run(attention.collect(resting))])

    async def release_clock(self) -> datetime:
        """Confirm the server's clock after it jumped so far ahead that workers hold back timers; answers its time.

        Workers fire by it within some seconds. If no worker holds back timers, nothing changes.
        """
        store = await self._opened()
        now_ms = 0
        for keys in store.keyspaces:
            now_ms = await store.run(server.now_ms(keys))
            await store.call(server.keep_number(keys.clock_released, now_ms, ttl_s=RELEASE_S))
        await self._note(store.keyspaces[0], "release-clock")
        return datetime.fromtimestamp(now_ms / 1000, UTC)

    async def pause_group(self, group: str) -> bool:
        """Let the workers of a ``group`` take no more executions, until ``resume_group``; false if they do not already.

        They stop within about a second. What runs goes on, and may suspend and end; timers fire, and what they wake
        waits. Workers that start later take nothing, either. Raises InvalidId for a ``group`` that is no name.
        """
        from durasleep.query import groups

        store = await self._opened()
        name = check_name(group, "group")
        is_new = await store.run(groups.pause(store.keyspaces, name, self._by or requests.user_and_host()))
        if is_new:
            await self._note(store.keyspaces[0], "pause-group", name)
        return is_new

    async def resume_group(self, group: str) -> bool:
        """Let the workers of a ``group`` take executions again; false if it was not paused.

        They begin within about a second. Raises InvalidId for a ``group`` that is no name.
        """
        from durasleep.query import groups

        store = await self._opened()
        name = check_name(group, "group")
        was_paused = await store.run(groups.resume(store.keyspaces, name))
        if was_paused:
            await self._note(store.keyspaces[0], "resume-group", name)
        return was_paused

    async def groups(self) -> list[query.groups.GroupSummary]:
        """The groups that have workers or work, or are paused: who serves each, and what waits there."""
        from durasleep.query import groups

        store = await self._opened()
        return await store.run(groups.summarize(store.keyspaces.without(_absent(await store.locate()))))

    async def overview(self) -> query.overview.Overview:
        """How the namespace does now: queues and workers of each group, sleepers, limits, and what needs a person::

            now = await app.overview()
            print(now.queued, now.running, now.sleepers, now.overdue_s)

        It costs Redis about one short script for each partition, however much is kept, so it may be asked each second.
        At the first time, groups that have no worker are also searched among the keys, at most a million of them; a
        client that asks again goes on with that, some at a time.
        """
        from durasleep.query import overview

        store = await self._opened()
        finder = self._finder = self._finder or overview.Finder()
        return await store.run(overview.read(store.keyspaces, await store.locate(), finder))

    async def stats(self, since: Duration | datetime = "1h") -> query.stats.Stats:
        """How many executions have ended, minute by minute and by function, and how long they took::

            for one in (await app.stats("15m")).functions:
                print(one.name, one.ended, one.failed, one.mean_ms)

        ``since`` is seconds, a timedelta, or text such as ``"1h30m"``, before now; or an aware datetime. By default it
        is an hour; minutes are kept for 26 hours. A client that asks again reads only the last minutes. Raises
        UsageError for a datetime without a zone, and InvalidDuration for another ``since``.
        """
        from durasleep.query import stats

        store = await self._opened()
        absent = _absent(await store.locate())
        minutes = self._minutes = self._minutes or stats.Minutes()
        return await store.run(stats.read(store.keyspaces.without(absent), since, minutes, is_whole=not absent))

    async def last_failures(self, limit: int = 20) -> query.search.SearchPage:
        """The executions that were rejected or timed out last, the latest first, with their errors.

        At most ``limit``, which is 1 to 100 and by default 20; else UsageError. ``search`` finds more of them. Those
        that were retried since are none.
        """
        from durasleep.query import search

        store = await self._opened()
        resting = store.keyspaces.without(_absent(await store.locate()))
        return await store.run(search.last_failures(resting, limit, self.codec))

    async def due_soon(self) -> query.due_soon.DueSoon:
        """How many executions of each group the clock wakes or begins within 30 seconds, or should have by now::

            print((await app.due_soon()).groups)

        Of the timers that are due then, the first 2,000 are looked at.
        """
        from durasleep.query import due_soon

        store = await self._opened()
        return await store.run(due_soon.count(store.keyspaces.without(_absent(await store.locate()))))

    async def last_heartbeat(self, name: str) -> query.ping.LastHeartbeat | None:
        """When a worker with this name has sent its last heartbeat; None if no worker has that name. Raises InvalidId
        for a name that cannot be one.
        """
        from durasleep.query import ping

        name = check_name(name, "worker")
        store = await self._opened()
        return await store.run(ping.last_heartbeat(store.keyspaces.without(_absent(await store.locate())), name))

    async def audit(
        self, *, limit: int = 100, since: Duration | datetime | None = None
    ) -> list[query.audit.AuditEntry]:
        """What people have done by hand, and programs that say who they are, the latest first::

            for one in await app.audit(since="1d"):
                print(one.at, one.by, one.verb, one.id)

        At most ``limit``, which is 1 to 10,000, and nothing older than ``since``: seconds, a timedelta, or text such as
        ``"1h30m"``, before now; or an aware datetime. Each partition keeps about its last 10,000. The commands of
        ``durasleep`` are kept, and the methods of an application or client with ``by``. Raises UsageError for another
        ``limit``.
        """
        from durasleep.query.audit import latest

        store = await self._opened()
        resting = store.keyspaces.without(_absent(await store.locate()))
        return await store.run(latest(resting, limit=limit, since=since))

    async def _note(self, keys: Keyspace, verb: str, id: str = "", *, word: str = "") -> None:
        """Keep who did it, if that is known. What was done stands, whatever becomes of this."""
        if not self._by:
            return
        try:
            await (await self._opened()).call(audit.note(keys, self._by, verb, id=id, word=word))
        except DurasleepError as error:
            logger.warning("%s by %s is not in the audit: %s", verb, self._by, error)

    async def workers(self, group: str | None = None) -> list[str]:
        """Names of the workers of a ``group`` that are alive; by default of the application's own group."""
        from durasleep.protocol import membership

        store = await self._opened()
        names = set[str]()
        for keys in store.keyspaces.without(_absent(await store.locate())):
            try:
                consumers = await store.call(streams.read_consumers(keys, group or self._group))
            except NotFound:
                continue
            beats = await store.run(requests.all_of([membership.read_beat(keys, consumer) for consumer in consumers]))
            names |= {name for name, beat in zip(consumers, beats, strict=True) if beat is not None}
        return [name.partition("/")[0] for name in sorted(names)]

    async def _control(
        self, action: str, id: str, *, due: Duration | datetime | None = None, reason: str = ""
    ) -> Controlled:
        store = await self._opened()
        return await store.run(control.apply(store.keys(id), action, id, due=due, reason=reason, by=self._by))
