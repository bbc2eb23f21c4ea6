"""Durasleep: registry, client and worker in one object."""

# The classes of this module share private parts, which are not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterable,
    Sequence,
)
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass, replace
from functools import cache, partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, Protocol, TypeVar, Unpack, cast, overload

import durasleep
from durasleep import address
from durasleep.address import Address
from durasleep.batch import Batch
from durasleep.client import requests
from durasleep.client.client import Client
from durasleep.codec import Codec
from durasleep.deprecation import warn_renamed
from durasleep.errors import DefinitionError, InvalidId, ThreadsLost, UsageError
from durasleep.limit import Limit
from durasleep.model import Duration, check_name, duration_ms
from durasleep.observe.meter import MetricsRegistry
from durasleep.observe.notify import Notify
from durasleep.runtime.definition import Overrides, Registry, definition_of
from durasleep.runtime.middleware import AnyMiddleware, check_middleware
from durasleep.runtime.retry import Retry
from durasleep.settings import DEFAULTS, Settings, fitting
from durasleep.signatures import signature_of
from durasleep.traits import check_indexes
from durasleep.transport.connector import AnyClient, Connector
from durasleep.transport.store import Store, confirming

if TYPE_CHECKING:  # a program that only calls needs no worker, and none of the code that runs workflows
    from durasleep.client import sync
    from durasleep.client.schedule_options import KeptOptions
    from durasleep.runtime.context import Context
    from durasleep.worker.worker import Worker

AnyWorkflow = TypeVar("AnyWorkflow", bound="Callable[Concatenate[Context, ...], Coroutine[Any, Any, Any]]")
A = TypeVar("A")
B = TypeVar("B")
AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])
Lifespan = Callable[[], AsyncIterator[Any] | AbstractAsyncContextManager[Any]]
AnyLifespan = TypeVar("AnyLifespan", bound=Lifespan)

logger = logging.getLogger("durasleep")

_sync_lock = threading.Lock()
_GC_YOUNG_MAX = 10_000  # objects made before the youngest are looked at: a few MB, instead of 700 objects
EXIT_RESTART = 5  # exit code of a process that can do nothing more and must be started again
FORCED_S = 5.0  # counts from the second signal; releasing the leases takes a second or two
CLEAN_UP_S = 1.0  # what user code has at least after the worker has left; also kept free at the end of the grace time
_LEFT_NAMED_MAX = 5  # how many threads or tasks of user code one line names
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
CALL_PATIENCE_S = 10.0  # a call is repeated this long while Redis does not answer


class BatchDecorator(Protocol):
    """Makes a task of a function with a list of arguments and a list of results; users call it for one of them."""

    @overload
    def __call__(self, fn: Callable[[list[A]], Awaitable[list[B]]], /) -> Callable[[A], Awaitable[B]]: ...

    @overload
    def __call__(self, fn: Callable[[list[A]], list[B]], /) -> Callable[[A], B]: ...


class Durasleep(Client):
    """The functions of an application, and its access to the Redis they run on.

    ``url_or_client`` is a Redis URL or an existing redis-py client. A client only says how to connect. Without it, the
    Redis is the same as for the command line: the first one that is named by ``DURASLEEP_REDIS_URL``, ``REDIS_URL``,
    ``url`` under ``[tool.durasleep]`` in pyproject.toml, or a running ``durasleep dev``, else
    ``redis://localhost:6379/0``. pyproject.toml and ``durasleep dev`` may be those of this directory or one above it.
    Durasleep looks for nothing, and connects to nothing, before the first call::

        app = Durasleep("redis://localhost:6379/0", group="mail")

    ``namespace`` keeps what several applications store in one Redis apart. ``group`` names the workers that run what
    this application starts, and that it serves. ``codec`` encrypts or compresses payloads, see ``Codec``; by default
    they are plain MessagePack. ``settings`` are the limits, see ``Settings``. ``index`` are names of labels, or
    ``"func"`` for the functions, by which executions are found at once, see ``search``; each takes about a hundred
    bytes of Redis for an execution. The workers of the application make the indexes when they start. ``by`` names the
    person or program for whom this object acts: with it, what ``cancel``, ``wake``, ``halt`` and the like have changed
    is kept, see ``audit``; by default nothing is. Raises InvalidId for a ``namespace`` or ``group`` that is no name,
    and for a ``by`` of more than 255 characters, and UsageError for a URL that cannot be read.

    Every call that asks Redis may raise a StoreError: StoreUnavailable if Redis gives no answer for ten seconds, and at
    once until a first call has got through, or StoreRefused if it rejects our password or permissions. An id or name
    that cannot be used raises InvalidId, which is a UsageError.
    """

    def __init__(
        self,
        url_or_client: str | AnyClient | None = None,
        *,
        namespace: str = "durasleep",
        group: str = "workers",
        codec: Codec | None = None,
        settings: Settings = DEFAULTS,
        index: Collection[str] = (),
        by: str | None = None,
    ) -> None:
        self.namespace = check_name(namespace, "namespace")
        self.group = check_name(group, "group")
        self._source: str | AnyClient | None = url_or_client or None
        self._lifespan: Lifespan | None = None
        self._middleware: list[Callable[[], Any]] = []
        self._sync: sync.Client | None = None
        self._tested_groups: Collection[str] = ()
        self._connects_later: tuple[str | AnyClient, str | None] | None = None
        self._resources: contextvars.ContextVar[Any] = contextvars.ContextVar("durasleep_resources")
        self._crons: list[_Cron] = []
        codec = codec or Codec(payload_bytes_max=settings.payload_bytes_max)
        settings = fitting(settings, codec.payload_bytes_max)
        store = self._store_maker(url_or_client, settings)
        registry = Registry()
        registry.index = check_indexes(index)
        super().__init__(store, codec, settings, registry=registry, group=group, by=by)

    def _store_maker(self, source: str | AnyClient | None, settings: Settings) -> Callable[[], Store]:
        """Makes the store: at once if a source is given, so that a mistake shows at once; else at the first call."""
        known = Connector.of(source) if source else None
        find = cache(address.find)
        namespace = self.namespace
        if known is not None:
            where = Address(source if isinstance(source, str) else known.address, "the application names it")
            self._address = lambda: where
        else:
            self._address = find

        def make() -> Store:
            connector = known or Connector.of(find().url)
            return Store(connector, namespace=namespace, settings=settings, patience_s=CALL_PATIENCE_S)

        return make

    def connect(self, url_or_client: str | AnyClient, *, namespace: str | None = None) -> None:
        """Use the Redis of ``url_or_client`` instead of the one named at the start. Call it before the first call.

        It is a Redis URL, or a client of redis-py that says how to connect. UsageError for anything else. With
        ``namespace`` it is that one from now on; InvalidId if it is no name. In a test with ``durasleep.testing.env``
        it holds from the end of the test on: a factory that configures the application may be called there.
        """
        if namespace is not None:
            check_name(namespace, "namespace")
        if self._tested_groups:
            Connector.of(url_or_client)
            self._connects_later = url_or_client, namespace
            return
        if namespace is not None:
            self.namespace = namespace
        self._source = url_or_client
        self._use(url_or_client, self.settings)

    def _use(self, source: str | AnyClient, settings: Settings) -> None:
        store = self._store_maker(source, settings)
        super().__init__(store, self.codec, settings, registry=self.registry, group=self.group, by=self._by or None)
        if self._sync is not None:  # somebody may have kept it
            self._point_sync(self._sync)

    @property
    def sync(self) -> sync.Client:
        """The methods of this application without ``await``, for views and scripts without asyncio::

            app.sync.rpc("order-42", fulfil_order, order).result(timeout="30s")

        Each thread and each forked child has connections of its own, made at its first call. Use it in no event loop:
        its calls would block it.
        """
        with _sync_lock:
            if self._sync is None:
                from durasleep.client import sync

                made = sync.Client.__new__(sync.Client)
                self._point_sync(made)
                self._sync = made
            return self._sync

    def _point_sync(self, client: sync.Client) -> None:
        """Let the client without asyncio use our Redis, namespace and settings."""
        from durasleep.transport.sync_store import SyncStore

        connector = Connector.of(self._source or self.address.url)
        store = SyncStore(connector, namespace=self.namespace, settings=self.settings, patience_s=CALL_PATIENCE_S)
        client.__init__(
            lambda: store, self.codec, self.settings, registry=self.registry, group=self.group, by=self._by or None
        )

    @contextmanager
    def _pointed_at(
        self, source: str | AnyClient, namespace: str, settings: Settings, groups: Collection[str]
    ) -> Generator[None]:
        kept = {name: value for name, value in vars(self).items() if name != "registry"}
        kept_sync = None if self._sync is None else dict(vars(self._sync))
        self._source, self.namespace = source, check_name(namespace, "namespace")
        self._use(source, settings)
        self._tested_groups = groups
        try:
            yield
        finally:
            made, later = self._sync, self._connects_later
            vars(self).update(kept)
            if made is not None and kept_sync is not None:
                vars(made).update(kept_sync)
            elif made is not None:  # it was asked for meanwhile, and somebody may have kept it
                with suppress(UsageError):  # of a pyproject.toml, which its next call will say
                    self._sync = made
                    self._point_sync(made)
            if later is not None:
                self.connect(later[0], namespace=later[1])

    @property
    def is_addressed(self) -> bool:
        """Whether the application itself names its Redis."""
        return self._source is not None

    @property
    def address(self) -> Address:
        """Which Redis it uses, and why. It is looked for once. UsageError for a pyproject.toml that is wrong."""
        return self._address()

    # -- registration

    @overload
    def workflow(self, fn: AnyWorkflow, /) -> AnyWorkflow: ...

    @overload
    def workflow(
        self,
        fn: None = None,
        /,
        *,
        name: str | None = None,
        version: int = 1,
        limit: Limit | None = None,
        by: Callable[..., str] | None = None,
        priority: int | None = None,
        retention: Duration | None = None,
    ) -> Callable[[AnyWorkflow], AnyWorkflow]: ...

    def workflow(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        version: int = 1,
        limit: Limit | None = None,
        by: Callable[..., str] | None = None,
        priority: int | None = None,
        retention: Duration | None = None,
        **others: Any,
    ) -> Any:
        """Register ``async def f(ctx, ...)`` as a workflow, under its own name or ``name``::

            @app.workflow
            async def greet_later(ctx: Context, name: str) -> str:
                await ctx.sleep("1d")
                return await ctx.run(greet, name)

        Several workflows may share a name, each with its own ``version``, a whole number from 1, by default 1. New
        executions begin with the newest version. An execution that began with another one stays on it, while a worker
        has that version. ``limit``, ``by``, ``priority``, ``retention`` and ``others`` are as for ``task``. Raises
        DefinitionError for a function that cannot be a workflow, and for a name that is taken.
        """
        requests.check_declared(others, "workflow")

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            self.registry.workflow(function, name, version, limit=limit, by=by, priority=priority, retention=retention)
            return function

        return register if fn is None else register(fn)

    @overload
    def task(self, fn: AnyFunction, /) -> AnyFunction: ...

    @overload
    def task(
        self,
        fn: None = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        limit: Limit | None = None,
        by: Callable[..., str] | None = None,
        priority: int | None = None,
        retention: Duration | None = None,
    ) -> Callable[[AnyFunction], AnyFunction]: ...

    @overload
    def task(
        self,
        fn: None = None,
        /,
        *,
        batch: Batch,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        limit: Limit | None = None,
        by: Callable[..., str] | None = None,
        priority: int | None = None,
        retention: Duration | None = None,
    ) -> BatchDecorator: ...

    def task(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        limit: Limit | None = None,
        by: Callable[..., str] | None = None,
        priority: int | None = None,
        retention: Duration | None = None,
        batch: Batch | None = None,
        **others: Any,
    ) -> Any:
        """Register a plain function, sync or async, as a task under its own name or ``name``. It may do any I/O::

            @app.task(retry=Retry(attempts=5), timeout="30s")
            async def send_mail(to: str) -> None: ...

        It has one attempt unless ``retry`` says otherwise. ``timeout`` (seconds, a timedelta, or text such as
        ``"30s"``; by default none) is for each attempt. Both also hold when the function is a step. A sync function
        runs in a thread, which a timeout cannot stop.

        ``limit`` says how many executions run at a time, or begin in a time, see ``Limit``; then it cannot be a step.
        ``by`` makes the key for the limit from the arguments of a call: ``by=lambda order: order.customer``.
        ``priority`` is from 1, which comes first, to 5; by default 3. ``retention`` is how long an execution is kept
        after its end. Calls may say otherwise, see ``options``. With a ``batch`` the function is called once for many
        executions, see ``Batch``; what the decorator gives is a function of one. There are no ``others``: the TypeError
        says what to use in place of what other systems take. Raises DefinitionError for a function that cannot be a
        task, and for a name that is taken.
        """
        requests.check_declared(others, "task")

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            definition = self.registry.task(
                function,
                name,
                retry=retry,
                timeout=timeout,
                limit=limit,
                by=by,
                priority=priority,
                retention=retention,
                batch=batch,
            )
            return function if batch is None else definition.fn

        return register if fn is None else register(fn)

    def cron(
        self,
        line: str | Sequence[str] | None = None,
        /,
        *,
        name: str | None = None,
        **options: Unpack[durasleep.ScheduleOptions],
    ) -> Callable[[AnyFunction], AnyFunction]:
        """Start a workflow or task at all times of a cron ``line``, or of several. It stands above or below
        ``@app.workflow`` or ``@app.task``::

            @app.cron("0 3 * * *", zone="Europe/Berlin")
            @app.task
            async def report() -> None: ...

        Each worker puts the schedule when it starts, as ``app.schedules.put`` does, with the same ``options``. ``name``
        is that of the schedule, by default that of the function. A schedule stays when its line is gone from the code:
        ``app.schedules.delete`` removes it. Raises UsageError for an option that cannot be used.
        """
        from durasleep.client.schedule_options import KeptOptions

        if line is not None:
            options["cron"] = line
        kept = KeptOptions(**options)
        kept.spec()
        kept.check()
        if name is not None:
            check_name(name, "schedule")

        def register(function: AnyFunction) -> AnyFunction:
            self._crons.append(_Cron(function, name, kept))
            return function

        return register

    def _declared(self) -> Callable[[Store], Awaitable[None]]:
        """A function that puts the schedules of ``@app.cron``; DefinitionError for one that cannot be put."""
        if not self._crons:
            return _declare_nothing
        from durasleep.client.schedules import maker
        from durasleep.protocol import schedules, server

        makers: dict[str, Callable[[int], schedules.Schedule]] = {}
        for cron in self._crons:
            name = cron.named()
            if name in makers:
                raise DefinitionError(f"two schedules have the name {name!r}: give one of them another name=")
            makers[name] = maker(self, name, cron.fn, cron.options)
        paused = {cron.named(): cron.options.paused for cron in self._crons}

        async def declare(store: Store) -> None:
            now_ms = await store.run(server.now_ms(store.keyspaces[0]))
            calls = [
                schedules.put_schedule(store.keys(name), make(now_ms), paused=paused[name])
                for name, make in makers.items()
            ]
            await store.run(requests.all_of(calls))

        return declare

    def lifespan(self, fn: AnyLifespan) -> AnyLifespan:
        """Register a function that opens the resources of tasks and steps, yields them once, and closes them::

            @app.lifespan
            async def database() -> AsyncGenerator[Pool]:
                async with create_pool() as pool:
                    yield pool

        It is an ``async def`` that yields once, or a function that makes an async context manager. Each worker opens it
        when it starts, and closes it when it ends. In tasks and steps, the yielded value is ``app.resources``. Raises
        DefinitionError if the function is neither, or if the application has a lifespan already.
        """
        if self._lifespan is not None:
            raise DefinitionError(f"this application has a lifespan already, {self._lifespan!r}")
        _check_lifespan(fn)
        self._lifespan = fn
        return fn

    def middleware(self, fn: AnyMiddleware) -> AnyMiddleware:
        """Register a function that runs around each task and step, in the thread in which that one runs::

            @app.middleware
            def in_app_context() -> Iterator[None]:
                with flask_app.app_context():
                    yield

        It yields once; there the task or step runs, and its error is raised. A generator surrounds all of them. An
        ``async def`` that yields surrounds only async ones. The first that is registered is the outermost. In it
        ``current()`` works. The code of workflows has none around it. Raises DefinitionError for any other function.
        """
        self._middleware.append(check_middleware(fn))
        return fn

    @property
    def resources(self) -> Any:
        """What the lifespan of this worker has yielded; UsageError outside its tasks and steps."""
        try:
            return self._resources.get()
        except LookupError:
            raise UsageError(
                "app.resources works only in tasks and steps, and only if the application has an @app.lifespan; "
                "a workflow uses it in a step, `await ctx.run(...)`"
            ) from None

    @asynccontextmanager
    async def _alive(self) -> AsyncGenerator[None]:
        """Around the life of a worker, in the context that its loops inherit."""
        if self._lifespan is None:
            yield
            return
        async with _opened(self._lifespan) as resources:
            token = self._resources.set(resources)
            try:
                yield
            finally:
                self._resources.reset(token)

    # -- the worker

    def worker(
        self,
        *,
        group: str | None = None,
        name: str | None = None,
        concurrency: int = 100,
        partitions: Collection[int] | None = None,
        debug: bool = False,
        accept_eviction: bool = False,
        min_replicas: int | None = None,
        fsync: bool | None = None,
        overrides: Overrides | None = None,
        stand_ins: Overrides | None = None,
        health: str | None = None,
        metrics: MetricsRegistry | None = None,
        fire_only: bool = False,
    ) -> durasleep.Worker:  # as an annotation, it imports the worker only if it is read
        """A worker for the functions registered here, for a process of your own::

            worker = app.worker(concurrency=100)
            await worker.run()  # until worker.stop()

        It serves ``group`` (by default that of the application) under ``name`` (by default made of host and process
        id), and runs at most ``concurrency`` executions at a time; sleepers do not count. ``partitions`` are the
        numbers of those that it serves; by default the workers of the group share all of them. ``debug``,
        ``accept_eviction``, ``min_replicas`` and ``fsync`` are those of ``Settings``, but only for this worker.
        ``overrides`` maps functions to those that are called instead; ``stand_ins`` is its old name. ``health`` is
        ``[HOST:]PORT`` at which a thread answers ``/livez``, ``/readyz`` and ``/metrics``; without a HOST at all
        addresses of this machine. ``metrics`` is a registry of prometheus-client that shows the metrics of this worker,
        too. With ``fire_only`` the worker keeps the timers of all groups and runs no functions. Raises UsageError for a
        ``min_replicas`` below 0, for ``partitions`` that no namespace has, for a ``health`` that cannot be read, and
        for a group with ``fire_only``; and InvalidId for a group or name that cannot be used.
        """
        from durasleep.observe.telemetry import Telemetry
        from durasleep.worker.worker import FIRE_ONLY, Worker

        if stand_ins is not None:
            warn_renamed("stand_ins", "overrides")
            overrides = stand_ins
        if fire_only and group is not None:
            raise UsageError(f"a worker that only fires timers does so for all groups, and does not serve {group!r}")
        return Worker(
            self._store().connector,
            Registry() if fire_only else self.registry,
            self.codec,
            namespace=self.namespace,
            group=FIRE_ONLY if fire_only else group or self.group,
            concurrency=concurrency,
            settings=replace(
                confirming(self.settings, min_replicas, fsync),
                debug=debug or self.settings.debug,
                accept_eviction=accept_eviction or self.settings.accept_eviction,
            ),
            name=name,
            partitions=partitions,
            lifespan=nullcontext if fire_only else self._alive,
            overrides={} if overrides is None else overrides,
            middleware=() if fire_only else self._middleware,
            declare=_declare_nothing if fire_only else self._declared(),
            telemetry=Telemetry(listen=health, registry=metrics),
            fires_only=fire_only,
        )

    @asynccontextmanager
    async def serving(
        self,
        *,
        group: str | None = None,
        name: str | None = None,
        concurrency: int = 100,
        partitions: Collection[int] | None = None,
        debug: bool = False,
        accept_eviction: bool = False,
        min_replicas: int | None = None,
        fsync: bool | None = None,
        overrides: Overrides | None = None,
        stand_ins: Overrides | None = None,
        health: str | None = None,
        metrics: MetricsRegistry | None = None,
        fire_only: bool = False,
        start_timeout: Duration | None = 10,
    ) -> AsyncGenerator[durasleep.Worker]:
        """Run a worker in this event loop during the block; the options are those of ``worker``.

        If the worker cannot start, the error is raised before the block begins. StoreUnavailable is raised if Redis
        does not serve it within ``start_timeout`` (seconds, a timedelta, or text such as ``"1m"``; by default 10 s);
        with None the worker waits for Redis without a limit. Later it always waits for Redis. If the worker fails
        later, the block is cancelled, and the error is raised at its end. Otherwise the worker drains at the end of the
        block, within ``Settings.grace_s``; if it is cancelled meanwhile, it releases all leases at once.

        In a test with ``durasleep.testing.env``, which has a worker of this group, no other one is started.
        """
        worker = self.worker(
            group=group,
            name=name,
            concurrency=concurrency,
            partitions=partitions,
            debug=debug,
            accept_eviction=accept_eviction,
            min_replicas=min_replicas,
            fsync=fsync,
            overrides=overrides,
            stand_ins=stand_ins,
            health=health,
            metrics=metrics,
            fire_only=fire_only,
        )
        if worker.group in self._tested_groups:
            yield worker
            return
        async with _Serving(
            worker, None if start_timeout is None else duration_ms(start_timeout, "start_timeout") / 1000
        ):
            yield worker


def pointed_at(
    app: Durasleep, source: str | AnyClient, *, namespace: str, settings: Settings, groups: Collection[str] = ()
) -> AbstractContextManager[None]:
    """Use another Redis, namespace and settings for a time; for tests. These ``groups`` have their workers."""
    return app._pointed_at(source, namespace, settings, groups)


@dataclass(frozen=True, slots=True)
class _Cron:
    """A function that is started by the clock."""

    fn: Callable[..., Any]
    name: str | None
    options: KeptOptions

    def named(self) -> str:
        """The name of its schedule; DefinitionError if it has none."""
        if (definition := definition_of(self.fn)) is None:
            raise DefinitionError(f"@app.cron stands at {self.fn!r}, which is neither a workflow nor a task")
        try:
            return self.name or check_name(definition.name, "schedule")
        except InvalidId as error:
            raise DefinitionError(f"{error}; give @app.cron a name=") from None


async def _declare_nothing(_store: Store) -> None:
    """There are no schedules."""


def _check_lifespan(fn: Callable[..., Any]) -> None:
    """DefinitionError if this cannot be a lifespan. What a plain function makes is checked when it is called."""
    inner = inspect.unwrap(fn) if callable(fn) else fn
    if not callable(inner) or inspect.iscoroutinefunction(inner) or inspect.isgeneratorfunction(inner):
        raise DefinitionError(f"a lifespan is an `async def` that yields once, and {fn!r} is not")
    try:
        signature_of(fn).bind()
    except TypeError as error:
        raise DefinitionError(f"a lifespan is called without arguments, and {fn!r} needs some: {error}") from None
    except ValueError:  # its signature is not known
        return


def _opened(lifespan: Lifespan) -> AbstractAsyncContextManager[Any]:
    made = lifespan()
    if isinstance(made, AbstractAsyncContextManager):
        return made
    if isinstance(made, AsyncGenerator):
        generator = cast("AsyncGenerator[Any]", made)
        return asynccontextmanager(lambda: generator)()
    raise DefinitionError(f"a lifespan is an `async def` that yields once, and {lifespan!r} made {made!r}")


class _Serving:
    """A block that runs beside a worker in one event loop."""

    def __init__(self, worker: Worker, start_timeout_s: float | None) -> None:
        self._worker = worker
        self._start_timeout_s = start_timeout_s
        self._is_cut = False

    async def __aenter__(self) -> None:
        body = self._body = asyncio.current_task()
        self._cancels = body.cancelling() if body else 0
        run = self._worker.run(start_timeout_s=self._start_timeout_s)
        running = self._running = asyncio.create_task(run, name=f"durasleep-worker:{self._worker.name}")
        ready = asyncio.create_task(self._worker.ready.wait())
        try:
            await asyncio.wait((running, ready), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._leave_at_once()
            raise
        finally:
            ready.cancel()
        if running.done():
            running.result()
        running.add_done_callback(self._cut)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        running = self._running
        running.remove_done_callback(self._cut)
        is_ours = self._is_cut and self._body is not None and self._body.uncancel() <= self._cancels
        if not running.done():
            self._worker.stop()
        try:
            await asyncio.wait((running,))
        except asyncio.CancelledError:
            await self._leave_at_once()
            raise
        if kind is asyncio.CancelledError and not is_ours:
            return
        running.result()

    def _cut(self, ended: asyncio.Task[None]) -> None:
        """The worker has ended while the block still runs."""
        if self._body is not None and (ended.cancelled() or ended.exception() is not None):
            self._is_cut = self._body.cancel()

    async def _leave_at_once(self) -> None:
        self._worker.abort()
        await asyncio.wait((self._running,))


class _SignalsAtFork:
    """A child process that a task forks ends by its own signals. Without this, they would reach the worker's loop.

    No signal is delivered between the fork and the moment at which the child handles its own.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()
        os.register_at_fork(before=self._hold, after_in_parent=self._let_through, after_in_child=self._take)

    def _hold(self) -> None:
        self._of_thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)

    def _let_through(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._of_thread.mask)

    def _take(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        self._let_through()


class _Stopping:
    """What SIGTERM and Ctrl-C do: the first drains, the second releases all leases, the third ends the process.

    Time does the same: after the second signal, the process ends within ``FORCED_S``, whatever user code does. A
    blocked event loop does not see signals, so a thread does this. When the worker has left, tasks and threads of user
    code that still run have the rest of the grace time.
    """

    def __init__(self, worker: Worker, same_signal_s: float) -> None:
        from durasleep.runtime.event_loop import position_of  # imported now: nothing may delay the end

        self._position_of = position_of
        self._worker = worker
        self._same_signal_s = same_signal_s
        self._stop_asked_at: float | None = None
        self._ends_at = 0.0
        self._in_loop: threading.Timer | None = None
        self._code = 0
        self.times = 0

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call it in the main thread, once the loop runs."""

        def on_signal(_number: int, _frame: object) -> None:
            now = time.monotonic()
            if self._stop_asked_at is not None and now - self._stop_asked_at < self._same_signal_s:
                return
            self.times += 1
            self._stop_asked_at = self._stop_asked_at or now
            with suppress(RuntimeError):  # the loop is closed: it has ended
                loop.call_soon_threadsafe(self._worker.stop)
            if self.times == 2:
                _later(FORCED_S, self._end)
            elif self.times > 2:
                self._end()

        for number in _STOP_SIGNALS:
            signal.signal(number, on_signal)

    def end_loop_in_time(self, error: BaseException | None) -> None:
        """The worker has left, or has failed: tasks that still run in its loop get a limited time."""
        now = time.monotonic()
        grace_left_s = self._worker.grace_s - (now - (self._stop_asked_at or now))
        limit_s = max(grace_left_s - CLEAN_UP_S, CLEAN_UP_S)
        self._ends_at = now + limit_s
        self._code = 0 if error is None else 1
        left = asyncio.all_tasks() - {asyncio.current_task()}
        self._in_loop = _later(limit_s, partial(self._end_without, left, error))

    def end_threads_in_time(self) -> None:
        """The loop has ended: threads that still run after the main one get the rest of that time."""
        if self._in_loop is None:
            return
        self._in_loop.cancel()
        if _threads_left():
            threading.Thread(target=self._watch_end, name="durasleep-end", daemon=True).start()

    def _watch_end(self) -> None:
        threading.main_thread().join()  # after this, Python waits for the other threads
        time.sleep(max(self._ends_at - time.monotonic(), CLEAN_UP_S))
        self._end_without(())

    def _end(self) -> None:
        logger.warning("worker %s ends by force: other workers take over its executions", self._worker.name)
        _leave(1)

    def _end_without(self, left: Iterable[asyncio.Task[Any]], error: BaseException | None = None) -> None:
        if error is not None:
            logger.error("worker %s: %s", self._worker.name, error)
        what = [f"the task {task.get_name()} at {self._position_of(task)}" for task in left if not task.done()]
        what = what or _threads_left()
        more = [f"{len(what) - _LEFT_NAMED_MAX} more"] if len(what) > _LEFT_NAMED_MAX else []
        logger.warning(
            "the process of worker %s ends now, and waits no longer for the threads and tasks of user code: %s",
            self._worker.name,
            ", ".join([*what[:_LEFT_NAMED_MAX], *more]) or "it does not end by itself",
        )
        _leave(self._code)


def run_worker(worker: Worker, *, same_signal_s: float = 0.0) -> None:
    """Serve in this process until SIGTERM or Ctrl-C drains it; a second one leaves at once.

    Signals within ``same_signal_s`` of the first are the same one: a process that a parent has started may get it from
    the parent and from whoever stops them all.

    A worker whose threads are all lost ends the process with ``EXIT_RESTART``.
    """
    stopping = _Stopping(worker, same_signal_s)
    worker.notify = Notify.take(os.environ)

    async def serve() -> None:
        stopping.install(asyncio.get_running_loop())
        worker.own_loop()
        try:
            await worker.run()
        except ThreadsLost as error:
            logger.error("%s", error)
            _leave(EXIT_RESTART)
        except BaseException as error:
            stopping.end_loop_in_time(error)
            raise
        if stopping.times > 1:
            _leave(0)  # threads and tasks that user code has left running are not waited for
        stopping.end_loop_in_time(None)

    _SignalsAtFork()

    # Garbage collection took a sixth of a busy worker's time. So objects that are loaded by now are never collected.
    gc.freeze()
    gc.set_threshold(_GC_YOUNG_MAX)
    try:
        asyncio.run(serve())
    finally:
        stopping.end_threads_in_time()
    if worker.in_threads:  # Python would wait for threads that cannot be stopped
        _leave(0)


def _later(delay_s: float, call: Callable[[], None]) -> threading.Timer:
    """Call it from another thread, unless the process has ended by then."""
    timer = threading.Timer(delay_s, call)
    timer.daemon = True
    timer.start()
    return timer


def _threads_left() -> list[str]:
    """The threads that Python waits for, and where they are."""
    frames = sys._current_frames()
    threads = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    return [f"the thread {one.name}{_position(frames.get(one.ident or 0))}" for one in threads if not one.daemon]


def _position(frame: FrameType | None) -> str:
    if frame is None:
        return ""
    return f" at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"


def _leave(code: int) -> NoReturn:
    try:
        logging.shutdown()
        sys.stdout.flush()
    finally:  # a signal may interrupt a write, or the reader may be gone
        os._exit(code)
