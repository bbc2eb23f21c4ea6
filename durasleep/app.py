"""Durasleep: registry, client and worker in one object."""

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
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar, overload

from durasleep.client import Client
from durasleep.codec import Codec
from durasleep.errors import DefinitionError, UsageError
from durasleep.model import check_name, parse_target
from durasleep.runtime.context import Context
from durasleep.runtime.definition import Registry, name_of
from durasleep.runtime.retry import Retry
from durasleep.settings import DEFAULTS, Settings, fitting
from durasleep.store import commands, reads
from durasleep.store.commands import Schedule
from durasleep.store.connection import AnyClient, Connector
from durasleep.store.store import Store, confirming
from durasleep.worker import cron
from durasleep.worker.usercode import StandIns
from durasleep.worker.worker import Worker

P = ParamSpec("P")
T = TypeVar("T")
WorkflowFunction = Callable[Concatenate[Context, P], Coroutine[Any, Any, T]]
AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

logger = logging.getLogger("durasleep")

DEFAULT_URL = "redis://localhost:6379"
GC_YOUNG_MAX = 10_000  # objects made before the youngest are looked at: a few MB, in place of 700 objects
FORCED_S = 5.0  # from the second signal on; to give back takes a second or two
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
CALL_PATIENCE_S = 10.0  # a call is repeated this long while Redis does not answer


class Durasleep(Client):
    """The functions of an application, and its access to the Redis they run on.

    ``url_or_client`` is a Redis URL or an existing redis-py client, which is taken as a description of how to
    connect. Nothing connects before the first call.
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
        self.registry = Registry()
        self.namespace = check_name(namespace, "namespace")
        self.group = check_name(group, "group")
        self._source: str | AnyClient | None = url_or_client
        self._lifespan: Callable[[], AsyncGenerator[Any]] | None = None
        self._resources: contextvars.ContextVar[Any] = contextvars.ContextVar("durasleep_resources")
        codec = codec or Codec(payload_bytes_max=settings.payload_bytes_max)
        settings = fitting(settings, codec.payload_bytes_max)
        super().__init__(self._make_store(url_or_client, settings), codec, settings, group=group)

    def _make_store(self, source: str | AnyClient | None, settings: Settings) -> Store:
        connector = Connector.of(source or DEFAULT_URL)
        return Store(connector, namespace=self.namespace, settings=settings, patience_s=CALL_PATIENCE_S)

    def connect(self, url_or_client: str | AnyClient) -> None:
        """Use another Redis than the one named at the start; for commands, before the first call."""
        self._source = url_or_client
        super().__init__(self._make_store(url_or_client, self.settings), self.codec, self.settings, group=self.group)

    @contextmanager
    def pointed_at(self, source: str | AnyClient, *, namespace: str, settings: Settings) -> Generator[None]:
        """Use another Redis, namespace and settings for a while: for tests."""
        kept = {name: value for name, value in vars(self).items() if name != "registry"}
        self._source, self.namespace = source, check_name(namespace, "namespace")
        Client.__init__(self, self._make_store(source, settings), self.codec, settings, group=self.group)
        try:
            yield
        finally:
            vars(self).update(kept)

    @property
    def is_addressed(self) -> bool:
        """Whether the application itself says which Redis it uses."""
        return self._source is not None

    # -- registration

    @overload
    def workflow(self, fn: WorkflowFunction[P, T], /) -> WorkflowFunction[P, T]: ...

    @overload
    def workflow(
        self, fn: None = None, /, *, name: str | None = None, version: int = 1
    ) -> Callable[[WorkflowFunction[P, T]], WorkflowFunction[P, T]]: ...

    def workflow(self, fn: Callable[..., Any] | None = None, /, *, name: str | None = None, version: int = 1) -> Any:
        """Register ``async def f(ctx, ...)`` as a workflow, under its own name or ``name``.

        Of several versions the newest one begins; what has begun with another stays on it, while a worker has it.
        """

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            self.registry.workflow(function, name, version)
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
        timeout: float | timedelta | None = None,
    ) -> Callable[[AnyFunction], AnyFunction]: ...

    def task(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: float | timedelta | None = None,
    ) -> Any:
        """Register a plain function, sync or async, as a task: it may do any I/O and never suspends.

        It is tried once unless ``retry`` says otherwise; ``timeout`` is for each attempt. Both hold where it is a
        step, too. A sync function runs in a thread, which no timeout can stop.
        """

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            self.registry.task(function, name, retry=retry, timeout=timeout)
            return function

        return register if fn is None else register(fn)

    def lifespan(self, fn: Callable[[], AsyncGenerator[Any]]) -> Callable[[], AsyncGenerator[Any]]:
        """Register an async generator that opens what tasks and steps share, yields it once, and closes it.

        Each worker runs it around its life; what it yields is ``app.resources`` in tasks and steps.
        """
        if self._lifespan is not None:
            raise DefinitionError(f"this application has a lifespan already, {self._lifespan.__qualname__}")
        if not inspect.isasyncgenfunction(fn):
            raise DefinitionError(f"a lifespan is an `async def` that yields once, and {fn!r} is not")
        self._lifespan = fn
        return fn

    @property
    def resources(self) -> Any:
        """What the lifespan of this worker has yielded; UsageError anywhere but in its tasks and steps."""
        try:
            return self._resources.get()
        except LookupError:
            raise UsageError(
                "app.resources belongs to the tasks and steps of a worker whose application has a @app.lifespan; "
                "a workflow reaches it through `await ctx.run(...)`"
            ) from None

    @asynccontextmanager
    async def _alive(self) -> AsyncGenerator[None]:
        """Around the life of a worker, in the context its loops inherit."""
        if self._lifespan is None:
            yield
            return
        async with asynccontextmanager(self._lifespan)() as resources:
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
        debug: bool = False,
        accept_eviction: bool = False,
        min_replicas: int | None = None,
        fsync: bool | None = None,
        stand_ins: StandIns | None = None,
    ) -> Worker:
        """A worker for the functions registered here; ``await worker.run()`` serves until ``worker.stop()``.

        ``debug``, ``accept_eviction``, ``min_replicas`` and ``fsync`` are those of ``Settings``, for this worker alone;
        ``stand_ins`` are functions to call in place of others.
        """
        return Worker(
            self._store.connector,
            self.registry,
            self.codec,
            namespace=self.namespace,
            group=group or self.group,
            concurrency=concurrency,
            settings=replace(
                confirming(self.settings, min_replicas, fsync),
                debug=debug or self.settings.debug,
                accept_eviction=accept_eviction or self.settings.accept_eviction,
            ),
            name=name,
            lifespan=self._alive,
            stand_ins={} if stand_ins is None else stand_ins,
        )

    # -- schedules

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
        """Start ``fn`` at every time of a cron line in a zone, under ``<name>@<time>``; answers the next time.

        Scheduling a name again replaces it. With the same line and zone its next time stays as it was, even if it has
        passed and no worker has seen it yet: so every start of an application may say what it schedules.
        """
        store = await self.opened()
        now_ms = await store.run(reads.now_ms(store.keys()))
        due_ms = cron.next_due_ms(line, zone, datetime.fromtimestamp(now_ms / 1000, UTC))
        payload = self.codec.encode_args(args, kwargs, name_of(fn))
        queue = parse_target(target or self.group).queue
        schedule = Schedule(check_name(name, "schedule"), line, zone, name_of(fn), queue, payload, due_ms)
        kept_due_ms = await store.call(commands.put_schedule(store.keys(), schedule))
        return datetime.fromtimestamp(kept_due_ms / 1000, UTC)

    async def unschedule(self, name: str) -> bool:
        """Forget a schedule; false if there was none. What it has started goes on."""
        store = await self.opened()
        return await store.call(commands.remove_schedule(store.keys(), check_name(name, "schedule"))) == "removed"


class _SignalsAtFork:
    """A child that a task forks ends by its own signals, which would be told to the loop of the worker, its parent.

    None comes through between the fork and the moment from which it is the child's own.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()
        os.register_at_fork(before=self._hold, after_in_parent=self._let_through, after_in_child=self._take)

    def _hold(self) -> None:
        self._of_thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def _let_through(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._of_thread.mask)

    def _take(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        self._let_through()


class _Stopping:
    """What SIGTERM and Ctrl-C do: the first drains, the second gives back at once, the third ends the process.

    So does time: whatever user code holds up, the second one ends it within ``FORCED_S``. A blocked event loop hears
    nothing, so this is not left to it.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.times = 0

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the main thread, once the loop runs."""

        def tell(_number: int, _frame: object) -> None:
            self.times += 1
            with suppress(RuntimeError):  # the loop is closed: it has ended
                loop.call_soon_threadsafe(self._worker.stop)
            if self.times == 2:
                forced = threading.Timer(FORCED_S, self._end)
                forced.daemon = True
                forced.start()
            elif self.times > 2:
                self._end()

        for number in STOP_SIGNALS:
            signal.signal(number, tell)

    def _end(self) -> None:
        logger.warning("worker %s ends by force: what it had in hand is taken over by others", self._worker.name)
        _leave(1)


def run_worker(worker: Worker) -> None:
    """Serve in this process until SIGTERM or Ctrl-C drains it; a second one leaves at once."""
    stopping = _Stopping(worker)

    async def serve() -> None:
        stopping.listen(asyncio.get_running_loop())
        await worker.run()
        if stopping.times > 1:
            _leave(0)  # what user code has left in threads or tasks of its own is not waited for

    _SignalsAtFork()

    # Collecting garbage took a sixth of a busy worker's time: what is loaded by now stays for good.
    gc.freeze()
    gc.set_threshold(GC_YOUNG_MAX)
    asyncio.run(serve())
    if worker.in_threads:  # Python would wait for threads that nothing can stop
        _leave(0)


def _leave(code: int) -> NoReturn:
    try:
        logging.shutdown()
        sys.stdout.flush()
    finally:  # a signal may have come in the middle of a write, or nobody may read any more
        os._exit(code)
