"""Calls that were made together and wait for their answers, and the order in which they are sent."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from durasleep.errors import DurasleepError
from durasleep.protocol.command import BatchItem, Call, Command, Route

T = TypeVar("T")

OPEN = object()
"""Stands for an answer that is not there yet."""


class Asked(msgspec.Struct, eq=False):
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
    def of(cls, calls: Sequence[Call], *, is_single: bool = False) -> Asked:
        return cls(calls, asyncio.get_running_loop().create_future(), is_single, [OPEN] * len(calls), len(calls))

    def answer(self, position: int, answer: Any) -> None:
        """One answer; call ``finish`` after the last one that has come."""
        self.answers[position] = answer
        self.left -= 1

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


Part = tuple[Asked, Sequence[int]]
"""Some calls of a group: the group, and their positions in it."""
_FIRST = (0,)


def part_of(asked: Asked) -> Part:
    """All calls of a group."""
    return asked, (_FIRST if asked.is_single else range(len(asked.calls)))


def open_parts(parts: Iterable[Part]) -> list[Part]:
    """The calls of some parts that have no answer yet, and for which somebody waits."""
    return [
        (asked, left)
        for asked, positions in parts
        if asked.left
        and not asked.future.done()
        and (left := [position for position in positions if asked.answers[position] is OPEN])
    ]


class Calls(ABC):
    """The ways to make calls; where they go is the business of those who ``take`` them."""

    @abstractmethod
    def take(self, part: Part) -> None:
        """Send some calls of a group."""

    async def call(self, call: BatchItem[T] | Command[T]) -> T:
        """The answer to one call; raises its error."""
        return await self.send(call)

    def send(self, call: BatchItem[T] | Command[T]) -> asyncio.Future[T]:
        """The same as a future; the call is sent at the end of this turn of the loop."""
        return self._take(Asked.of((call,), is_single=True))

    def ask(self, calls: Sequence[Call]) -> asyncio.Future[list[Any]]:
        """The answers to several calls, in order; an error of a call takes the place of its answer."""
        asked = Asked.of(calls)
        if calls:
            return self._take(asked)
        asked.finish()
        return asked.future

    def _take(self, asked: Asked) -> asyncio.Future[Any]:
        self.take(part_of(asked))
        return asked.future


class WaitingCalls:
    """Calls to be sent. Those that one script call can carry leave together, whatever waits between them; then those of
    another script or partition, so that none waits for all calls of another.
    """

    def __init__(self, together_max: int) -> None:
        """At most so many calls are carried by one script call."""
        self._together_max = together_max
        self._by_route: dict[Route | None, deque[Part]] = {}
        """The first is the next to send. Single commands have no route."""

    def __bool__(self) -> bool:
        return bool(self._by_route)

    def __iter__(self) -> Iterator[Part]:
        return (part for queue in self._by_route.values() for part in queue)

    def add(self, part: Part) -> None:
        """Behind all others of its kind."""
        asked, positions = part
        if len(positions) == 1:
            self._queue(_route_of(asked.calls[positions[0]])).append(part)
            return
        by_route: dict[Route | None, list[int]] = {}
        for position in positions:
            by_route.setdefault(_route_of(asked.calls[position]), []).append(position)
        for route, some in by_route.items():
            self._queue(route).append((asked, some))

    def _queue(self, route: Route | None) -> deque[Part]:
        queue = self._by_route.get(route)
        if queue is None:
            queue = self._by_route[route] = deque()
        return queue

    def take(self, room: int) -> list[Part]:
        """The next calls to send, at most so many; those for which nobody waits any more are dropped."""
        parts: list[Part] = []
        while room and self._by_route:
            route, queue = next(iter(self._by_route.items()))
            del self._by_route[route]
            room -= _move(queue, parts, min(room, self._together_max))
            if queue:
                self._by_route[route] = queue  # behind the others
        return parts

    def put_back(self, parts: Iterable[Part]) -> None:
        """They wait again, in front of all others."""
        others, self._by_route = self._by_route, {}
        for part in parts:
            self.add(part)
        for route, queue in others.items():
            self._queue(route).extend(queue)

    def drop_done(self) -> None:
        """Drop the calls for which nobody waits any more."""
        parts, self._by_route = list(self), {}
        for part in parts:
            if not part[0].future.done():
                self.add(part)


def _route_of(call: Call) -> Route | None:
    return call.route if isinstance(call, BatchItem) else None


def _move(queue: deque[Part], parts: list[Part], most: int) -> int:
    """Move calls from the front of a queue, at most so many; returns how many."""
    room = most
    while queue and room:
        asked, positions = queue.popleft()
        if asked.future.done():
            continue
        if len(positions) > room:
            queue.appendleft((asked, positions[room:]))
            positions = positions[:room]
        parts.append((asked, positions))
        room -= len(positions)
    return most - room
