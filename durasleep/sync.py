"""The client without asyncio, for Django, Flask or a script: the same verbs on the same commands."""

# What its classes share with one another is not for their users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable
from contextlib import suppress
from datetime import datetime
from types import UnionType
from typing import Any, Generic, ParamSpec, Self, TypeVar, Unpack, overload

from durasleep import address
from durasleep.codec import Codec
from durasleep.deprecation import warn_renamed
from durasleep.errors import ClientClosed, StoreError, StoreUnavailable, WaitTimeout
from durasleep.model import Disposition, Duration, PromiseId, Recording, State, check_id, check_name, seconds_of
from durasleep.protocol import command, journal, streams
from durasleep.protocol.command import BatchItem
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.promises import Controlled, Created
from durasleep.protocol.streams import BEGINNING
from durasleep.query import attention, call_tree, describe, doctor, fsck, search
from durasleep.query.call_tree import Tree
from durasleep.query.describe import CallOptions, Description, Options, Pipeline, PromiseStatus
from durasleep.query.doctor import Diagnosis
from durasleep.query.fsck import Report
from durasleep.query.search import SearchPage, Timers
from durasleep.runtime.context import AsyncTask, Workflow
from durasleep.runtime.definition import Definition, called_by, definition_of, name_of, returns_of
from durasleep.runtime.waits import Waiting
from durasleep.settings import DEFAULTS, Settings, fitting
from durasleep.transport.connection import SyncLink
from durasleep.transport.connector import AnyClient, Connector
from durasleep.transport.local import PerThread
from durasleep.transport.sync_store import SyncStore

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
P = ParamSpec("P")


_NO_OPTIONS = CallOptions()

READ_MARGIN_S = 2.0  # a blocking read's connection is given up this long after the read should have ended


class Handle(Generic[T_co]):
    """An execution or promise; ``result`` waits for it."""

    def __init__(
        self, client: Client, id: PromiseId, hint: Any, disposition: Disposition | None, ending: PromiseStatus | None
    ) -> None:
        self.id = id
        self.disposition = disposition
        self._client = client
        self._hint = hint
        self._ending = ending

    def result(self, timeout: Duration | None = None) -> T_co:
        """The value; raises what the execution raised, Canceled or TimedOut.

        WaitTimeout after ``timeout`` (seconds, a timedelta, or text such as ``"30s"``), and it goes on; by default it
        waits for as long as it takes. ClientClosed if another thread closes the client meanwhile.
        """
        if self._ending is None or not self._ending.is_final:
            self._ending = self._client._wait(self.id, timeout)
        return describe.result_of(self._ending, self._client.codec, self._hint)

    def done(self) -> bool:
        """Whether it has settled; NotFound if it is not kept any more."""
        if self._ending is None or not self._ending.is_final:
            self._ending = self._client._look(self.id)
        return self._ending.is_final

    def cancel(self, *, force: bool = False) -> str:
        """Ask it to end; with ``force`` it ends without running its code again. Answers what happened, in words."""
        return self._client.cancel(self.id, force=force).word


class Promises:
    """Promises on their own: what a person, a webhook or another program settles."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, id: str, *, timeout: Duration | datetime | None = None, timer: bool = False) -> Handle[Any]:
        """Make a promise; after ``timeout`` it is ``timedout``, or, if it is a ``timer``, resolved.

        ``timeout`` is seconds, a timedelta, text such as ``"1h30m"``, or an aware datetime; by default there is none.
        """
        store = self._client._opened()
        created = store.call(
            describe.create_promise(
                store.keys(id),
                id,
                timeout=timeout,
                timer=timer,
                call=self._client._new_call(),
                settings=self._client.settings,
            )
        )
        ending = describe.ending_of_created(PromiseId(id), created)
        return Handle(self._client, PromiseId(id), Any, created.disposition, ending)

    def get(self, id: str) -> Description:
        """How it stands; NotFound if there is none."""
        return self._client.describe(id)

    def resolve(self, id: str, value: object = None) -> bool:
        """Resolve it; false if it had settled before in another way, which stays.

        To resolve it with the very same value again answers true, as the first time: so a call may be repeated.
        """
        return self._settle(id, State.RESOLVED, self._client.codec.encode(value, f"the value of {id}"))

    def reject(self, id: str, error: BaseException | str) -> bool:
        """Reject it with an error, which is raised where it is awaited; false if it had settled in another way."""
        failure = RuntimeError(error) if isinstance(error, str) else error
        return self._settle(id, State.REJECTED, self._client.codec.encode_error(failure))

    def cancel(self, id: str) -> bool:
        """Cancel it; false if it had settled before."""
        return self._settle(id, State.CANCELED, b"")

    def _settle(self, id: str, state: State, payload: bytes) -> bool:
        store = self._client._opened()
        return store.call(describe.settle(store.keys(id), id, state, payload)).by_us


class _PendingCall:
    """What a thread waits with."""

    def __init__(self) -> None:
        self.inbox = describe.IdSource().inbox
        self.is_open = False
        """Whether there is such an inbox, or has been."""
        self.waits = 0
        """How many wait in this thread: one, and those of its signal handlers."""

    def __enter__(self) -> Self:
        self.waits += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.waits -= 1


class _Starts:
    """The verb that is the same with options and without."""

    __slots__ = ()

    @overload
    def start(self, fn: Workflow[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Handle[T]: ...

    @overload
    def start(self, fn: AsyncTask[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Handle[T]: ...

    @overload
    def start(self, fn: str, /, *args: Any, **kwargs: Any) -> Handle[Any]: ...

    @overload
    def start(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Handle[T]: ...

    def start(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Handle[Any]:
        """Start ``fn`` with these arguments under an id of ours, a new one each time; it is ``.id`` of the handle.

        Those made later sort behind. UsageError as for ``rpc``.
        """
        return self._start(fn, args, kwargs)

    def _start(self, fn: Callable[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Handle[Any]:
        raise NotImplementedError


class Caller(_Starts):
    """Calls with options of their own, which ``client.options(...)`` gives; it may be kept and used again.

    What follows the function are its own arguments, whatever their names.
    """

    __slots__ = ("_client", "_options")

    def __init__(self, client: Client, options: CallOptions) -> None:
        self._client = client
        self._options = options

    @overload
    def rpc(self, id: str, fn: Workflow[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Handle[T]: ...

    @overload
    def rpc(self, id: str, fn: AsyncTask[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Handle[T]: ...

    @overload
    def rpc(self, id: str, fn: str, /, *args: Any, **kwargs: Any) -> Handle[Any]: ...

    @overload
    def rpc(self, id: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Handle[T]: ...

    def rpc(self, id: str, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Handle[Any]:
        """Start ``fn`` under ``id``, or attach to the execution that has this id: see ``rpc`` of the client."""
        return self._client._rpc(id, fn, args, kwargs, self._options)

    @overload
    def rpc_many(self, fn: Callable[..., Awaitable[T]], many: Iterable[tuple[Any, ...]], /) -> list[Handle[T]]: ...

    @overload
    def rpc_many(self, fn: str, many: Iterable[tuple[Any, ...]], /) -> list[Handle[Any]]: ...

    @overload
    def rpc_many(self, fn: Callable[..., T], many: Iterable[tuple[Any, ...]], /) -> list[Handle[T]]: ...

    def rpc_many(self, fn: Callable[..., Any] | str, many: Iterable[tuple[Any, ...]], /) -> list[Handle[Any]]:
        """Start ``fn`` many times, each with an id and its arguments: see ``rpc_many`` of the client."""
        return self._client._rpc_many(fn, many, self._options)

    def _start(self, fn: Callable[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Handle[Any]:
        return self._client._rpc(describe.new_id(), fn, args, kwargs, self._options)


def _check_open(closed: threading.Event) -> None:
    if closed.is_set():
        raise ClientClosed(describe.CLOSED)


def _definition_of(fn: Callable[..., Any] | str) -> Definition | None:
    return None if isinstance(fn, str) else definition_of(fn)


class Client(_Starts):
    """Starts, awaits and steers executions in one namespace. Connects at the first call.

    One client serves all threads and forked children: each has a connection of its own, made when it first calls.
    Without a URL or client it is the Redis that ``Durasleep()`` would use, looked for now.
    """

    def __init__(
        self,
        url_or_client: str | AnyClient | None = None,
        *,
        namespace: str = "durasleep",
        group: str = "workers",
        codec: Codec | None = None,
        settings: Settings = DEFAULTS,
    ) -> None:
        self.codec = codec or Codec(payload_bytes_max=settings.payload_bytes_max)
        self.settings = settings = fitting(settings, self.codec.payload_bytes_max)
        self.promises = Promises(self)
        self._group = check_name(group, "group")
        self._names = describe.IdSource()
        self._waiting = PerThread(_PendingCall)
        self._closed = threading.Event()
        """Of those who wait now: set when the client is closed, and then another one's turn."""
        connector = Connector.of(url_or_client or address.find().url)
        self._store = SyncStore(connector, namespace=check_name(namespace, "namespace"), settings=settings)
        self._reader: SyncLink = self._store.link(settings.read_block_s + READ_MARGIN_S)

    def _new_call(self) -> str:
        """A name for one call, under which it may be repeated."""
        return self._names.call()

    def _opened(self) -> SyncStore:
        """The store, connected and checked."""
        self._store.open()
        return self._store

    def close(self) -> None:
        """Let go of all connections; who waits in any thread hears ClientClosed. To call again connects again."""
        closed, self._closed = self._closed, threading.Event()
        closed.set()
        keys = self._store.keys()
        farewell: list[command.Call] = []
        for waiting in self._waiting.all():
            if waiting.waits:
                farewell += streams.wake_inbox(keys, waiting.inbox)
            elif waiting.is_open:
                farewell.append(streams.drop_inbox(keys, waiting.inbox))
            waiting.is_open = False
        if farewell:
            with suppress(StoreError):
                self._store.call_once(farewell)
        self._reader.close()
        self._store.close()

    def __enter__(self) -> Self:
        self._store.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @overload
    def rpc(
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
    def rpc(
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
    def rpc(
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

    def rpc(
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
        """Start ``fn`` under ``id``, or attach to what has this id: see ``durasleep.client.Client.rpc``."""
        options = CallOptions(target, timeout, delay, None, pipeline, min_replicas, fsync)
        return self._rpc(id, fn, args, kwargs, options)

    @overload
    def rpc_many(
        self,
        fn: Callable[..., Awaitable[T]],
        many: Iterable[tuple[Any, ...]],
        *,
        target: str | None = None,
        timeout: Duration | None = None,
        delay: Duration | datetime | None = None,
    ) -> list[Handle[T]]: ...

    @overload
    def rpc_many(
        self,
        fn: str,
        many: Iterable[tuple[Any, ...]],
        *,
        target: str | None = None,
        timeout: Duration | None = None,
        delay: Duration | datetime | None = None,
    ) -> list[Handle[Any]]: ...

    @overload
    def rpc_many(
        self,
        fn: Callable[..., T],
        many: Iterable[tuple[Any, ...]],
        *,
        target: str | None = None,
        timeout: Duration | None = None,
        delay: Duration | datetime | None = None,
    ) -> list[Handle[T]]: ...

    def rpc_many(
        self,
        fn: Callable[..., Any] | str,
        many: Iterable[tuple[Any, ...]],
        *,
        target: str | None = None,
        timeout: Duration | None = None,
        delay: Duration | datetime | None = None,
    ) -> list[Handle[Any]]:
        """Start ``fn`` many times: see ``durasleep.client.Client.rpc_many``."""
        return self._rpc_many(fn, many, CallOptions(target, timeout, delay))

    def options(self, **options: Unpack[Options]) -> Caller:
        """The verbs with options: see ``durasleep.client.Client.options``."""
        return Caller(self, CallOptions(**options).checked())

    def _start(self, fn: Callable[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Handle[Any]:
        return self._rpc(describe.new_id(), fn, args, kwargs, _NO_OPTIONS)

    def _rpc(
        self,
        id: str,
        fn: Callable[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> Handle[Any]:
        definition = _definition_of(fn)
        name = name_of(fn) if definition is None else definition.name
        payload = self.codec.encode_args(args, kwargs, name, called_by(definition or fn))
        if definition is not None:
            definition.check(args, kwargs)
        store = self._store.confirming(options.min_replicas, options.fsync)
        store.open()
        call = self._maker(store.keys(id), name, options)(id, payload, self._new_call())
        hint = Any if isinstance(fn, str) else returns_of(fn)
        if options.pipeline is not None:
            describe.check_unconfirmed(options.min_replicas, options.fsync)
            describe.enqueue(options.pipeline, call, self.settings)
            return Handle(self, PromiseId(id), hint, None, None)
        created = store.call(call)
        return Handle(
            self, PromiseId(id), hint, created.disposition, describe.ending_of_created(PromiseId(id), created)
        )

    def _rpc_many(
        self, fn: Callable[..., Any] | str, many: Iterable[tuple[Any, ...]], options: CallOptions
    ) -> list[Handle[Any]]:
        describe.check_unpipelined(options)
        definition = _definition_of(fn)
        name = name_of(fn) if definition is None else definition.name
        store = self._store.confirming(options.min_replicas, options.fsync)
        store.open()
        hint = Any if isinstance(fn, str) else returns_of(fn)
        make = self._maker(store.keys(), name, options)
        encode = describe.encoder(
            self.codec, name, called_by(definition or fn), definition.check if definition is not None else None
        )
        new_call = self._names.call
        handles: list[Handle[Any]] = []
        for part in describe.in_parts(many):
            made = [make(id, encode(args), new_call()) for id, *args in part]
            for (id, *_), created in zip(part, store.run(describe.all_of(made)), strict=True):
                ending = describe.ending_of_created(PromiseId(id), created)
                handles.append(Handle(self, PromiseId(id), hint, created.disposition, ending))
        return handles

    def _maker(
        self, keys: Keyspace, name: str, options: CallOptions
    ) -> Callable[[str, bytes, str], BatchItem[Created]]:
        return describe.rpc_maker(keys, name, options, group=self._group, inbox="", settings=self.settings)

    @overload
    def get(self, id: str) -> Handle[Any]: ...

    @overload
    def get(self, id: str, hint: type[T]) -> Handle[T]: ...

    @overload
    def get(self, id: str, hint: UnionType) -> Handle[Any]: ...

    def get(self, id: str, hint: Any = Any) -> Handle[Any]:
        """A handle for what has this id, its result shaped by ``hint``."""
        return Handle(self, check_id(id), hint, None, None)

    def describe(self, id: str) -> Description:
        """Everything there is to see of a promise; NotFound if there is none."""
        store = self._opened()
        return store.run(describe.describe(store.keys(id), check_id(id), self.codec))

    def export(self, id: str) -> Recording:
        """An execution with its journal; NotFound if there is none."""
        store = self._opened()
        return store.run(describe.export(store.keys(id), check_id(id)))

    def _look(self, id: PromiseId) -> PromiseStatus:
        """How a promise stands; NotFound if there is none."""
        store = self._opened()
        return store.run(describe.status(store.keys(id), id))

    def _wait(self, id: PromiseId, timeout: Duration | None = None) -> PromiseStatus:
        """Block until a promise has settled; WaitTimeout after ``timeout``, and it goes on."""
        limit_s = None if timeout is None else seconds_of(timeout)
        with Waiting(id), self._waiting.here() as waiting:  # before it is asked which close would end it
            return self._settled(id, limit_s, waiting, self._closed)

    def _settled(
        self, id: PromiseId, limit_s: float | None, waiting: _PendingCall, closed: threading.Event
    ) -> PromiseStatus:
        give_up_at = None if limit_s is None else time.monotonic() + limit_s
        store = self._opened()
        keys = store.keys(id)
        tells_inbox = store.call(journal.read_record(keys, id, outline=True)) is not None
        inbox = waiting.inbox
        while True:
            _check_open(closed)
            last = BEGINNING
            if tells_inbox:  # again and again: it also keeps the inbox alive
                waiting.is_open = True
                last, created = store.run(describe.attach_from(keys, id, inbox))
                ending = describe.ending_of_created(id, created)
            else:
                ending = self._look(id)  # an entry of a journal tells no inbox
            if ending.is_final:
                return ending
            _check_open(closed)
            left_s = self.settings.read_block_s if give_up_at is None else give_up_at - time.monotonic()
            if left_s <= 0:
                if tells_inbox:
                    with suppress(StoreError):
                        store.call_once([streams.unwait(keys, id, inbox)])
                raise WaitTimeout(f"{id} has not settled within {limit_s:g} s; it goes on")
            if tells_inbox:
                self._listen(keys.inbox(inbox), last, min(left_s, self.settings.read_block_s), closed)
            else:
                closed.wait(min(left_s, 1.0))

    def _listen(self, inbox: str, last: bytes, block_s: float, closed: threading.Event) -> None:
        """Until something comes to the inbox after its entry ``last``, or for ``block_s``; it is a hint to look."""
        read = streams.read_after({inbox.encode(): last}, count=1, block_s=block_s)
        try:
            [found] = self._reader.exchange([read.args])
        except StoreUnavailable:
            closed.wait(min(block_s, 1.0))
            return
        if isinstance(found, Exception):
            closed.wait(min(block_s, 1.0))

    def search(
        self,
        *,
        status: str | Collection[str] | None = None,
        group: str | None = None,
        function: str | None = None,
        limit: int = 1_000,
    ) -> SearchPage:
        """Executions that are ``queued``, ``running``, ``suspended``, ``delayed`` or ``halted``, as by default; or
        ``done``, which are ``resolved``, ``failed`` (``rejected`` or ``timedout``) or ``canceled``.

        Of what is done the latest thousands, with the errors of what has failed. ``SearchPage.is_all`` tells whether a
        limit cut it.
        """
        store = self._opened()
        looking = search.Search(status=status, group=group, function=function, codec=self.codec)
        return store.run(looking.part(store.keys(), limit))

    def search_all(
        self,
        *,
        status: str | Collection[str] | None = None,
        group: str | None = None,
        function: str | None = None,
    ) -> Generator[SearchPage]:
        """The same part by part, until there are no more: what is shown may be steered meanwhile."""
        store = self._opened()
        looking = search.Search(status=status, group=group, function=function, codec=self.codec)
        while not looking.is_over or looking.again():
            yield store.run(looking.part(store.keys()))

    def timers(self, limit: int = 20) -> Timers:
        """What falls due next, soonest first."""
        store = self._opened()
        return store.run(search.timers(store.keys(), limit))

    def tree(self, id: str) -> Tree:
        """An execution and all it has called, as one tree; NotFound if there is none."""
        store = self._opened()
        return store.run(call_tree.tree(store.keys, id))

    def cancel(self, id: str, *, force: bool = False) -> Controlled:
        """Ask an execution to end, or end it by ``force`` without running its code again."""
        return self._control("force" if force else "cancel", id)

    def halt(self, id: str, reason: str = "halted by hand") -> Controlled:
        """Stop an execution where it is until ``resume``; its timers go on."""
        return self._control("halt", id, reason=reason)

    def resume(self, id: str) -> Controlled:
        """Let a halted execution go on."""
        return self._control("resume", id)

    def retry(self, id: str) -> Controlled:
        """What was rejected, timed out or canceled begins anew under its id, with its arguments and as much time as it
        had; what it had called is no more, but for what has an id of its own: if that has failed, retry that one first.
        It is another life, with other idempotency keys. The word is ``retrying``; ``running`` for one that has not
        ended, ``halted`` for one that is, which ``resume`` lets go on.

        NotFound if it is not kept any more; NotAllowed for what has resolved, is no execution, or is a part of another.
        A handle that has told how it ended goes on doing so: ``get`` gives another.
        """
        return self._control("retry", id)

    def wake(self, id: str) -> Controlled:
        """A sleep ends now; a delayed execution starts now.

        The id is that of a timer, or of an execution that waits for exactly one.
        """
        return self._control("wake", id)

    def reschedule(self, id: str, due: Duration | datetime) -> Controlled:
        """Move a delayed start, a deadline, a timeout, or a timer, which may be the only one an execution waits for."""
        return self._control("reschedule", id, due=due)

    def fsck(self, *, repair: bool = False) -> Report:
        """Check everything there is, beside whatever runs; mend what can be mended without guessing, if asked to."""
        store = self._opened()
        return store.run(fsck.fsck(store.keys(), repair=repair))

    def discard_quarantined(self, name: str) -> bool:
        """Strike a name that was quarantined: see ``durasleep.client.Client.discard_quarantined``."""
        store = self._opened()
        return store.run(search.discard_quarantined(store.keys(), name))

    def forget(self, name: str) -> bool:
        """The old name of ``discard_quarantined``."""
        warn_renamed("forget", "discard_quarantined")
        return self.discard_quarantined(name)

    def diagnose(self) -> list[Diagnosis]:
        """What the server's configuration can lose, and what waits for a person or a worker; the worst first.

        It only reads.
        """
        store = self._opened()
        found = doctor.diagnose(store.run(doctor.collect_facts(store.keys())))
        return doctor.worst_first([*found, *store.run(attention.look(store.keys()))])

    def _control(self, action: str, id: str, *, due: Duration | datetime | None = None, reason: str = "") -> Controlled:
        store = self._opened()
        return store.run(describe.steer(store.keys(id), action, id, due=due, reason=reason))
