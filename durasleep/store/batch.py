"""The calls made in one turn of the event loop, sent together: one EVALSHA per script for all its items.

While an exchange is under way, new calls gather for the next: the busier, the larger the batches.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Generator, Sequence
from typing import Any, TypeVar, cast

import msgspec
import redis.exceptions as redis_errors

from durasleep.errors import DurasleepError, NotReplicated, StoreError, StoreRefused, StoreUnavailable
from durasleep.model import Op, StartChild, StepResult, Transaction
from durasleep.settings import Settings
from durasleep.store import script
from durasleep.store.commands import Call, Command, Item, error_of, key_list
from durasleep.store.connection import Link, Reply, error_text, refusal
from durasleep.store.outage import Outage
from durasleep.store.script import Value

T = TypeVar("T")

RETRY_FIRST_S = 0.05
RETRY_MAX_S = 2.0  # a Redis that comes back is used within two seconds
EXCHANGE_MAX = 96  # calls in one write: Redis runs all scripts it has read of one client before it serves another


class _Waiting(msgspec.Struct, eq=False):
    """A call on its way, and who hears of its answer."""

    call: Call
    future: asyncio.Future[Any]

    @property
    def is_off(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.future.cancelled()

    def answer(self, value: Any) -> None:
        if not self.future.done():
            self.future.set_result(value)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def cancel(self) -> None:
        self.future.cancel()


class _Several(msgspec.Struct, eq=False):
    """The answers to calls that were asked for together: one future for all of them."""

    future: asyncio.Future[list[Any]]
    answers: list[Any]
    left: int


class _OneOfSeveral(msgspec.Struct, eq=False):
    """The same as ``_Waiting`` for one of them; the error of a script is an answer like others."""

    call: Call
    several: _Several
    place: int
    is_answered: bool = False

    @property
    def is_off(self) -> bool:
        return self.is_answered or self.several.future.done()

    def answer(self, value: Any) -> None:
        if self.is_answered:
            return
        self.is_answered = True
        several = self.several
        several.answers[self.place] = value
        several.left -= 1
        if not several.left and not several.future.done():
            several.future.set_result(several.answers)

    def fail(self, error: Exception) -> None:
        if isinstance(error, DurasleepError) and not isinstance(error, StoreUnavailable):
            self.answer(error)
        elif not self.several.future.done():
            self.several.future.set_exception(error)

    def cancel(self) -> None:
        self.several.future.cancel()


_Asked = _Waiting | _OneOfSeveral


class _Joined(msgspec.Struct, eq=False):
    """One command, and the positions of the calls it carries."""

    command: list[Value]
    positions: list[int]
    size: int = 0
    """Bytes of the user's."""


def join(calls: Sequence[Call], settings: Settings) -> list[_Joined]:
    """The commands to send for some calls."""
    joined: list[_Joined] = []
    open_batches: dict[tuple[Any, ...], _Joined] = {}
    for position, call in enumerate(calls):
        if isinstance(call, Command):
            joined.append(_Joined([*call.args], [position]))
            continue
        size = sum([len(value) for value in call.args if type(value) is bytes])
        batch_key = (call.script.name, call.keys, call.head)
        batch = open_batches.get(batch_key)
        if (
            batch is None
            or len(batch.positions) >= settings.batch_items_max
            or batch.size + size > settings.batch_bytes_max
        ):
            batch = _Joined(script.evalsha(call.script, key_list(call.keys), call.head), [])
            joined.append(batch)
            open_batches[batch_key] = batch
        batch.command.extend(call.args)
        batch.positions.append(position)
        batch.size += size
    return joined


def split_ops(ops: Sequence[Op], settings: Settings) -> list[list[Op]]:
    """What one commit asks for, in parts that one script call may do; at least one part."""
    parts: list[list[Op]] = [[]]
    size = 0
    for op in ops:
        op_bytes = _bytes_of(op)
        if len(parts[-1]) >= settings.commit_ops_max or (parts[-1] and size + op_bytes > settings.batch_bytes_max):
            parts.append([])
            size = 0
        parts[-1].append(op)
        size += op_bytes
    return parts


def _bytes_of(op: Op) -> int:
    """What an operation carries of the user's."""
    match op:
        case StepResult():
            return len(op.payload)
        case StartChild():
            return len(op.args)
        case Transaction():
            return sum(len(word) for command in op.commands for word in command)
        case _:
            return 0


def script_of(call: Call) -> script.Script | None:
    """The script a call runs, if it runs one."""
    return call.script


def is_unknown_script(reply: Reply) -> bool:
    """Whether the server has forgotten a script (restart, SCRIPT FLUSH)."""
    if not isinstance(reply, Exception):
        return False
    return isinstance(reply, redis_errors.NoScriptError) or str(reply).startswith("NOSCRIPT")


def talk(
    calls: Sequence[Call], settings: Settings
) -> Generator[list[list[Value]], list[Reply], list[tuple[Reply, int]]]:
    """What to send for some calls, and, if the server has forgotten scripts, what to send then.

    It is sent the replies, and ends with the reply to each call and the call's place in it.
    """
    joined = join(calls, settings)
    replies = yield [one.command for one in joined]
    unknown = [index for index, reply in enumerate(replies) if is_unknown_script(reply)]
    if unknown:
        again: list[list[Value]] = []
        for index in unknown:
            lua = script_of(calls[joined[index].positions[0]])
            if lua is None:
                raise StoreError(str(replies[index]))
            again.append(script.as_eval(lua, joined[index].command))
        for index, reply in zip(unknown, (yield again), strict=True):
            replies[index] = reply
    found: list[tuple[Reply, int]] = [(None, 0)] * len(calls)
    for one, reply in zip(joined, replies, strict=True):
        for place, position in enumerate(one.positions):
            found[position] = (reply, place)
    return found


def refusal_of(call: Call, reply: Reply, place: int) -> StoreError | None:
    """Why the server would not serve a call, if that is what it says; nothing of the call was applied.

    That holds when it is full, too: a script is stopped at its first write or, having freed something, not at all.
    """
    if isinstance(reply, Exception):
        return refusal(reply)
    if isinstance(call, Item) and reply[place][0] == b"error":
        return refusal(reply[place][1].decode(errors="replace"))
    return None


def read(call: Call, reply: Reply, place: int) -> Any:
    """What a call answers, given the reply to its command and its place among the items of that."""
    if isinstance(reply, Exception):
        raise error_of(error_text(reply)) from reply
    return call.read(reply[place]) if isinstance(call, Item) else call.parse(reply)


def confirmation(settings: Settings) -> list[list[Value]]:
    """What follows the commands of an exchange, if it must be confirmed: it speaks of all that were written before."""
    timeout_ms = round(settings.confirm_timeout_s * 1000)
    if settings.fsync:
        return [[b"WAITAOF", 1, settings.min_replicas, timeout_ms]]
    return [[b"WAIT", settings.min_replicas, timeout_ms]] if settings.min_replicas else []


def check_confirmed(replies: Sequence[Reply], settings: Settings) -> None:
    """NotReplicated if too few have it; the writes are made all the same, and to repeat them is safe."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise StoreUnavailable(f"the server cannot confirm what is written: {error_text(reply)}")
        local, replicas = cast("tuple[int, int]", reply if isinstance(reply, list) else (1, reply))
        if settings.fsync and local < 1:
            raise NotReplicated("written, but not known to be on disk")
        if replicas < settings.min_replicas:
            raise NotReplicated(f"written, but received by {replicas} replicas of {settings.min_replicas}")


class Batcher:
    """Gathers calls and runs them over one link; repeats them if the answer was lost.

    Every call is safe to repeat (see the scripts). After ``patience_s`` without an answer a call raises
    StoreUnavailable; with None it is repeated until it is cancelled.
    """

    def __init__(self, link: Link, settings: Settings, patience_s: float | None, outage: Outage | None = None) -> None:
        self._link = link
        self._settings = settings
        self._patience_s = patience_s
        self._waiting: list[_Asked] = []
        self._pump: asyncio.Task[None] | None = None
        self._outage = outage or Outage()
        self._confirmation = confirmation(settings)

    async def call(self, call: Item[T] | Command[T]) -> T:
        """The answer to one call, or the error it says."""
        return await self.send(call)

    def send(self, call: Item[T] | Command[T]) -> asyncio.Future[T]:
        """The same as a future; the call leaves at the end of this turn of the loop."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(call, future))
        self._wake()
        return future

    def ask(self, calls: Sequence[Call]) -> asyncio.Future[list[Any]]:
        """The answers to several, in order; what one says is wrong stands in its place, as the error it is."""
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        if not calls:
            future.set_result([])
            return future
        several = _Several(future, [None] * len(calls), len(calls))
        self._waiting += [_OneOfSeveral(call, several, place) for place, call in enumerate(calls)]
        self._wake()
        return future

    def _wake(self) -> None:
        if self._pump is None or self._pump.done():
            self._pump = asyncio.get_running_loop().create_task(self._run(), name="durasleep-batcher")

    async def close(self) -> None:
        """Stop; what still waits is cancelled."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
        for waiting in self._waiting:
            waiting.cancel()
        await self._link.close()

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:EXCHANGE_MAX], self._waiting[EXCHANGE_MAX:]
            batch = [waiting for waiting in batch if not waiting.is_off]
            try:
                await self._exchange(batch)
            except Exception as error:  # noqa: BLE001 - whoever waits must hear of it, and the others go on
                for waiting in batch:
                    waiting.fail(error)
            except BaseException:
                for waiting in batch:
                    waiting.cancel()
                raise

    async def _exchange(self, batch: list[_Asked]) -> None:
        """Run a batch, repeating what got no answer or was refused; with no end to the patience, new calls join it."""
        loop = asyncio.get_running_loop()
        give_up_at = None if self._patience_s is None else loop.time() + self._patience_s
        delay_s = RETRY_FIRST_S
        while batch:
            try:
                batch, problem = await self._once(batch)
            except StoreUnavailable as error:
                problem = error
            except StoreRefused as error:
                if give_up_at is not None:
                    raise
                problem = error
            if problem is None:
                if delay_s > RETRY_FIRST_S:
                    self._outage.end()
                return
            if give_up_at is None:
                self._outage.say(problem)
            elif loop.time() + delay_s > give_up_at:
                raise problem
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2, RETRY_MAX_S)
            if give_up_at is None:
                batch, self._waiting = [*batch, *self._waiting], []

    async def _once(self, batch: list[_Asked]) -> tuple[list[_Asked], StoreError | None]:
        """One exchange; answers what is left to repeat, and why."""
        talk_of_batch = talk([waiting.call for waiting in batch], self._settings)
        confirmed: list[Reply] = []  # by the last exchange, which speaks of those before it, too
        try:
            commands = next(talk_of_batch)
            while True:
                replies = await self._link.exchange([*commands, *self._confirmation])
                confirmed = replies[len(commands) :]
                commands = talk_of_batch.send(replies[: len(commands)])
        except StopIteration as end:
            found: list[tuple[Reply, int]] = end.value
        check_confirmed(confirmed, self._settings)
        left: list[_Asked] = []
        problem: StoreError | None = None
        for waiting, (reply, place) in zip(batch, found, strict=True):
            refused = refusal_of(waiting.call, reply, place)
            if refused is not None and isinstance(refused, StoreRefused) and self._patience_s is not None:
                waiting.fail(refused)  # only a worker waits for rights
            elif refused is not None:
                problem = refused
                left.append(waiting)
            elif not waiting.is_off:
                _settle(waiting, reply, place)
        return left, problem


def _settle(waiting: _Asked, reply: Reply, place: int) -> None:
    try:
        answer = read(waiting.call, reply, place)
    except DurasleepError as error:
        waiting.fail(error)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        waiting.fail(StoreError(f"an answer of Redis cannot be read: {error!r}"))
    else:
        waiting.answer(answer)
