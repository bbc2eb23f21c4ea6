"""The calls made in one turn of the event loop, sent together.

While an exchange runs, new calls gather for the next one: the higher the load, the larger the batches.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar, cast

from durasleep.errors import StoreError, StoreRefused, StoreUnavailable
from durasleep.protocol import server
from durasleep.protocol.command import Call, Command, Reply
from durasleep.settings import Settings
from durasleep.transport.asked import Calls, Part, WaitingCalls, open_parts
from durasleep.transport.batching import (
    AGAIN,
    RETRY_FIRST_S,
    RETRY_MAX_S,
    answer_of,
    confirmation,
    exchange_plan,
    is_unserved,
    why_unconfirmed,
)
from durasleep.transport.connection import Link
from durasleep.transport.outage import Outage
from durasleep.transport.portion import Portion

T = TypeVar("T")
_EXCHANGE_MAX = (
    96  # calls in one write: Redis runs all scripts that it has read from one client before it serves another
)
_ALONE_TRIES = 5  # of a call that loses the connection each time, although Redis answers other calls


OnExchange = Callable[[Iterable[str], float], None]
"""Is told which scripts were answered together, and after how many seconds."""
Refused = tuple[Part, StoreError]
"""Calls that the server has not served, and why."""


class Router(Protocol):
    """Decides where calls of a cluster go, whose slots may move to other nodes."""

    def take_back(self, refused: Sequence[Refused]) -> None:
        """These were not served: send them again, here or elsewhere."""
        ...

    def note_served(self, parts: Sequence[Part]) -> None:
        """These were served."""
        ...


async def ask_once(link: Link, calls: Sequence[Call], settings: Settings) -> list[Any]:
    """The answers to some calls, none of which is repeated; an error of a call takes the place of its answer."""
    talking = exchange_plan(calls, settings)
    try:
        commands = next(talking)
        while True:
            commands = talking.send(await link.exchange(commands))
    except StopIteration as end:
        return [answer_of(call, raw) for call, raw in zip(calls, end.value, strict=True)]


class Batcher(Calls):
    """Gathers calls and runs them over one link; repeats them if the answer was lost.

    Every call is safe to repeat (see the scripts). After ``patience_s`` without an answer a call raises
    StoreUnavailable; with None it is repeated until it is cancelled.
    """

    def __init__(
        self,
        link: Link,
        settings: Settings,
        patience_s: float | None,
        outage: Outage | None = None,
        router: Router | None = None,
        on_exchange: OnExchange | None = None,
    ) -> None:
        """``router`` gets the calls that were not served. Without one they wait here, and are repeated."""
        self._on_exchange = on_exchange
        self._link = link
        self._settings = settings
        self._patience_s = patience_s
        self._waiting = WaitingCalls(settings.batch_items_max)
        self._under_way: list[Part] = []
        self._pump: asyncio.Task[None] | None = None
        self._outage = outage or Outage()
        self._router = router
        self._confirmation = confirmation(settings)
        self._portion = Portion(_EXCHANGE_MAX)

    def take(self, part: Part) -> None:
        """Send some calls of a group."""
        self._waiting.add(part)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.get_running_loop().create_task(self._run(), name="durasleep-batcher")

    @property
    def connected(self) -> bool:
        """Whether there is a connection, or one is being made; whether it works shows when it is used."""
        return self._link.connected or (self._pump is not None and not self._pump.done())

    async def close(self, error: Exception | None = None) -> None:
        """Stop; waiters get ``error``, or are cancelled without one."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
        for asked, _ in (*self._under_way, *self._waiting):
            if error is None:
                asked.future.cancel()
            else:
                asked.fail(error)
        self._under_way = []
        self._waiting.drop_done()
        await self._link.close()

    async def _run(self) -> None:
        while parts := self._next_parts():
            await self._exchange(parts)

    def _next_parts(self) -> list[Part]:
        self._under_way = self._waiting.take(self._portion.now)
        return self._under_way

    async def _exchange(self, parts: list[Part]) -> None:
        """Run some calls. Calls without an answer or refused ones are repeated; new ones join, and smaller parts are
        tried.
        """
        loop = asyncio.get_running_loop()
        delay_s = RETRY_FIRST_S
        while parts:
            began = loop.time()
            refused = await self._attempt(parts)
            if refused is None:
                return
            if not refused:
                self._portion.grow()
                if self._router is not None:
                    self._router.note_served(parts)
                elif delay_s > RETRY_FIRST_S:
                    self._outage.recovered()
                parts = open_parts(parts)  # calls that were not looked at are sent again at once
                continue
            if self._patience_s is not None:
                for (asked, _), _ in refused:
                    asked.note_in_vain(began + self._patience_s)
            if self._router is not None:
                parts = self._pass_on(refused, parts)
                continue
            problem = refused[-1][1]
            if self._patience_s is None:
                self._outage.report(problem)
            self._waiting.put_back(open_parts(parts))
            self._give_up(loop.time() + delay_s, problem)
            if not self._waiting:
                return
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2, RETRY_MAX_S)
            parts = self._next_parts()

    def _pass_on(self, refused: list[Refused], parts: list[Part]) -> list[Part]:
        """Refused calls leave this lane; returns those that were not looked at."""
        assert self._router is not None
        gone = {(id(asked), position) for (asked, positions), _ in refused for position in positions}
        self._router.take_back(refused)
        return [
            (asked, left)
            for asked, positions in open_parts(parts)
            if (left := [position for position in positions if (id(asked), position) not in gone])
        ]

    async def _attempt(self, parts: list[Part]) -> list[Refused] | None:
        """One exchange; returns the calls that were not served, and why. None if they will never be served: then the
        waiters have got the error.
        """
        try:
            return await self._once(parts)
        except StoreUnavailable as error:
            if not self._link.connected:
                await self._lessen(parts)
            problem: StoreError = error
        except Exception as error:  # noqa: BLE001 - the waiters must get it, and the others go on
            if not isinstance(error, StoreRefused) or self._patience_s is not None:
                for asked, _ in parts:
                    asked.fail(error)
                return None
            problem = error
        return [(part, problem) for part in open_parts(parts)]

    def _give_up(self, now_s: float, problem: StoreError) -> None:
        """Waiters whose patience has ended get the error, and calls that nobody waits for are dropped."""
        for asked, _ in self._waiting:
            if asked.give_up_at < now_s:
                asked.fail(problem)
        self._waiting.drop_done()

    async def _lessen(self, parts: list[Part]) -> None:
        """Calls lost the connection: send fewer at a time. A single call that loses it each time gets the error."""
        count = sum(len(positions) for _, positions in parts)
        self._portion.halve(count)
        if count > 1 or not await self._is_lost_over(parts):
            return
        [(asked, [position])] = parts
        error = StoreError(
            "Redis closes the connection each time it gets this call, but answers other calls: this call may be larger "
            "than the server allows (client-output-buffer-limit, client-query-buffer-limit)"
        )
        asked.answer(position, error)
        asked.finish()

    async def _is_lost_over(self, parts: list[Part]) -> bool:
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
                if not await self._once(parts):
                    self._outage.recovered()
                return False
            except StoreUnavailable:
                if self._link.connected:
                    return False
            except Exception:  # noqa: BLE001 - the next exchange raises it to the waiters
                return False
        return True

    def _is_unserved(self, call: Call, answer: StoreError) -> bool:
        is_optional = isinstance(call, Command) and call.is_optional
        return is_unserved(answer, waits_for_rights=self._patience_s is None and not is_optional)

    async def _once(self, parts: list[Part]) -> list[Refused]:
        """One exchange; returns the calls that must be repeated, and why."""
        calls = [asked.calls[position] for asked, positions in parts for position in positions]
        plan = exchange_plan(calls, self._settings)
        began = 0.0 if self._on_exchange is None else time.perf_counter()
        confirmed: list[Reply] = []  # by the last exchange, which also confirms those before it
        try:
            commands = next(plan)
            while True:
                replies = await self._link.exchange([*commands, *self._confirmation])
                confirmed = replies[len(commands) :]
                commands = plan.send(replies[: len(commands)])
        except StopIteration as end:
            raws = iter(cast("list[Reply]", end.value))
        if self._on_exchange is not None:
            scripts = {call.script.name for call in calls if call.script is not None}
            self._on_exchange(scripts, time.perf_counter() - began)
        unconfirmed = why_unconfirmed(confirmed, self._settings) if confirmed else None
        refused: list[Refused] = []
        for asked, positions in parts:
            calls, answers = asked.calls, asked.answers
            for position in positions:
                answer = answer_of(calls[position], next(raws))
                if answer is AGAIN:
                    continue
                if isinstance(answer, StoreError) and self._is_unserved(calls[position], answer):
                    refused.append(((asked, (position,)), answer))
                    continue
                if unconfirmed is not None:
                    refused.append(((asked, (position,)), unconfirmed))
                    continue
                answers[position] = answer
                asked.left -= 1
            asked.finish()
        return refused
