"""The way of calls to the nodes of a cluster: a lane for each node, in which calls are sent as to a single server.

Which node serves a slot may change at any time. A call that its node refuses leaves the lane, waits with the other
calls of its slot, and is sent anew. Calls of other slots do not wait for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from durasleep.errors import StoreError, StoreUnavailable
from durasleep.protocol.command import slot_of_call
from durasleep.protocol.slots import Address
from durasleep.settings import Settings
from durasleep.transport.asked import Calls, Part, open_parts
from durasleep.transport.batcher import Batcher, OnExchange, Refused
from durasleep.transport.batching import RETRY_FIRST_S, RETRY_MAX_S
from durasleep.transport.connection import Link
from durasleep.transport.outage import Outage
from durasleep.transport.reply_errors import MOVING, Routing
from durasleep.transport.topology import Topology

T = TypeVar("T")

MOVING_MAX_S = 0.5  # from one question to the next while a slot moves


Refusal = tuple[str, float]
"""Why calls of a slot were refused, and how long they waited then."""


def next_delay_s(last: Refusal | None, reason: str) -> float:
    """How long calls of a slot wait after a refusal, if ``last`` was the one before. A slot that has moved for good is
    looked for at once.
    """
    if reason == Routing.MOVED and (last is None or last[0] != Routing.MOVED):
        return 0.0
    if last is None:
        return RETRY_FIRST_S
    return min(max(2 * last[1], RETRY_FIRST_S), MOVING_MAX_S if reason in MOVING else RETRY_MAX_S)


class Lanes(Calls):
    """A batcher for each node."""

    def __init__(
        self,
        topology: Topology,
        open_link: Callable[[Address], Link],
        settings: Settings,
        patience_s: float | None,
        outage: Outage,
        on_exchange: OnExchange | None = None,
    ) -> None:
        self._on_exchange = on_exchange
        self._topology = topology
        self._open_link = open_link
        self._settings = settings
        self._patience_s = patience_s
        self._outage = outage
        self._lanes: dict[Address, Batcher] = {}
        self._held: dict[int, _Held] = {}
        self._refusals: dict[int, Refusal] = {}
        """Slots that were refused and have not been served since."""
        self._is_reported = False

    def take(self, part: Part) -> None:
        """Send some calls of a group, each to its node."""
        for slot, parts in _by_slot([part]).items():
            self._send(slot, parts)

    @property
    def connected(self) -> bool:
        """Whether there is a connection to any node, or one is being made."""
        return bool(self._held) or any(lane.connected for lane in self._lanes.values())

    async def close(self, error: Exception | None = None) -> None:
        """See ``Batcher.close``."""
        held, self._held = list(self._held.values()), {}
        for one in held:
            one.task.cancel()
        await asyncio.gather(*[one.task for one in held], return_exceptions=True)
        for asked in [asked for one in held for asked, _ in one.parts]:
            if error is None:
                asked.future.cancel()
            else:
                asked.fail(error)
        lanes, self._lanes = list(self._lanes.values()), {}
        for lane in lanes:
            await lane.close(error)

    def _send(self, slot: int, parts: list[Part]) -> None:
        """Into the lane of their node; behind the other calls of their slot, if these wait."""
        held = self._held.get(slot)
        if held is not None:
            held.parts += parts
        elif (node := self._topology.known(slot)) is not None:
            self._enter(node, parts)
        else:
            self._hold(slot, parts, 0.0)

    def _enter(self, node: Address, parts: list[Part]) -> None:
        lane = self._lanes.get(node)
        if lane is None:
            lane = self._lanes[node] = Batcher(
                self._open_link(node),
                self._settings,
                self._patience_s,
                self._outage,
                _Lane(self, node),
                on_exchange=self._on_exchange,
            )
        for part in parts:
            lane.take(part)

    def _hold(self, slot: int, parts: list[Part], delay_s: float) -> None:
        task = asyncio.get_running_loop().create_task(self._release(slot, delay_s), name="durasleep-lanes")
        self._held[slot] = _Held(parts, task)

    async def _release(self, slot: int, delay_s: float) -> None:
        """Send the calls of a slot after this delay, as soon as its node is known."""
        held = self._held[slot]
        while True:
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            began = asyncio.get_running_loop().time()
            try:
                node = await self._topology.find(slot)
            except StoreError as problem:
                delay_s = self._delay(slot, "")
                self._note_in_vain(held.parts, began)
                held.parts = self._still_waiting(held.parts, problem, delay_s)
                if held.parts:
                    continue
                del self._held[slot]
                return
            del self._held[slot]
            self._enter(node, held.parts)
            return

    def take_back(self, node: Address, refused: Sequence[Refused]) -> None:
        """A node has not served these."""
        problems = {slot: problem for part, problem in refused for slot in _by_slot([part])}
        for slot, parts in _by_slot([part for part, _ in refused]).items():
            problem = problems[slot]
            reason = problem.reason if isinstance(problem, StoreUnavailable) else ""
            if reason not in MOVING:
                self._topology.distrust(slot, node)
            delay_s = self._delay(slot, reason)
            held = self._held.get(slot)
            left = self._still_waiting(parts, problem, delay_s) if delay_s else parts
            if held is not None:
                held.parts += left
            elif left:
                self._hold(slot, left, delay_s)

    def note_served(self, parts: Sequence[Part]) -> None:
        """A node has served these."""
        if not self._refusals:
            return
        for slot in _by_slot(parts):
            self._refusals.pop(slot, None)
        if self._is_reported and not self._refusals:
            self._is_reported = False
            self._outage.recovered()

    def _delay(self, slot: int, reason: str) -> float:
        delay_s = next_delay_s(self._refusals.get(slot), reason)
        self._refusals[slot] = reason, delay_s
        return delay_s

    def _note_in_vain(self, parts: Sequence[Part], began: float) -> None:
        if self._patience_s is not None:
            for asked, _ in parts:
                asked.note_in_vain(began + self._patience_s)

    def _still_waiting(self, parts: Sequence[Part], problem: StoreError, delay_s: float) -> list[Part]:
        """The calls that are sent again after this delay. The others get the error: their patience ends before, or the
        problem does not pass by itself.
        """
        if self._patience_s is None:
            self._is_reported = True
            self._outage.report(problem)
        else:
            until = asyncio.get_running_loop().time() + delay_s
            for asked, _ in parts:
                if asked.give_up_at < until or not isinstance(problem, StoreUnavailable):
                    asked.fail(problem)
        return open_parts(parts)


class _Held(msgspec.Struct, eq=False):
    """Calls of one slot that wait to be sent, and the task that will send them."""

    parts: list[Part]
    task: asyncio.Task[None]


class _Lane:
    """The router of one node."""

    def __init__(self, lanes: Lanes, node: Address) -> None:
        self._lanes = lanes
        self._node = node

    def take_back(self, refused: Sequence[Refused]) -> None:
        self._lanes.take_back(self._node, refused)

    def note_served(self, parts: Sequence[Part]) -> None:
        self._lanes.note_served(parts)


def _by_slot(parts: Sequence[Part]) -> dict[int, list[Part]]:
    """The same calls, by the slots of their keys."""
    found: dict[int, list[Part]] = {}
    for part in parts:
        asked, positions = part
        if len(positions) == 1:
            found.setdefault(slot_of_call(asked.calls[positions[0]]), []).append(part)
            continue
        by_slot: dict[int, list[int]] = {}
        for position in positions:
            by_slot.setdefault(slot_of_call(asked.calls[position]), []).append(position)
        for slot, some in by_slot.items():
            found.setdefault(slot, []).append((asked, some))
    return found
