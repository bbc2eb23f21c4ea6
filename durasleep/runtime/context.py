"""``ctx``: the durable calls of a workflow. Each call takes its number at once and returns a future."""

# The classes of this module share private parts, which are not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import UnionType
from typing import Any, Concatenate, Generic, NoReturn, ParamSpec, TypeVar, cast, overload
from uuid import UUID

import msgspec

from durasleep.codec import Codec
from durasleep.codec.published import copy_values, encode_run
from durasleep.declared import NOTHING_DECLARED
from durasleep.deprecation import warn_renamed
from durasleep.errors import DefinitionError, Stuck, UsageError, WorkflowEvicted
from durasleep.limit import Limit
from durasleep.model import (
    PRIORITY,
    Due,
    Duration,
    Kind,
    Number,
    PromiseId,
    Publish,
    StartChild,
    StartPromise,
    StartTimer,
    check_key_name,
    check_label,
    check_new_id,
    check_time_left,
    due_at,
    due_in,
    duration_ms,
    parse_target,
    retention_ms,
    scheduled_at,
)
from durasleep.runtime.channels import ChannelCalls
from durasleep.runtime.definition import (
    Definition,
    TaskDefinition,
    WorkflowDefinition,
    called_by,
    check_arguments,
    definition_of,
    name_of,
    not_callable,
    returns_of,
    step_name_of,
)
from durasleep.runtime.event_loop import WorkflowLoop
from durasleep.runtime.journal import DurableFuture, Journal, RetriedStep, StepCall
from durasleep.runtime.retry import Retry
from durasleep.runtime.transaction import TransactionBuilder
from durasleep.runtime.waits import is_in_line
from durasleep.traits import Traits, check_labels, check_limit_key, check_priority

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

_log = logging.getLogger("durasleep.workflow")


class ExecutionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about an execution."""

    id: PromiseId
    """Its id."""
    root_id: PromiseId
    """The id of the execution at the root of its family."""
    function: str
    """The name of its workflow."""
    group: str
    """The group whose workers run it."""
    incarnation: int
    """The stamp of its family's creation: another incarnation under the same id has another one."""
    created_ms: int
    """When it was created, by the server's clock, in ms since 1970."""
    begun_ms: int = 0
    """When its present run began, in ms since 1970, if ``continue_as_new`` started it; else 0."""
    version: int = 1
    """The version of its workflow, see ``@app.workflow(version=...)``."""
    priority: int = PRIORITY
    """From 1, which comes first, to 5."""
    labels: Mapping[str, str] = {}
    """Names and values by which people find it. All that it starts has them, too."""
    origins: str = ""
    """Of a fork: who has drawn its random numbers until when, see ``durasleep.query.forking``."""
    own_keys: str = "own:"
    """The beginning of the keys that its transactions may always use, see ``Context.key``."""
    crash_count: int = 0
    """Workers that have died during it since its last commit. It differs between replays: show it, never branch on
    it."""

    @property
    def created_at(self) -> datetime:
        """When it was created, by the server's clock."""
        return _instant(self.created_ms)

    @property
    def scheduled_at(self) -> datetime | None:
        """For which time a schedule has started it, in the zone of the schedule, however late it began; None if its id
        is not that of a schedule, ``<name>@<time>``.
        """
        return scheduled_at(self.id)

    @property
    def deaths(self) -> int:
        """The old name of ``crash_count``."""
        warn_renamed("ctx.info.deaths", "ctx.info.crash_count")
        return self.crash_count

    @property
    def birth(self) -> int:
        """The old name of ``incarnation``."""
        warn_renamed("ctx.info.birth", "ctx.info.incarnation")
        return self.incarnation


class Context(ChannelCalls):
    """The first argument of every workflow. Use it in the workflow only: its durable calls raise NotDurable elsewhere.

    An id or name that cannot be used raises InvalidId, and a duration that cannot be used raises InvalidDuration. Both
    are UsageErrors: nothing was started.
    """

    __slots__ = ("_base", "_cleanups", "_codec", "_definition", "_journal", "_loop", "_published", "info")

    def __init__(
        self,
        info: ExecutionInfo,
        codec: Codec,
        loop: WorkflowLoop,
        journal: Journal,
        definition: WorkflowDefinition,
        base: int = 0,
    ) -> None:
        """``base`` is the last number of the runs before this one."""
        self.info = info
        self._base = base
        self._definition = definition
        self._codec = codec
        self._loop = loop
        self._journal = journal
        self._cleanups: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []
        self._published: dict[str, Any] | None = None

    # -- waiting

    def sleep(self, duration: Duration, *, name: str = "") -> DurableFuture[None]:
        """Pause, across restarts of workers and Redis, and never for less than ``duration``::

            await ctx.sleep("3d", name="trial")

        ``duration`` is seconds, a timedelta, or text such as ``"1h30m"``. ``name`` is for people: lists and
        ``durasleep get`` show it.
        """
        due = due_in(duration, "sleep")
        if name:
            check_label(name)
        return self._journal.call(Kind.TIMER, name, None, lambda number: StartTimer(number, name, due))

    def sleep_until(self, instant: datetime, *, name: str = "") -> DurableFuture[None]:
        """Pause until ``instant``, an aware datetime; InvalidDuration for a naive one.

        An instant in the past is due at once. ``name`` is for people: lists and ``durasleep get`` show it.
        """
        due = due_at(instant)
        return self._journal.call(Kind.TIMER, check_label(name), None, lambda number: StartTimer(number, name, due))

    @overload
    def promise(self, /, *, timeout: Duration | None = None, name: str = "") -> DurableFuture[Any]: ...
    @overload
    def promise(
        self, type_hint: type[T], /, *, timeout: Duration | None = None, name: str = ""
    ) -> DurableFuture[T]: ...
    @overload
    def promise(
        self, type_hint: UnionType, /, *, timeout: Duration | None = None, name: str = ""
    ) -> DurableFuture[Any]: ...
    def promise(
        self, type_hint: Any = Any, /, *, timeout: Duration | None = None, name: str = ""
    ) -> DurableFuture[Any]:
        """A promise that others settle from outside, by its ``.id``, with a value that ``type_hint`` shapes::

            approval = ctx.promise(bool, timeout="3d", name="approval")
            await ctx.run(mail_link, approval.id)
            if await approval:
                await ctx.run(pay)

        Raises TimedOut when ``timeout`` (seconds, a timedelta, or text such as ``"3d"``) has passed. By default it has
        no timeout.
        """
        due = None if timeout is None else due_in(timeout, "timeout")
        return self._journal.call(
            Kind.PROMISE, check_label(name), type_hint, lambda number: StartPromise(number, name, due)
        )

    @overload
    async def race(self, first: Awaitable[A], second: Awaitable[B], /) -> Winner[A | B]: ...
    @overload
    async def race(self, first: Awaitable[A], second: Awaitable[B], third: Awaitable[C], /) -> Winner[A | B | C]: ...
    @overload
    async def race(self, *awaitables: Awaitable[T]) -> Winner[T]: ...
    async def race(self, *awaitables: Awaitable[Any]) -> Winner[Any]:
        """Wait for the first of ``awaitables`` and cancel the others in the same commit::

            winner = await ctx.race(ctx.promise(name="approval"), ctx.sleep("3d"))
            approved = winner.index == 0

        Raises the error of the first, if it has one, and UsageError if there is nothing to wait for.
        """
        if not awaitables:
            raise UsageError("a race needs something to wait for")
        futures = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
        try:
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            first = next(index for index, future in enumerate(futures) if future.done())
        finally:
            losers = [future for future in futures if future.cancel()]
        if losers:
            await asyncio.wait(losers)  # a task may have to clean up first
        return Winner(first, futures[first].result())

    # -- calling

    @overload
    def run(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> DurableFuture[T]: ...
    @overload
    def run(
        self, fn: Callable[..., Awaitable[T]], /, *args: Any, retry: Retry | None, **kwargs: Any
    ) -> DurableFuture[T]: ...
    @overload
    def run(
        self,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        timeout: Duration,
        retry: Retry | None = None,
        **kwargs: Any,
    ) -> DurableFuture[T]: ...
    @overload
    def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> DurableFuture[T]: ...
    @overload
    def run(self, fn: Callable[..., T], /, *args: Any, retry: Retry | None, **kwargs: Any) -> DurableFuture[T]: ...
    @overload
    def run(
        self,
        fn: Callable[..., T],
        /,
        *args: Any,
        timeout: Duration,
        retry: Retry | None = None,
        **kwargs: Any,
    ) -> DurableFuture[T]: ...
    def run(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        timeout: Duration | None = None,
        retry: Retry | None = None,
        **kwargs: Any,
    ) -> DurableFuture[Any]:
        """Run a plain function or a task as a step in this worker: at least once, and its result counts once::

            receipt = await ctx.run(charge, card, 20, retry=Retry(attempts=5), timeout="30s")

        ``timeout`` (seconds, a timedelta, or text such as ``"30s"``) is for each attempt. Without it, a task's own
        timeout applies; without ``retry``, the task's own. Awaiting it raises the error of the last attempt, or
        TimeoutError. Raises DefinitionError if ``fn`` is a workflow, or no function.
        """
        definition = _step_of(fn)
        if definition is not None:
            timeout = definition.timeout if timeout is None else timeout
            retry = retry or definition.retry
        name = step_name_of(fn) if definition is None else definition.name
        timeout_s = None if timeout is None else duration_ms(timeout, "timeout") / 1000
        if retry is not None and retry.attempts > 1:
            call = StepCall(Number(""), name, fn, args, kwargs, timeout_s, retry=retry)
            return RetriedStep.begin(self._journal, call, returns_of(fn), retry)
        return self._journal.call(
            Kind.STEP, name, returns_of(fn), lambda number: StepCall(number, name, fn, args, kwargs, timeout_s)
        )

    def on_cancel(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """Run ``fn`` as a step after the workflow was canceled and its code has ended; the last registered first::

            seat = await ctx.run(book_seat)
            ctx.on_cancel(free_seat, seat)

        It runs whatever the code raises then: CancelledError, or another error. It does not run if the code catches the
        cancel and returns a value, or goes on as a new run. If such a step raises, the execution ends with that error.
        ``cancel(force=True)`` and a deadline run no code. UsageError, at once, for arguments that do not fit ``fn``.
        """
        _step_of(fn)
        check_arguments(fn, args, kwargs)
        self._cleanups.append((fn, args, kwargs))

    def _check_result(self, value: object) -> None:
        """If the workflow was canceled and has something to undo, a result that cannot be sent does not count."""
        if self._loop.canceled and self._cleanups:
            self._codec.encode(value, f"result of {self.info.function}", self._definition.fn)

    async def _clean_up(self) -> None:
        """Run the ``on_cancel`` steps, if the workflow was canceled and does not go on."""
        errors: list[Exception] = []
        is_undone = self._loop.canceled and self._loop.continued is None
        if is_undone and self._cleanups:
            # A cancel may remain for the next await: since Python 3.13, a TaskGroup that fails while it is canceled
            # leaves one behind.
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        while is_undone and self._cleanups:
            fn, args, kwargs = self._cleanups.pop()
            try:
                await self.run(fn, *args, **kwargs)
            except Exception as error:  # noqa: BLE001 - the other steps run all the same
                errors.append(error)
        if len(errors) > 1:
            raise ExceptionGroup("several errors after a cancel", errors)
        if errors:
            raise errors[0]

    @overload
    def rpc(
        self,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        id: str | None = None,
        target: str | None = None,
        timeout: Duration | None = None,
        **kwargs: Any,
    ) -> DurableFuture[T]: ...
    @overload
    def rpc(
        self,
        fn: str | Definition,
        /,
        *args: Any,
        id: str | None = None,
        target: str | None = None,
        timeout: Duration | None = None,
        **kwargs: Any,
    ) -> DurableFuture[Any]: ...
    @overload
    def rpc(
        self,
        fn: Callable[..., T],
        /,
        *args: Any,
        id: str | None = None,
        target: str | None = None,
        timeout: Duration | None = None,
        **kwargs: Any,
    ) -> DurableFuture[T]: ...
    def rpc(
        self,
        fn: Callable[..., Any] | Definition | str,
        /,
        *args: Any,
        id: str | None = None,
        target: str | None = None,
        timeout: Duration | None = None,
        **kwargs: Any,
    ) -> DurableFuture[Any]:
        """Start a workflow or task as an execution of its own, and await its result::

            first, second = await asyncio.gather(ctx.rpc(render, 1), ctx.rpc(render, 2, target="gpu"))

        With an ``id``, the call attaches to the execution with this id, which outlives this workflow. Stuck if that is
        this workflow itself, or the root of its family: they would wait for each other. ``target`` says who runs it: a
        group, as ``"gpu"`` or ``"poll://any@gpu"``, or ``"poll://uni@group/worker"``; by default it is the queue of
        this workflow. The functions of a group that ``durasleep serve --bridge`` names live in another language; call
        them by name, with arguments that are plain JSON.

        Raises the error of the execution, Canceled, or TimedOut when ``timeout`` (seconds, a timedelta, or text such as
        ``"1h30m"``) has passed. UsageError for arguments that do not fit ``fn``. If its parameters have these names, or
        for more options, use ``options``.
        """
        return self._rpc(fn, args, kwargs, _ChildOptions.of(id, target, timeout))

    def detached(
        self,
        fn: Callable[..., Any] | Definition | str,
        /,
        *args: Any,
        id: str | None = None,
        target: str | None = None,
        timeout: Duration | None = None,
        **kwargs: Any,
    ) -> DurableFuture[str]:
        """Start an execution that is independent: this workflow does not await it, and a cancel does not reach it::

            await ctx.detached(send_newsletter, user, id=f"newsletter-{user}")

        Awaiting it gives its id when it has been started; if one exists under ``id``, it is left as it is. ``target``
        and ``timeout`` are as for ``rpc``.
        """
        return self._detached(fn, args, kwargs, _ChildOptions.of(id, target, timeout))

    def options(
        self,
        *,
        id: str | None = None,
        target: str | None = None,
        timeout: Duration | None = None,
        delay: Duration | datetime | None = None,
        retention: Duration | None = None,
        priority: int | None = None,
        key: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> ContextCaller:
        """``rpc`` and ``detached`` with options, so that all their arguments go to the function::

            await ctx.options(delay="1h", timeout="2h").rpc(remind, user)

        ``id``, ``target`` and ``timeout`` are as for ``rpc``. ``delay`` postpones the start: seconds, a timedelta, or
        text such as ``"1h30m"``, from now, or an aware datetime. The timeout counts from now, too; UsageError if it is
        not longer than the delay. ``retention`` is how long the execution is kept after its end: seconds, a timedelta,
        text such as ``"30d"``, or ``"forever"``; by default as long as this workflow's family. It needs an id of its
        own: other children are kept with their family.

        ``priority`` is from 1, which comes first, to 5. By default it is that of the function, or else that of this
        workflow. Work for one worker only has none. ``key`` is the one for which the limit of the function counts it,
        if the function itself does not make it from its arguments. ``labels`` are names and values by which people find
        the execution; it has those of this workflow, too.
        """
        return ContextCaller(self, _ChildOptions.of(id, target, timeout, delay, retention, priority, key, labels))

    def _rpc(
        self,
        fn: Callable[..., Any] | Definition | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: _ChildOptions,
    ) -> DurableFuture[Any]:
        if options.id is not None:
            self._check_other(options.id)
        if options.id is None and options.retention_ms is not None:
            raise UsageError("a child without an id of its own is kept with its family: give it an id, or no retention")
        start = self._child_maker(fn, args, kwargs, options, options.id)
        return self._journal.call(Kind.CHILD, name_of(fn), _result_hint(fn), start, options.id)

    def _detached(
        self,
        fn: Callable[..., Any] | Definition | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: _ChildOptions,
    ) -> DurableFuture[str]:
        if self._loop.evicting:
            return self._journal.call(Kind.DETACHED, name_of(fn), str, _never)
        child_id = self._free_id() if options.id is None else options.id
        start = self._child_maker(fn, args, kwargs, options, child_id, detached=True)
        return self._journal.call(Kind.DETACHED, name_of(fn), str, start, child_id)

    def _child_maker(
        self,
        fn: Callable[..., Any] | Definition | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: _ChildOptions,
        child_id: PromiseId | None,
        *,
        detached: bool = False,
    ) -> Callable[[Number], StartChild]:
        """The function that makes the op of a child. It runs only if the journal lacks it, and checks the arguments."""
        function = name_of(fn)

        def start(number: Number) -> StartChild:
            definition = fn if isinstance(fn, Definition) else self._called(fn)
            if definition is None and (registry := self._definition.registry) is not None:
                registry.check_registered(cast("Callable[..., Any] | str", fn))
            payload = self._codec.encode_args(args, kwargs, function, called_by(definition or fn))
            if definition is not None:
                definition.check(args, kwargs)
            declared = NOTHING_DECLARED if definition is None else definition.declared
            if definition is not None:
                declared.check_key(function, options.key or None)
            key = "" if options.key else declared.key_of(function, args, kwargs)
            return StartChild(
                number,
                function,
                payload,
                options.queue,
                options.due,
                child_id,
                detached,
                options.retention_ms,
                options.start,
                options.traits(self.info.labels, key, declared.limit),
            )

        return start

    def continue_as_new(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Go on as a new run of the same execution: other arguments, an empty journal, the newest version::

            await ctx.sleep("1d")
            ctx.continue_as_new(day + 1)

        The id, the waiters and the deadline stay; pending entries end. This call does not return. If the code has not
        been told of a cancel yet, it ends here instead, as it would at an ``await``. UsageError for arguments that do
        not fit the workflow, NotSerializable or PayloadTooLarge for those that cannot be sent: then this run goes on.
        """
        loop = self._loop
        loop.call_numbers()
        if self._journal.has_undelivered_cancel:
            loop.on_cancel_asked()
            raise asyncio.CancelledError
        function = self.info.function
        definition = self._called(function) or self._definition
        payload = self._codec.encode_args(args, kwargs, function, definition.fn)
        definition.check(args, kwargs)
        loop.continued = payload
        raise WorkflowEvicted("this workflow goes on as a new run")

    def transaction(self) -> TransactionBuilder:
        """Queue Redis commands; awaiting it runs them together with their journal entry, exactly once::

            [balance] = await ctx.transaction().incrby("balance:ada", 20)

        At most 1,000 commands, which together have at most the bytes of one payload. Otherwise PayloadTooLarge or
        UsageError is raised, and nothing was sent. Their answers may have a megabyte. If they have more, the commands
        were carried out all the same, and a RemoteError says so.
        """
        return TransactionBuilder(self._journal, sys._getframe(1))  # pyright: ignore[reportPrivateUsage]

    def key(self, name: str) -> str:
        """The key of this ``name`` that stands beside this execution in Redis::

            await ctx.transaction().incr(ctx.key("counter"))

        In a namespace with several partitions a transaction may use only such keys: they are on the same node of a
        cluster. All executions of one partition share them. ``app.key`` gives the same key outside of workflows.
        """
        return f"{self.info.own_keys}{check_key_name(name)}"

    # -- what would differ between replays

    def now(self) -> datetime:
        """The time of the last event of this workflow, by the server's clock."""
        return _instant(self._loop.now_ms)

    def random(self) -> float:
        """A number in [0, 1), the same in every replay."""
        return random.Random(self._digest("random")).random()

    def uuid(self) -> UUID:
        """A version 4 UUID, the same in every replay."""
        return UUID(bytes=self._digest("uuid")[:16], version=4)

    def patched(self, change: str) -> bool:
        """Whether this execution takes the new way; false if it reached this line before the change was deployed::

            if ctx.patched("two-reminders"):
                await ctx.run(remind_twice, user)
            else:
                await ctx.run(remind, user)

        ``change`` is the name of the change. Keep both ways until no execution takes the old one.
        """
        self._loop.call_numbers()
        return self._journal.patched(check_label(change))

    # -- knowing

    def publish(self, /, **values: Any) -> None:
        """Let others see these values, by ``app.view(id)`` and ``app.watch(id)``, for which no code runs::

            ctx.publish(status="waiting for payment", cents=4200)

        Values of other names stay as they are; a value of the same name is replaced. ``status`` is shown wherever there
        is room for one. It is no durable call: it needs no ``await``. What was published is seen with the next commit,
        within milliseconds, at the latest with the end, and is kept as long as the execution. A new run, see
        ``continue_as_new``, begins with nothing.

        Raises PayloadTooLarge if all that is published is more than 4 KiB, NotSerializable for a value that cannot be
        sent, and InvalidId for a name that is no label. Nothing changes then.
        """
        self._loop.call_numbers()  # NotDurable outside of the workflow
        if self._loop.evicting:
            return
        whose = self.info.function
        published = {**(self._published or {}), **copy_values(values, whose)}
        payload = encode_run(self._codec, self._base, published, whose)
        self._published = published
        if not self._loop.replaying:
            self._journal.publish(Publish(payload))

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """Logs each line once, with the id in front; it is silent during a replay.

        It is the logger ``durasleep.workflow``; its records have the attributes ``execution`` and ``function``.
        """
        return _WorkflowLogger(self)

    @property
    def replaying(self) -> bool:
        """Whether the code is being replayed. Never branch on it."""
        return self._loop.replaying

    @property
    def evicting(self) -> bool:
        """Whether this workflow is being evicted: then ``finally`` blocks run, but the workflow has not ended."""
        return self._loop.evicting

    @property
    def detaching(self) -> bool:
        """The old name of ``evicting``."""
        warn_renamed("ctx.detaching", "ctx.evicting")
        return self.evicting

    def _called(self, fn_or_name: Callable[..., Any] | str) -> Definition | None:
        """The definition that a call begins, if it is known here."""
        registry = self._definition.registry
        return None if registry is None else registry.called(fn_or_name)

    def _check_other(self, id: PromiseId) -> None:
        """Stuck for the id of an execution that waits for this one: neither would go on."""
        if is_in_line(self.info.id, id):
            raise Stuck(f"{self.info.id} would wait for {id}, and {id} waits for it: nothing was started")

    def _free_id(self) -> PromiseId:
        """An id that only this call makes; the same in every replay."""
        name = hashlib.blake2b(
            f"{self.info.id}\n{self.info.incarnation}\n{self._loop.call_numbers().upcoming}".encode(), digest_size=8
        ).hexdigest()
        return PromiseId(f"{self.info.root_id[:100]}-{name}")

    def _digest(self, what: str) -> bytes:
        number = self._loop.call_numbers().next()
        id, incarnation = (self.info.id, self.info.incarnation) if not self.info.origins else self._origin()
        return hashlib.blake2b(f"{what}\n{id}\n{incarnation}\n{number}".encode(), digest_size=32).digest()

    def _origin(self) -> tuple[str, int]:
        """Whose random numbers these are, in a fork: what is replayed was drawn by another execution."""
        for line in self.info.origins.split("\n"):
            until, incarnation, id = line.split(" ", 2)
            if self._loop.now_ms <= int(until):
                return id, int(incarnation)
        return self.info.id, self.info.incarnation


def running_context() -> Context | None:
    """The ``ctx`` of the workflow whose code is running; None anywhere else, and so in its steps."""
    loop = asyncio._get_running_loop()
    return loop.context if isinstance(loop, WorkflowLoop) else None


def current_context() -> Context:
    """The ``ctx`` of the workflow whose code is running; UsageError anywhere else, and so in its steps."""
    ctx = running_context()
    if ctx is None:
        raise UsageError(
            "current_context() works only in the code of a workflow, and this is none: a step, or a client"
        )
    return ctx


async def run_with_cleanup(context: Context, coro: Coroutine[Any, Any, Any]) -> Any:
    """Run the workflow and, if a cancel has ended it, its ``on_cancel`` steps.

    It is in this module, not beside its caller: the loop looks into this coroutine, and compiled modules have none that
    it could look into.
    """
    try:
        value = await coro
        context._check_result(value)
    except BaseException:  # any error: it matters only that the workflow was canceled and has no result
        if not context.evicting:
            await context._clean_up()
        raise
    else:
        return value


@dataclass(frozen=True, slots=True)
class Winner(Generic[T]):
    """The first awaitable of a race that has settled."""

    index: int
    """Its index among the arguments."""
    value: T
    """Its result."""


class _ChildOptions(msgspec.Struct, frozen=True):
    """The options of a child."""

    id: PromiseId | None
    queue: str | None
    due: Due | None
    start: Due | None
    retention_ms: int | None
    priority: int | None = None
    key: str = ""
    labels: Mapping[str, str] | None = None

    @classmethod
    def of(
        cls,
        id: str | None,
        target: str | None,
        timeout: Duration | None,
        delay: Duration | datetime | None = None,
        retention: Duration | None = None,
        priority: int | None = None,
        key: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> _ChildOptions:
        """Options as the caller gave them; UsageError for those that cannot be used."""
        deadline = None if timeout is None else due_in(timeout, "timeout")
        start = None if delay is None else due_at(delay) if isinstance(delay, datetime) else due_in(delay, "delay")
        check_time_left(start, deadline)
        where = None if target is None else parse_target(target)
        if priority is not None and where is not None and where.worker is not None:
            raise UsageError(f"target {target!r}: what only one worker may run has no priority; name a group")
        return cls(
            None if id is None else check_new_id(id),
            None if where is None else where.queue,
            deadline,
            start,
            None if retention is None else retention_ms(retention),
            None if priority is None else check_priority(priority),
            "" if key is None else check_limit_key(key),
            None if labels is None else check_labels(labels),
        )

    def traits(self, inherited: Mapping[str, str], key: str, limit: Limit | None) -> str:
        """See ``Traits.words``; the labels of the parent are ``inherited``, and ``key`` is that of the arguments."""
        key = self.key or key
        if self.priority is None and not (self.labels or inherited or key):
            return ""
        labels = check_labels({**inherited, **self.labels}) if self.labels else inherited
        return Traits(self.priority, key, limit.weight_of(key) if limit else "", labels).words()


class ContextCaller:
    """Calls with options, made by ``ctx.options(...)``; it may be kept and used again.

    All arguments after the function go to the function, whatever their names.
    """

    __slots__ = ("_ctx", "_options")

    def __init__(self, ctx: Context, options: _ChildOptions) -> None:
        self._ctx = ctx
        self._options = options

    @overload
    def rpc(self, fn: Workflow[P, T], /, *args: P.args, **kwargs: P.kwargs) -> DurableFuture[T]: ...
    @overload
    def rpc(self, fn: AsyncTask[P, T], /, *args: P.args, **kwargs: P.kwargs) -> DurableFuture[T]: ...
    @overload
    def rpc(self, fn: str | Definition, /, *args: Any, **kwargs: Any) -> DurableFuture[Any]: ...
    @overload
    def rpc(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> DurableFuture[T]: ...
    def rpc(self, fn: Callable[..., Any] | Definition | str, /, *args: Any, **kwargs: Any) -> DurableFuture[Any]:
        """Start a workflow or task as an execution of its own, and await its result: see ``ctx.rpc``."""
        return self._ctx._rpc(fn, args, kwargs, self._options)

    @overload
    def detached(self, fn: Workflow[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> DurableFuture[str]: ...
    @overload
    def detached(self, fn: str | Definition, /, *args: Any, **kwargs: Any) -> DurableFuture[str]: ...
    @overload
    def detached(self, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> DurableFuture[str]: ...
    def detached(self, fn: Callable[..., Any] | Definition | str, /, *args: Any, **kwargs: Any) -> DurableFuture[str]:
        """Start an independent execution, and await its id: see ``ctx.detached``."""
        return self._ctx._detached(fn, args, kwargs, self._options)


Workflow = Callable[Concatenate[Context, P], Awaitable[T]]
AsyncTask = Callable[P, Awaitable[T]]


def _name_execution(record: logging.LogRecord) -> bool:
    """A line begins with the id, whichever handlers show it."""
    if id := getattr(record, "execution", ""):
        record.msg = f"{id.replace('%', '%%') if record.args else id}: {record.msg}"
    return True


_log.addFilter(_name_execution)


class _WorkflowLogger(logging.LoggerAdapter[logging.Logger]):
    def __init__(self, ctx: Context) -> None:
        super().__init__(_log, {"execution": ctx.info.id, "function": ctx.info.function})
        self._ctx = ctx

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        return not (self._ctx.replaying or self._ctx.evicting) and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


def _step_of(fn: Callable[..., Any]) -> TaskDefinition | None:
    """The task that a step is, if it is one; DefinitionError if it cannot be a step."""
    definition = definition_of(fn)
    if isinstance(definition, WorkflowDefinition):
        raise DefinitionError(f"{definition.name!r} is a workflow, not a step: `await ctx.rpc({definition.name}, ...)`")
    if not callable(fn):
        raise DefinitionError(not_callable(fn))
    if definition is not None and (limit := definition.declared.limit) is not None:
        raise DefinitionError(
            f"{definition.name!r} has limit {limit.name!r}, which counts executions, and a step is none: "
            f"`await ctx.rpc({definition.name}, ...)`"
        )
    return definition


def _never(number: Number) -> StepCall:
    raise AssertionError(f"entry {number} of a workflow that is being evicted")


def _result_hint(fn: Callable[..., Any] | Definition | str) -> Any:
    if isinstance(fn, str):
        return Any
    return returns_of(fn.fn if isinstance(fn, Definition) else fn)


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms // 1000, UTC) + timedelta(milliseconds=ms % 1000)
