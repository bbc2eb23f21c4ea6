"""The client without asyncio, for Django, Flask or a script: the same verbs on the same commands."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable
from datetime import datetime, timedelta
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from durasleep.codec import Codec
from durasleep.errors import StoreUnavailable, WaitTimeout
from durasleep.model import Disposition, PromiseId, Recording, State, check_id, check_name
from durasleep.runtime.context import Context
from durasleep.runtime.definition import name_of, returns_of
from durasleep.settings import DEFAULTS, Settings
from durasleep.store import calls, commands, doctor, fsck, reads, search, tree
from durasleep.store.calls import Description, Duration, Ending, Pipeline
from durasleep.store.commands import Controlled, Created, Item
from durasleep.store.connection import AnyClient, Connector, SyncLink
from durasleep.store.doctor import Diagnosis
from durasleep.store.fsck import Report
from durasleep.store.keys import Keyspace
from durasleep.store.local import PerThread
from durasleep.store.search import Found, Timer
from durasleep.store.store import SyncStore
from durasleep.store.tree import Tree

T = TypeVar("T")
P = ParamSpec("P")

READ_MARGIN_S = 2.0  # a blocking read's connection is given up this long after the read should have ended


class Handle(Generic[T]):
    """An execution or promise; ``result`` waits for it."""

    def __init__(
        self, client: Client, id: PromiseId, hint: Any, disposition: Disposition | None, ending: Ending | None
    ) -> None:
        self.id = id
        self.disposition = disposition
        self._client = client
        self._hint = hint
        self._ending = ending

    def result(self, timeout: Duration | None = None) -> T:
        """The value; raises what the execution raised, Canceled or TimedOut, WaitTimeout after ``timeout``."""
        if self._ending is None or not self._ending.is_final:
            self._ending = self._client.wait(self.id, timeout)
        return calls.result_of(self._ending, self._client.codec, self._hint)

    def done(self) -> bool:
        """Whether it has settled; NotFound if it is not kept any more."""
        if self._ending is None or not self._ending.is_final:
            self._ending = self._client.look(self.id)
        return self._ending.is_final

    def cancel(self, *, force: bool = False) -> str:
        """Ask it to end; with ``force`` it ends without running its code again. Answers what happened, in words."""
        return self._client.cancel(self.id, force=force).word


class Promises:
    """Promises on their own: what a person, a webhook or another program settles."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, id: str, *, timeout: Duration | datetime | None = None, timer: bool = False) -> Handle[Any]:
        """Make a promise; after ``timeout`` it is ``timedout``, or, if it is a ``timer``, resolved."""
        store = self._client.opened()
        created = store.call(
            calls.create_promise(
                store.keys(id),
                id,
                timeout=timeout,
                timer=timer,
                call=self._client.new_call(),
                settings=self._client.settings,
            )
        )
        ending = calls.ending_of_created(PromiseId(id), created)
        return Handle(self._client, PromiseId(id), Any, created.disposition, ending)

    def get(self, id: str) -> Description:
        """How it stands; NotFound if there is none."""
        return self._client.describe(id)

    def resolve(self, id: str, value: object = None) -> bool:
        """Resolve it; false if it had settled before, otherwise."""
        return self._settle(id, State.RESOLVED, self._client.codec.encode(value, f"the value of {id}"))

    def reject(self, id: str, error: BaseException | str) -> bool:
        """Reject it with an error, which is raised where it is awaited; false if it had settled before."""
        failure = RuntimeError(error) if isinstance(error, str) else error
        return self._settle(id, State.REJECTED, self._client.codec.encode_error(failure))

    def cancel(self, id: str) -> bool:
        """Cancel it; false if it had settled before."""
        return self._settle(id, State.CANCELED, b"")

    def _settle(self, id: str, state: State, payload: bytes) -> bool:
        store = self._client.opened()
        return store.call(calls.settle(store.keys(id), id, state, payload)).by_us


class _Waiting:
    """What a thread waits with."""

    def __init__(self) -> None:
        self.inbox = calls.Names().inbox


class Client:
    """Starts, awaits and steers executions in one namespace. Connects at the first call.

    One client serves all threads and forked children: each has a connection of its own, made when it first calls.
    """

    def __init__(
        self,
        url_or_client: str | AnyClient,
        *,
        namespace: str = "durasleep",
        group: str = "workers",
        codec: Codec | None = None,
        settings: Settings = DEFAULTS,
    ) -> None:
        self.codec = codec or Codec(payload_bytes_max=settings.payload_bytes_max)
        self.settings = settings
        self.promises = Promises(self)
        self._group = check_name(group, "group")
        self._names = calls.Names()
        self._waiting = PerThread(_Waiting)
        connector = Connector.of(url_or_client)
        self._store = SyncStore(connector, namespace=check_name(namespace, "namespace"), settings=settings)
        self._reader: SyncLink = self._store.link(settings.read_block_s + READ_MARGIN_S)

    def new_call(self) -> str:
        """A name for one call, under which it may be repeated."""
        return self._names.call()

    def opened(self) -> SyncStore:
        """The store, connected and checked."""
        self._store.open()
        return self._store

    def close(self) -> None:
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
        fn: Callable[Concatenate[Context, P], Coroutine[Any, Any, T]],
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
        fn: Callable[..., Any] | str,
        *args: Any,
        target: str | None = None,
        timeout: Duration | None = None,
        delay: Duration | datetime | None = None,
        pipeline: Pipeline | None = None,
        min_replicas: int | None = None,
        fsync: bool | None = None,
        **kwargs: Any,
    ) -> Handle[Any]: ...

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
        name = name_of(fn)
        payload = self.codec.encode_args(args, kwargs, name)
        store = self._store.confirming(min_replicas, fsync)
        store.open()
        make = self._rpc_maker(store.keys(id), name, target, timeout, delay)
        call = make(id, payload, self.new_call())
        hint = Any if isinstance(fn, str) else returns_of(fn)
        if pipeline is not None:
            calls.check_unconfirmed(min_replicas, fsync)
            calls.enqueue(pipeline, call, self.settings)
            return Handle(self, PromiseId(id), hint, None, None)
        created = store.call(call)
        return Handle(self, PromiseId(id), hint, created.disposition, calls.ending_of_created(PromiseId(id), created))

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
        name = name_of(fn)
        store = self.opened()
        hint = Any if isinstance(fn, str) else returns_of(fn)
        make = self._rpc_maker(store.keys(), name, target, timeout, delay)
        encode, new_call = self.codec.encode_args, self._names.call
        handles: list[Handle[Any]] = []
        for part in calls.in_parts(many):
            made = [make(id, encode(args, {}, name), new_call()) for id, *args in part]
            for (id, *_), created in zip(part, store.run(calls.all_of(made)), strict=True):
                ending = calls.ending_of_created(PromiseId(id), created)
                handles.append(Handle(self, PromiseId(id), hint, created.disposition, ending))
        return handles

    def _rpc_maker(
        self, keys: Keyspace, name: str, target: str | None, timeout: Duration | None, delay: Duration | datetime | None
    ) -> Callable[[str, bytes, str], Item[Created]]:
        return calls.rpc_maker(
            keys,
            name,
            target=target or self._group,
            timeout=timeout,
            delay=delay,
            inbox="",
            settings=self.settings,
        )

    def get(self, id: str, hint: Any = Any) -> Handle[Any]:
        """A handle for what has this id, its result shaped by ``hint``."""
        return Handle(self, check_id(id), hint, None, None)

    def describe(self, id: str) -> Description:
        """Everything there is to see of a promise; NotFound if there is none."""
        store = self.opened()
        return store.run(calls.describe(store.keys(id), check_id(id), self.codec))

    def export(self, id: str) -> Recording:
        """An execution with its journal; NotFound if there is none."""
        store = self.opened()
        return store.run(calls.export(store.keys(id), check_id(id)))

    def look(self, id: PromiseId) -> Ending:
        """How a promise stands; NotFound if there is none."""
        store = self.opened()
        return store.run(calls.look(store.keys(id), id))

    def wait(self, id: PromiseId, timeout: Duration | None = None) -> Ending:
        """Block until a promise has settled; WaitTimeout after ``timeout``, and it goes on."""
        limit_s = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        give_up_at = None if limit_s is None else time.monotonic() + limit_s
        store = self.opened()
        keys = store.keys(id)
        tells_inbox = store.call(reads.read_head(keys, id)) is not None
        inbox = self._waiting.here().inbox
        while True:
            last = ""
            if tells_inbox:  # again and again: it also keeps the inbox alive
                last, created = store.run(calls.attach_from(keys, id, inbox))
                ending = calls.ending_of_created(id, created)
            else:
                ending = self.look(id)  # an entry of a journal tells no inbox
            if ending.is_final:
                return ending
            left_s = self.settings.read_block_s if give_up_at is None else give_up_at - time.monotonic()
            if left_s <= 0:
                raise WaitTimeout(f"{id} has not settled within {limit_s:g} s; it goes on")
            if tells_inbox:
                self._listen(keys.inbox(inbox), last, min(left_s, self.settings.read_block_s))
            else:
                time.sleep(min(left_s, 1.0))

    def _listen(self, inbox: str, last: str, block_s: float) -> None:
        """Until something comes to the inbox after its entry ``last``, or for ``block_s``; it is a hint to look."""
        block_ms = max(1, round(block_s * 1000))
        read = [b"XREAD", b"BLOCK", b"%d" % block_ms, b"COUNT", b"1", b"STREAMS", inbox, last]
        try:
            [found] = self._reader.exchange([read])
        except StoreUnavailable:
            time.sleep(min(block_s, 1.0))
            return
        if isinstance(found, Exception):
            time.sleep(min(block_s, 1.0))

    def search(
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
        store = self.opened()
        looking = search.Search(status=status, group=group, function=function)
        return store.run(looking.part(store.keys(), limit))

    def search_all(
        self,
        *,
        status: str | Collection[str] | None = None,
        group: str | None = None,
        function: str | None = None,
    ) -> Generator[Found]:
        """The same part by part, until there are no more: what is shown may be steered meanwhile."""
        store = self.opened()
        looking = search.Search(status=status, group=group, function=function)
        while not looking.is_over or looking.again():
            yield store.run(looking.part(store.keys()))

    def timers(self, limit: int = 20) -> list[Timer]:
        """What falls due next, soonest first."""
        store = self.opened()
        return store.run(search.timers(store.keys(), limit))

    def tree(self, id: str) -> Tree:
        """An execution and all it has called, as one tree; NotFound if there is none."""
        store = self.opened()
        return store.run(tree.tree(store.keys, id))

    def cancel(self, id: str, *, force: bool = False) -> Controlled:
        """Ask an execution to end, or end it by ``force`` without running its code again."""
        return self._control("force" if force else "cancel", id)

    def halt(self, id: str, reason: str = "halted by hand") -> Controlled:
        """Stop an execution where it is until ``resume``; its timers go on."""
        return self._control("halt", id, reason=reason)

    def resume(self, id: str) -> Controlled:
        """Let a halted execution go on."""
        return self._control("resume", id)

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
        store = self.opened()
        return store.run(fsck.fsck(store.keys(), repair=repair))

    def forget(self, name: str) -> bool:
        """Strike a name that was put aside, as ``fsck`` and ``search`` show it; false if there is no such name."""
        store = self.opened()
        return store.call(commands.forget(store.keys(), name))

    def diagnose(self) -> list[Diagnosis]:
        """What the server's configuration can lose, the worst first; it only reads."""
        store = self.opened()
        return doctor.diagnose(store.run(doctor.look(store.keys())))

    def _control(self, action: str, id: str, *, due: Duration | datetime | None = None, reason: str = "") -> Controlled:
        store = self.opened()
        return store.run(calls.steer(store.keys(id), action, id, due=due, reason=reason))
