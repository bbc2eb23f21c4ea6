"""Which node of a cluster serves a slot: asked once, and again when somebody has found it otherwise.

A thread asks, one question at a time, for all who wait: so threads, event loops and sync code share it. After a fork
the child asks for itself.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from durasleep.errors import StoreError, StoreUnavailable
from durasleep.protocol.partitions import SLOTS
from durasleep.protocol.slots import Address, SlotRange, read_slots
from durasleep.transport.local import renew_in_children
from durasleep.transport.raw import RawSyncConnection, disconnect_sync, pack, read_reply_sync
from durasleep.transport.reply_errors import CONNECTION_FAILED, refusal, unavailable

ANSWER_S = 1.0
"""For the connection to one node, and again for its answer; then the next node is asked."""
_QUESTION_S = 5.0  # after this no further node is asked
_PAUSE_S = 0.1  # from one question to the next: after a failover everybody asks
_NAMED_MAX = 3  # nodes in one sentence

Remap = Callable[[Address], Address]
"""The application's own way to reach a node that has announced this address, as redis-py calls it."""


@dataclass(frozen=True, slots=True)
class _Map:
    """What one answer says."""

    asked_at: float
    """When it was asked for: it knows nothing of what came later."""
    nodes: tuple[Address | None, ...]
    """For each slot the master that serves it."""
    all_nodes: frozenset[Address]
    """Every node it names, replicas too."""


_NOTHING = _Map(-1.0, (None,) * SLOTS, frozenset())


class Topology:
    """The nodes of one cluster. Any thread, any event loop and any forked child may ask it."""

    def __init__(
        self, seeds: Iterable[Address], open: Callable[[Address], RawSyncConnection], remap: Remap | None = None
    ) -> None:
        self.seeds = tuple(dict.fromkeys(seeds))
        self._open = open
        self._remap = remap
        self._map = _NOTHING
        self._turn = 0
        self._asked_in_turn: dict[Address, int] = {}
        self._silent: set[Address] = set()
        """Nodes that did not answer when they were last asked: they are asked after all others."""
        self._began_at = -_PAUSE_S
        self._doubts: dict[int, float] = {}
        """Slots that were found to be elsewhere, and when."""
        self.begin_anew()
        renew_in_children(self)

    def begin_anew(self) -> None:
        """In a forked child: what is known stays, and the thread that asks has stayed with the parent."""
        self._lock = threading.RLock()  # a signal handler may make a call while its thread has it
        self._asking: Future[None] | None = None

    def __str__(self) -> str:
        named = ",".join(f"{host}:{port}" for host, port in self.seeds[:_NAMED_MAX])
        return f"the cluster of {named}{',...' if len(self.seeds) > _NAMED_MAX else ''}"

    @property
    def masters(self) -> tuple[Address, ...]:
        """The nodes that serve slots, in the order of their slots, as the last answer has it; none before the first."""
        return tuple(node for node in dict.fromkeys(self._map.nodes) if node is not None)

    def slots_of_masters(self) -> list[tuple[str, int]]:
        """Each of the ``masters``, as host and port, and the first slot it serves."""
        nodes = self._map.nodes
        return [(f"{host}:{port}", nodes.index((host, port))) for host, port in self.masters]

    def last_known(self, slot: int) -> Address | None:
        """The node that serves a slot as the last answer has it, even if it was found otherwise since."""
        return self._map.nodes[slot]

    def known(self, slot: int) -> Address | None:
        """The node that serves a slot, if nobody has to be asked."""
        known = self._map
        return None if self._doubts.get(slot, 0.0) > known.asked_at else known.nodes[slot]

    async def find(self, slot: int) -> Address:
        """The node that serves a slot. It is asked for if it is not known, or if ``distrust`` was called since.

        StoreUnavailable if no node answers, or none serves the slot; StoreError if they refuse us for good.
        """
        for question in self._questions_about(slot):
            await asyncio.wrap_future(question)
        return self._node_of(slot)

    def find_sync(self, slot: int) -> Address:
        """See ``find``."""
        for question in self._questions_about(slot):
            question.result()
        return self._node_of(slot)

    async def refresh(self) -> None:
        """Ask, whatever is known."""
        for question in self._questions(time.monotonic()):
            await asyncio.wrap_future(question)

    def refresh_sync(self) -> None:
        """See ``refresh``."""
        for question in self._questions(time.monotonic()):
            question.result()

    def ask_soon(self) -> None:
        """Begin to ask, and do not wait for the answer."""
        self._question(math.inf)

    def distrust(self, slot: int, node: Address | None = None) -> None:
        """The node of a slot has not served it, so the next ``find`` of this slot asks first.

        With ``node`` only if the slot is still believed to be there: of many calls that one node refuses, the first
        makes us ask.
        """
        with self._lock:
            if node is None or self._map.nodes[slot] == node:
                self._doubts[slot] = time.monotonic()

    def check_coverage(self) -> None:
        """StoreUnavailable if a slot is served by no node, as the last answer has it."""
        if None in self._map.nodes:
            self._node_of(self._map.nodes.index(None))

    def _node_of(self, slot: int) -> Address:
        nodes = self._map.nodes
        node = nodes[slot]
        if node is None:
            raise StoreUnavailable(
                f"no node of {self} serves slot {slot}: {nodes.count(None)} of its {SLOTS} slots are served by none"
            )
        return node

    def _questions_about(self, slot: int) -> Iterator[Future[None]]:
        known = self._map
        if known is _NOTHING:
            since = 0.0  # any answer helps
        elif known.nodes[slot] is None:
            since = time.monotonic()
        else:
            since = self._doubts.get(slot, 0.0)
        return self._questions(since)

    def _questions(self, since: float) -> Iterator[Future[None]]:
        """Questions to wait for, at most two, until one that was asked after ``since`` is answered."""
        while (question := self._question(since)) is not None:
            yield question

    def _question(self, since: float) -> Future[None] | None:
        """The question under way, or a new one; None if one that was asked after ``since`` is answered."""
        with self._lock:  # an answer that comes just now would else be asked for again
            if self._map is not _NOTHING and self._map.asked_at >= since:
                return None
            if self._asking is None:
                asking = Future[None]()
                asking.set_running_or_notify_cancel()  # a waiter that is cancelled must not cancel it for the others
                # A daemon, so that a node that does not answer holds up no exit.
                threading.Thread(target=self._run, args=(asking,), name="durasleep-topology", daemon=True).start()
                self._asking = asking
            return self._asking

    def _run(self, asking: Future[None]) -> None:
        time.sleep(max(0.0, self._began_at + _PAUSE_S - time.monotonic()))
        self._began_at = time.monotonic()
        try:
            found = self._ask()
        except BaseException as error:  # noqa: BLE001 - who waits gets it, also what the application's remap raises
            with self._lock:
                self._asking = None
            asking.set_exception(error)
            return
        with self._lock:
            self._asking = None
            self._map = found
            self._doubts = {slot: at for slot, at in self._doubts.items() if at > found.asked_at}
        asking.set_result(None)

    def _ask(self) -> _Map:
        """Ask one node after the other, until one knows all slots; else the answer with the most slots."""
        began_at = self._began_at
        best: list[SlotRange] | None = None
        problems: list[StoreError] = []
        self._turn += 1
        for node in self._in_order():
            self._asked_in_turn[node] = self._turn
            try:
                ranges = self._ask_node(node)
            except StoreError as error:
                self._silent.add(node)
                problems.append(error)
            else:
                self._silent.discard(node)
                best = max(best or [], ranges, key=_served)
                if _served(best) == SLOTS:
                    break
            if time.monotonic() > began_at + _QUESTION_S:
                break
        if best is None:
            raise self._no_answer(problems)
        return _map(began_at, best)

    def _in_order(self) -> list[Address]:
        """Known nodes first, then the seeds; last those that did not answer, or have not served as expected. The one
        asked longest ago is the first of its kind: one alone may be cut off from the others, and not know it.
        """
        known = self._map.all_nodes
        nodes = {*known, *self.seeds}
        self._silent &= nodes
        self._asked_in_turn = {node: turn for node, turn in self._asked_in_turn.items() if node in nodes}
        with self._lock:
            late = self._silent | {self._map.nodes[slot] for slot in self._doubts}
        order = {node: number for number, node in enumerate((*self.seeds, *known))}
        return sorted(
            nodes, key=lambda node: (node in late, node not in known, self._asked_in_turn.get(node, 0), order[node])
        )

    def _ask_node(self, node: Address) -> list[SlotRange]:
        name, question = f"{node[0]}:{node[1]}", read_slots()
        connection = self._open(node)
        try:
            connection.connect()
            connection.send_packed_command([pack([question.args])], check_health=False)
            reply = read_reply_sync(connection)
        except CONNECTION_FAILED as error:
            raise unavailable(name, error) from error
        finally:
            disconnect_sync(connection)
        if isinstance(reply, Exception):
            raise refusal(reply) or StoreError(f"Redis at {name} is no node of a cluster: {reply}") from reply
        try:
            ranges = question.parse(reply)
        except (TypeError, ValueError, LookupError) as error:
            raise StoreError(f"the server at {name} does not behave like Redis") from error
        return [self._reached(one, node) for one in ranges]

    def _reached(self, told: SlotRange, asked: Address) -> SlotRange:
        """The same with addresses to connect to."""

        def reach(node: Address) -> Address:
            address = node[0] or asked[0], node[1]
            return self._remap(address) if self._remap else address

        return SlotRange(told.first, told.last, reach(told.master), tuple(map(reach, told.replicas)))

    def _no_answer(self, problems: list[StoreError]) -> StoreError:
        final = next((problem for problem in problems if not isinstance(problem, StoreUnavailable)), None)
        if final is not None:
            return final
        return StoreUnavailable(f"no node of {self} says where its slots are: {problems[0]}")


@dataclass(frozen=True, slots=True)
class SlotFinder:
    """Finds the node of one slot."""

    topology: Topology
    slot: int

    async def find(self) -> Address:
        return await self.topology.find(self.slot)

    def find_sync(self) -> Address:
        return self.topology.find_sync(self.slot)


def _served(ranges: list[SlotRange]) -> int:
    return sum(map(len, ranges))


def _map(asked_at: float, ranges: list[SlotRange]) -> _Map:
    nodes: list[Address | None] = [None] * SLOTS
    for one in ranges:
        nodes[one.first : one.last + 1] = [one.master] * len(one)
    return _Map(asked_at, tuple(nodes), frozenset(node for one in ranges for node in (one.master, *one.replicas)))
