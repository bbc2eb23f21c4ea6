"""``ctx``: what a workflow may ask for. Each durable call takes its number at once and returns a future."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Generator, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar, overload
from uuid import UUID

import msgspec

from durasleep.codec import Codec
from durasleep.errors import DefinitionError, Detached, NotSerializable, PayloadTooLarge, UsageError
from durasleep.model import (
    Kind,
    Number,
    PromiseId,
    StartChild,
    StartPromise,
    StartTimer,
    Transaction,
    check_label,
    check_new_id,
    due_at,
    due_in,
    duration_ms,
    parse_target,
)
from durasleep.runtime.definition import (
    Definition,
    TaskDefinition,
    WorkflowDefinition,
    definition_of,
    name_of,
    returns_of,
    step_name_of,
)
from durasleep.runtime.journal import DurableFuture, Journal, RetriedStep, StepCall
from durasleep.runtime.loop import WorkflowLoop
from durasleep.runtime.retry import Retry

P = ParamSpec("P")
T = TypeVar("T")

TRANSACTION_COMMANDS_MAX = 1_000  # a millisecond of Redis or two

_log = logging.getLogger("durasleep.workflow")


class ExecutionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Which execution this is."""

    id: PromiseId
    root_id: PromiseId
    """The execution its family began with."""
    function: str
    group: str
    birth: int
    """The birth stamp of its family: another life under the same id has another."""
    created_ms: int
    begun_ms: int = 0
    """When its present run began, if ``continue_as_new`` has begun it."""
    version: int = 1
    """Of its workflow, see ``@app.workflow(version=...)``."""
    deaths: int = 0
    """Workers that died with it since it last moved on. It differs between replays: show it, never branch on it."""

    @property
    def created_at(self) -> datetime:
        """When it was created, by the server's clock."""
        return _instant(self.created_ms)


class Context:
    """The first argument of every workflow. Use it in the workflow only, never in steps or threads."""

    __slots__ = ("_cleanups", "_codec", "_journal", "_loop", "info")

    def __init__(self, info: ExecutionInfo, codec: Codec, loop: WorkflowLoop, journal: Journal) -> None:
        self.info = info
        self._codec = codec
        self._loop = loop
        self._journal = journal
        self._cleanups: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []

    # -- waiting

    def sleep(self, duration: float | timedelta, *, name: str = "") -> DurableFuture[None]:
        """Pause for some seconds, or a timedelta: never shorter, and across restarts."""
        due = due_in(duration, "sleep")
        if name:
            check_label(name)
        return self._journal.call(Kind.TIMER, name, None, lambda number: StartTimer(number, name, due))

    def sleep_until(self, instant: datetime, *, name: str = "") -> DurableFuture[None]:
        """Pause until an aware datetime; InvalidDuration for a naive one."""
        due = due_at(instant)
        return self._journal.call(Kind.TIMER, check_label(name), None, lambda number: StartTimer(number, name, due))

    def promise(self, *, timeout: float | timedelta | None = None, name: str = "") -> DurableFuture[Any]:
        """Something to be settled from outside, by its ``.id``; raises TimedOut once ``timeout`` has passed."""
        due = None if timeout is None else due_in(timeout, "timeout")
        return self._journal.call(Kind.PROMISE, check_label(name), Any, lambda number: StartPromise(number, name, due))

    async def race(self, *awaitables: Awaitable[T]) -> Winner[T]:
        """Wait for the first of several and take the others back, in one commit; raises what the first one raised.

        ``approval or three days``: ``winner = await ctx.race(ctx.promise(name="approval"), ctx.sleep(...))``, and
        ``winner.index`` says which it was.
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
            await asyncio.wait(losers)  # a task may have something to put in order first
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
        timeout: float | timedelta,
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
        timeout: float | timedelta,
        retry: Retry | None = None,
        **kwargs: Any,
    ) -> DurableFuture[T]: ...
    def run(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        timeout: float | timedelta | None = None,
        retry: Retry | None = None,
        **kwargs: Any,
    ) -> DurableFuture[Any]:
        """Run a plain function or a task as a step in this worker: at least once, and its result counts once.

        ``timeout`` is for each attempt; a task's own timeout and retry hold where none is given.
        """
        definition = _step_of(fn)
        if definition is not None:
            timeout = definition.timeout if timeout is None else timeout
            retry = retry or definition.retry
        name = step_name_of(fn) if definition is None else definition.name
        timeout_s = None if timeout is None else duration_ms(timeout, "timeout") / 1000
        if retry is not None and retry.attempts > 1:
            call = StepCall(Number(""), name, fn, args, kwargs, timeout_s)
            return RetriedStep.begin(self._journal, call, returns_of(fn), retry)
        return self._journal.call(
            Kind.STEP, name, returns_of(fn), lambda number: StepCall(number, name, fn, args, kwargs, timeout_s)
        )

    def on_cancel(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """Run this as a step if a cancel ends the workflow; the last one registered first.

        What it raises is what the execution then ends with. ``cancel(force=True)`` and a deadline run no code.
        """
        _step_of(fn)
        self._cleanups.append((fn, args, kwargs))

    async def clean_up(self) -> None:
        """What ``on_cancel`` has asked for, if the workflow was canceled; called for you."""
        errors: list[Exception] = []
        while self._loop.canceled and self._cleanups:
            fn, args, kwargs = self._cleanups.pop()
            try:
                await self.run(fn, *args, **kwargs)
            except Exception as error:  # noqa: BLE001 - the others run all the same
                errors.append(error)
        if len(errors) > 1:
            raise ExceptionGroup("several failed that ran after a cancel", errors)
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
        timeout: float | timedelta | None = None,
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
        timeout: float | timedelta | None = None,
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
        timeout: float | timedelta | None = None,
        **kwargs: Any,
    ) -> DurableFuture[T]: ...
    def rpc(
        self,
        fn: Callable[..., Any] | Definition | str,
        /,
        *args: Any,
        id: str | None = None,
        target: str | None = None,
        timeout: float | timedelta | None = None,
        **kwargs: Any,
    ) -> DurableFuture[Any]:
        """Start a workflow or task as an execution of its own, and await its result.

        With an ``id`` it attaches to what runs under it, and outlives this workflow. Raises what it raised, Canceled,
        or TimedOut once ``timeout`` has passed.
        """
        function = name_of(fn)
        child_id = None if id is None else check_new_id(id)
        queue = None if target is None else parse_target(target).queue
        due = None if timeout is None else due_in(timeout, "timeout")

        def start(number: Number) -> StartChild:
            payload = self._codec.encode_args(args, kwargs, f"arguments of {function}")
            return StartChild(number, function, payload, queue, due, child_id)

        return self._journal.call(Kind.CHILD, function, _result_hint(fn), start, child_id)

    def detached(
        self,
        fn: Callable[..., Any] | Definition | str,
        /,
        *args: Any,
        id: str | None = None,
        target: str | None = None,
        timeout: float | timedelta | None = None,
        **kwargs: Any,
    ) -> DurableFuture[str]:
        """Start an execution that goes its own way: not awaited, not canceled with this one.

        Awaiting it gives its id, once it has been started; one that exists under ``id`` is left as it is.
        """
        function = name_of(fn)
        if self._loop.detaching:
            return self._journal.call(Kind.DETACHED, function, str, _never)
        child_id = check_new_id(id) if id is not None else self._free_id()
        queue = None if target is None else parse_target(target).queue
        due = None if timeout is None else due_in(timeout, "timeout")

        def start(number: Number) -> StartChild:
            payload = self._codec.encode_args(args, kwargs, f"arguments of {function}")
            return StartChild(number, function, payload, queue, due, child_id, detached=True)

        return self._journal.call(Kind.DETACHED, function, str, start, child_id)

    def continue_as_new(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Go on as a new run of the same execution: other arguments, an empty journal, the newest version.

        The id, whoever waits for it and the deadline stay; what is pending ends. It does not return.
        """
        self._loop.lineage()
        self._loop.continued = (args, kwargs)
        raise Detached("this workflow goes on as a new run")

    def transaction(self) -> TransactionBuilder:
        """Queue Redis commands; awaiting it runs them together with their journal entry, exactly once.

        At most 1,000 commands, of together as many bytes as one payload may have: else PayloadTooLarge, or UsageError,
        and nothing was sent. What they answer may be a megabyte: if it is more, they were carried out all the same, and
        a RemoteError says so.
        """
        return TransactionBuilder(self._journal)

    # -- what would differ between replays

    def now(self) -> datetime:
        """The time of the last thing that happened to this workflow, by the server's clock."""
        return _instant(self._loop.now_ms)

    def random(self) -> float:
        """A number in [0, 1), the same in every replay."""
        return random.Random(self._digest("random")).random()

    def uuid(self) -> UUID:
        """A version 4 UUID, the same in every replay."""
        return UUID(bytes=self._digest("uuid")[:16], version=4)

    def patched(self, change: str) -> bool:
        """Whether this execution takes the new way: false if it came by here before the change was deployed.

        ``if ctx.patched("two-reminders"): ... else: ...`` keeps both ways until no execution takes the old one.
        """
        self._loop.lineage()
        return self._journal.patched(check_label(change))

    # -- knowing

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """Logs each line once: it is silent while replaying."""
        return _WorkflowLogger(self)

    @property
    def replaying(self) -> bool:
        """Whether what happens now has happened before. Never branch on it."""
        return self._loop.quiet

    @property
    def detaching(self) -> bool:
        """Whether this workflow is being put away: ``finally`` blocks that run now are not its end."""
        return self._loop.detaching

    def _free_id(self) -> PromiseId:
        """An id that only this call makes, in every replay the same."""
        name = hashlib.blake2b(
            f"{self.info.id}\n{self.info.birth}\n{self._loop.lineage().next}".encode(), digest_size=8
        ).hexdigest()
        return PromiseId(f"{self.info.root_id[:100]}-{name}")

    def _digest(self, what: str) -> bytes:
        number = self._loop.lineage().take()
        return hashlib.blake2b(f"{what}\n{self.info.id}\n{self.info.birth}\n{number}".encode(), digest_size=32).digest()


async def to_its_end(context: Context, coro: Coroutine[Any, Any, Any]) -> Any:
    """The workflow and, if a cancel has ended it, what it wanted done then.

    Here, and not beside its caller: the loop looks into this coroutine, which the compiled modules could not give it.
    """
    try:
        return await coro
    except asyncio.CancelledError:
        if not context.detaching:
            await context.clean_up()
        raise


@dataclass(frozen=True, slots=True)
class Winner(Generic[T]):
    """The first of a race."""

    index: int
    """Its place among the arguments."""
    value: T


class TransactionBuilder:
    """Redis commands in the making: ``tx.incr("k")``, ``tx.execute("SET", "k", 1)``, then ``results = await tx``.

    A method is the command in lower case (``tx.del_("k")`` for a word Python keeps). Answers one item a command.
    """

    __slots__ = ("_commands", "_future", "_journal")

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._commands: list[tuple[bytes, ...]] = []
        self._future: asyncio.Future[list[Any]] | None = None

    def execute(self, command: str, *args: str | bytes | float) -> TransactionBuilder:
        """Queue one command, as redis-cli would take it."""
        if self._future is not None:
            raise UsageError(
                f"this transaction has been sent, {command} was not added: begin another, ctx.transaction()"
            )
        self._commands.append((command.encode(), *(_argument(arg, command) for arg in args)))
        return self

    def __getattr__(self, command: str) -> Callable[..., TransactionBuilder]:
        if command.startswith("_"):
            raise AttributeError(command)
        return functools.partial(self.execute, command.rstrip("_").upper())

    def __await__(self) -> Generator[Any, None, list[Any]]:
        if self._future is None:
            commands = tuple(self._commands)
            if not commands:
                raise UsageError("this transaction has no commands: nothing was sent")
            bytes_max = self._journal.codec.payload_bytes_max

            def make(number: Number) -> Transaction:  # what the journal has was sent, whatever is allowed by now
                _check_transaction(commands, bytes_max)
                return Transaction(number, commands)

            self._future = self._journal.call(Kind.TRANSACTION, "", Any, make)
        return self._future.__await__()


class _WorkflowLogger(logging.LoggerAdapter[logging.Logger]):
    def __init__(self, ctx: Context) -> None:
        super().__init__(_log, {"execution": ctx.info.id, "function": ctx.info.function})
        self._ctx = ctx

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name is logging's
        return not (self._ctx.replaying or self._ctx.detaching) and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


def _check_transaction(commands: Sequence[tuple[bytes, ...]], bytes_max: int) -> None:
    """One script call carries all of it, and Redis does nothing else meanwhile."""
    if len(commands) > TRANSACTION_COMMANDS_MAX:
        raise UsageError(
            f"this transaction has {len(commands):,} commands, more than {TRANSACTION_COMMANDS_MAX:,}: nothing was sent"
        )
    size = sum([len(word) for command in commands for word in command])
    if size > bytes_max:
        raise PayloadTooLarge(
            f"the commands of this transaction have {size} bytes, over the cap of {bytes_max}: nothing was sent"
        )


def _argument(value: object, command: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value).encode()
    raise NotSerializable(f"an argument of {command} is a {type(value).__name__}: Redis takes str, bytes, int or float")


def _step_of(fn: Callable[..., Any]) -> TaskDefinition | None:
    """The task a step is, if it is one; DefinitionError for what cannot be a step."""
    definition = definition_of(fn)
    if isinstance(definition, WorkflowDefinition):
        raise DefinitionError(f"{definition.name!r} is a workflow, not a step: `await ctx.rpc({definition.name}, ...)`")
    if not callable(fn):
        raise DefinitionError(f"{fn!r} is not a function, and cannot be a step")
    return definition


def _never(number: Number) -> StepCall:
    raise AssertionError(f"entry {number} of a workflow that is being put away")


def _result_hint(fn: Callable[..., Any] | Definition | str) -> Any:
    if isinstance(fn, str):
        return Any
    return returns_of(fn.fn if isinstance(fn, Definition) else fn)


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms // 1000, UTC) + timedelta(milliseconds=ms % 1000)
