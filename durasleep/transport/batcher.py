"""The calls made in one turn of the event loop, sent together.

While an exchange runs, new calls gather for the next one: the higher the load, the larger the batches.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import msgspec

from durasleep.errors import DurasleepError, StoreError, StoreRefused, StoreUnavailable
from durasleep.protocol import server
from durasleep.protocol.command import BatchItem, Call, Command, Reply
from durasleep.settings import Settings
from durasleep.transport.batching import (
    AGAIN,
    RETRY_FIRST_S,
    RETRY_MAX_S,
    answer_of,
    check_confirmed,
    confirmation,
    exchange_plan,
    is_unserved,
)
from durasleep.transport.connection import Link
from durasleep.transport.outage import Outage
from durasleep.transport.portion import Portion

T = TypeVar("T")
_EXCHANGE_MAX = (
    96  # calls in one write: Redis runs all scripts that it has read from one client before it serves another
)
_ALONE_TRIES = 5  # of a call that loses the connection each time, although Redis answers other calls


class _Asked(msgspec.Struct, eq=False):
    """Calls that were made together, and their answers so far. The error of a script is an answer, too."""

    calls: Sequence[Call]
    future: asyncio.Future[Any]
    is_single: bool
    answers: list[Any]
    left: int
    """How many have no answer yet."""
    left_in_vain: int = -1
    """How many had no answer after the last attempt."""
    give_up_at: float = math.inf
    """When the patience for these ends, by the clock of the loop."""

    @classmethod
    def of(cls, calls: Sequence[Call], *, is_single: bool = False) -> _Asked:
        return cls(calls, asyncio.get_running_loop().create_future(), is_single, [_OPEN] * len(calls), len(calls))

    def open_positions(self) -> list[int]:
        """The calls to send, again or for the first time; none if nobody waits any more."""
        if self.future.done():
            return []
        if self.left == len(self.calls):
            return list(range(self.left))
        return [position for position, answer in enumerate(self.answers) if answer is _OPEN]

    def note_in_vain(self, give_up_at: float) -> None:
        """They were sent without an answer. The patience begins now, or again if some were answered since."""
        if self.left != self.left_in_vain:
            self.left_in_vain, self.give_up_at = self.left, give_up_at

    def finish(self) -> None:
        """Return the answers to the waiter, if all are there."""
        if self.left or self.future.done():
            return
        if not self.is_single:
            self.future.set_result(self.answers)
        elif isinstance(self.answers[0], DurasleepError):
            self.future.set_exception(self.answers[0])
        else:
            self.future.set_result(self.answers[0])

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


_OPEN = object()
_Part = tuple[_Asked, list[int]]
"""Calls of one exchange: their group, and their positions in it."""


async def ask_once(link: Link, calls: Sequence[Call], settings: Settings) -> list[Any]:
    """The answers to some calls, none of which is repeated; an error of a call takes the place of its answer."""
    talking = exchange_plan(calls, settings)
    try:
        commands = next(talking)
        while True:
            commands = talking.send(await link.exchange(commands))
    except StopIteration as end:
        return [answer_of(call, raw) for call, raw in zip(calls, end.value, strict=True)]


class Batcher:
    """Gathers calls and runs them over one link; repeats them if the answer was lost.

    Every call is safe to repeat (see the scripts). After ``patience_s`` without an answer a call raises
    StoreUnavailable; with None it is repeated until it is cancelled.
    """

    def __init__(self, link: Link, settings: Settings, patience_s: float | None, outage: Outage | None = None) -> None:
        self._link = link
        self._settings = settings
        self._patience_s = patience_s
        self._waiting: deque[_Asked] = deque()
        self._under_way: list[_Part] = []
        self._pump: asyncio.Task[None] | None = None
        self._outage = outage or Outage()
        self._confirmation = confirmation(settings)
        self._portion = Portion(_EXCHANGE_MAX)

    async def call(self, call: BatchItem[T] | Command[T]) -> T:
        """The answer to one call; raises its error."""
        return await self.send(call)

    def send(self, call: BatchItem[T] | Command[T]) -> asyncio.Future[T]:
        """The same as a future; the call is sent at the end of this turn of the loop."""
        return self._take(_Asked.of((call,), is_single=True))

    def ask(self, calls: Sequence[Call]) -> asyncio.Future[list[Any]]:
        """The answers to several calls, in order; an error of a call takes the place of its answer."""
        asked = _Asked.of(calls)
        if calls:
            return self._take(asked)
        asked.finish()
        return asked.future

    def _take(self, asked: _Asked) -> asyncio.Future[Any]:
        self._waiting.append(asked)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.get_running_loop().create_task(self._run(), name="durasleep-batcher")
        return asked.future

    @property
    def is_asking(self) -> bool:
        """Whether a call waits for its answer."""
        return self._pump is not None and not self._pump.done()

    async def close(self, error: Exception | None = None) -> None:
        """Stop; waiters get ``error``, or are cancelled without one."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
        for asked in (*[asked for asked, _ in self._under_way], *self._waiting):
            if error is None:
                asked.future.cancel()
            else:
                asked.fail(error)
        self._under_way = []
        self._waiting.clear()
        await self._link.close()

    async def _run(self) -> None:
        while parts := self._next_parts():
            await self._exchange(parts)

    def _next_parts(self) -> list[_Part]:
        """The calls that wait longest, as many as one exchange carries; the rest of a long group stays in front."""
        parts: list[_Part] = []
        room = self._portion.now
        while self._waiting and room:
            asked = self._waiting[0]
            positions = asked.open_positions()
            if len(positions) <= room:
                self._waiting.popleft()
            if positions:
                parts.append((asked, positions[:room]))
                room -= len(parts[-1][1])
        self._under_way = parts
        return parts

    def _put_back(self, parts: list[_Part]) -> None:
        """They wait again, in front of all others."""
        for asked, _ in reversed(parts):
            if not self._waiting or self._waiting[0] is not asked:
                self._waiting.appendleft(asked)

    async def _exchange(self, parts: list[_Part]) -> None:
        """Run some calls. Calls without an answer or refused ones are repeated; new ones join, and smaller parts are
        tried.
        """
        loop = asyncio.get_running_loop()
        delay_s = RETRY_FIRST_S
        while parts:
            began, is_lost = loop.time(), False
            try:
                problem = await self._once(parts)
            except StoreUnavailable as error:
                problem, is_lost = error, not self._link.connected
            except Exception as error:  # noqa: BLE001 - the waiters must get it, and the others go on
                if not isinstance(error, StoreRefused) or self._patience_s is not None:
                    _fail(parts, error)
                    return
                problem = error
            if problem is None:
                self._portion.grow()
                if delay_s > RETRY_FIRST_S:
                    self._outage.recovered()
                parts = _open_parts(parts)  # calls that were not looked at are sent again at once
                continue
            if self._patience_s is None:
                self._outage.report(problem)
            else:
                for asked, _ in parts:
                    asked.note_in_vain(began + self._patience_s)
            if is_lost:
                await self._lessen(parts)
            self._put_back(parts)
            self._give_up(loop.time() + delay_s, problem)
            if not self._waiting:
                return
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2, RETRY_MAX_S)
            parts = self._next_parts()

    def _give_up(self, now_s: float, problem: StoreError) -> None:
        """Waiters whose patience has ended get the error, and calls that nobody waits for are dropped."""
        for asked in self._waiting:
            if asked.give_up_at < now_s:
                asked.fail(problem)
        self._waiting = deque(asked for asked in self._waiting if not asked.future.done())

    async def _lessen(self, parts: list[_Part]) -> None:
        """Calls lost the connection: send fewer at a time. A single call that loses it each time gets the error."""
        count = sum(len(positions) for _, positions in parts)
        self._portion.halve(count)
        if count > 1 or not await self._is_lost_over(parts):
            return
        [(asked, [position])] = parts
        asked.answers[position] = StoreError(
            "Redis closes the connection each time it gets this call, but answers other calls: this call may be larger "
            "than the server allows (client-output-buffer-limit, client-query-buffer-limit)"
        )
        asked.left -= 1
        asked.finish()

    async def _is_lost_over(self, parts: list[_Part]) -> bool:
        """Whether Redis answers other calls, but never this one."""
        loop = asyncio.get_running_loop()
        delay_s = RETRY_FIRST_S
        for _ in range(_ALONE_TRIES):
            if loop.time() + delay_s > parts[0][0].give_up_at:
                return False
            await asyncio.sleep(delay_s)
            delay_s *= 2
            try:
                [pong] = await self._link.exchange([server.ping().args])
                if isinstance(pong, Exception):
                    return False
            except StoreError:
                return False
            try:
                if await self._once(parts) is None:
                    self._outage.recovered()
                return False
            except StoreUnavailable:
                if self._link.connected:
                    return False
            except Exception:  # noqa: BLE001 - the next exchange raises it to the waiters
                return False
        return True

    async def _once(self, parts: list[_Part]) -> StoreError | None:
        """One exchange; returns why some of it must be repeated, or None."""
        calls = [asked.calls[position] for asked, positions in parts for position in positions]
        plan = exchange_plan(calls, self._settings)
        confirmed: list[Reply] = []  # by the last exchange, which also confirms those before it
        try:
            commands = next(plan)
            while True:
                replies = await self._link.exchange([*commands, *self._confirmation])
                confirmed = replies[len(commands) :]
                commands = plan.send(replies[: len(commands)])
        except StopIteration as end:
            raws = iter(cast("list[Reply]", end.value))
        if confirmed:
            check_confirmed(confirmed, self._settings)
        problem: StoreError | None = None
        for asked, positions in parts:
            calls, answers = asked.calls, asked.answers
            for position in positions:
                answer = answer_of(calls[position], next(raws))
                if answer is AGAIN:
                    continue
                if isinstance(answer, StoreError) and is_unserved(answer, waits_for_rights=self._patience_s is None):
                    problem = answer
                    continue
                answers[position] = answer
                asked.left -= 1
            asked.finish()
        return problem


def _open_parts(parts: list[_Part]) -> list[_Part]:
    """The calls of some parts that have no answer yet."""
    return [
        (asked, left)
        for asked, positions in parts
        if asked.left and (left := [position for position in positions if asked.answers[position] is _OPEN])
    ]


def _fail(parts: list[_Part], error: Exception) -> None:
    for asked, _ in parts:
        asked.fail(error)
