"""Delivery: what is due becomes ready, and what is ready goes to whoever waits for it.

Every gateway does it for itself, and they need not agree: what one has taken, the others do not find. A message that
gets lost with its connection is sent again by the scripts, half a minute later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from durasleep.errors import DurasleepError, StoreError
from durasleep.protocol import resonate, resonate_requests, streams
from durasleep.protocol.command import Plan
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.resonate import Message
from durasleep.transport.connection import Link
from durasleep.transport.outage import Outage
from durasleep.transport.reply_errors import refusal
from durasleep.transport.server_clock import monotonic_us
from durasleep.transport.store import Store

T = TypeVar("T")

DUE_MAX = 100  # that one tick makes ready
TAKEN_MAX = 16  # messages of one address in one answer: what a process is given before others get theirs
ADDRESSES_MAX = 100  # of one call
SINGLE = "poll://uni@"
"""The beginning of the address of a single process."""
SINGLES_REST = 9  # if there are many, they are looked at a tenth of the time at most
AIM_EARLY_S = 0.001  # epoll wakes up to 1 ms late, and the call takes a while; a call that comes too early is repeated
LOOK_AGAIN_S = 60.0  # if nothing is known to be due; wake-ups are hints, and a hint may be lost
RECKON_S = 1.0  # a longer wait is computed again: the server's clock may have been changed
AGAIN_S = 1.0  # after an error
SAID_S = 60.0  # between two log lines about one address
RETAIN_S = 60.0  # between two looks for what has settled long ago
RETAINED_MAX = 100  # looked at by one call

logger = logging.getLogger("durasleep")


class Mailbox(Protocol):
    """Takes the messages of one address."""

    @property
    def address(self) -> str: ...

    def room(self) -> int:
        """How many messages it can take now."""
        ...

    def deliver(self, messages: Sequence[Message]) -> None:
        """Take them; a few more than there was room for may come."""
        ...


class Delivery:
    """The mailboxes of this gateway, and a loop for each partition."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._mailboxes: dict[str, Mailbox] = {}
        self._singles: dict[str, Mailbox] = {}
        self._loops: list[_Loop] = []
        self.outage = Outage("this gateway")
        self.is_of_own_time = True
        """Whether Redis says what is due. If not, the tests of an SDK do, see ``debug``."""

    @property
    def mailboxes(self) -> Sequence[Mailbox]:
        """Those of groups and the like with room."""
        return [one for one in self._mailboxes.values() if one.room() > 0]

    @property
    def singles(self) -> Sequence[Mailbox]:
        """Those of single processes with room: there may be a thousand, and nearly all are empty."""
        return [one for one in self._singles.values() if one.room() > 0]

    def open(self, mailbox: Mailbox) -> None:
        """From now on the messages of its address go there."""
        self._kind_of(mailbox)[mailbox.address] = mailbox
        self.wake()

    def close(self, mailbox: Mailbox) -> None:
        """It takes no more, unless another one has its address by now."""
        kind = self._kind_of(mailbox)
        if kind.get(mailbox.address) is mailbox:
            del kind[mailbox.address]

    def _kind_of(self, mailbox: Mailbox) -> dict[str, Mailbox]:
        return self._singles if mailbox.address.startswith(SINGLE) else self._mailboxes

    def wake(self) -> None:
        """There may be something to deliver."""
        for loop in self._loops:
            loop.wake()

    async def run(self) -> None:
        """Deliver until it is cancelled. The store is open."""
        self._loops = [_Loop(self._store, keys, self) for keys in self._store.keyspaces]
        async with asyncio.TaskGroup() as group:
            for loop in self._loops:
                group.create_task(loop.run(), name="durasleep-delivery")
                group.create_task(loop.listen(), name="durasleep-wake")
            group.create_task(self._retain(), name="durasleep-retention")

    async def _retain(self) -> None:
        """Remove what has settled long ago, partition by partition."""
        while True:
            await asyncio.sleep(RETAIN_S)
            if not self.is_of_own_time:
                continue
            for keys in self._store.keyspaces:
                try:
                    await self._retain_in(keys)
                except StoreError as error:
                    self.outage.report(error)
                except Exception:
                    logger.exception("the %s loop failed and begins again", "retention")

    async def _retain_in(self, keys: Keyspace) -> None:
        looked_at = RETAINED_MAX
        while looked_at == RETAINED_MAX:
            plan = resonate_requests.retain(self._store.keyspaces, keys, limit=RETAINED_MAX)
            retained = await self._store.run(plan)
            looked_at = retained.looked_at
            for failure in retained.failures:
                logger.warning("not everything that is due was done: %s", failure)


class _Loop:
    """One partition."""

    def __init__(self, store: Store, keys: Keyspace, delivery: Delivery) -> None:
        self._store = store
        self._keys = keys
        self._clock = store.clock(keys)
        self._delivery = delivery
        self._hint = asyncio.Event()
        self._next_due_ms: int | None = None
        self._singles_at = 0.0
        """When single processes are looked at again, if there is a hint by then; by the monotonic clock in s."""
        self._has_hint_for_singles = False
        self._last: bytes | None = None
        """The last entry of the stream of hints that was read."""
        self._said_at: dict[str, float] = {}
        """When it was last logged what is wrong with an address; by the monotonic clock in s."""

    def wake(self) -> None:
        self._hint.set()

    async def run(self) -> None:
        while True:
            self._hint.clear()
            try:
                is_full = await self.once()
            except StoreError as error:
                self._delivery.outage.report(error)
                await asyncio.sleep(AGAIN_S)
                continue
            except Exception:
                logger.exception("the %s loop failed and begins again", "delivery")
                await asyncio.sleep(AGAIN_S)
                continue
            self._delivery.outage.recovered()
            if not is_full:
                await self._wait()

    async def once(self) -> bool:
        """Make ready what is due, and deliver what is ready; returns whether there is more."""
        began = monotonic_us()
        mailboxes = list(self._delivery.mailboxes)
        has_singles = self._singles_at <= began / 1e6
        if has_singles:
            mailboxes += self._delivery.singles
        parts = [mailboxes[at : at + ADDRESSES_MAX] for at in range(0, len(mailboxes), ADDRESSES_MAX)]
        takes = [resonate.take(self._keys, [one.address for one in part], limit=TAKEN_MAX) for part in parts]
        if not self._delivery.is_of_own_time:
            self._next_due_ms = None
            return self._hand_out(parts, await self._store.ask(takes))
        ticking = resonate_requests.tick(self._store.keyspaces, self._keys, limit=DUE_MAX)
        ticks = next(ticking)
        answers = await self._store.ask([*ticks, *takes])  # in one round trip: what is due is taken at once
        received = monotonic_us()
        self._has_hint_for_singles = not has_singles
        if has_singles:
            rest = SINGLES_REST * (received - began) if len(parts) > 1 else 0
            self._singles_at = (received + rest) / 1e6
        is_full = self._hand_out(parts, answers[len(ticks) :])
        ticked = await self._store.run(_going_on(ticking, answers[: len(ticks)]))
        for undone in ticked.problems:
            logger.warning("not everything that is due was done: %s", undone)
        self._clock.observe(ticked.server_us, began, received)
        self._next_due_ms = ticked.next_due_ms
        return is_full or ticked.due >= DUE_MAX

    def _hand_out(self, parts: Sequence[Sequence[Mailbox]], answers: Sequence[Any]) -> bool:
        """Put what was taken for some mailboxes into them; returns whether there may be more."""
        is_full, failure = False, None
        for part, answer in zip(parts, answers, strict=True):
            if isinstance(answer, DurasleepError):
                failure = answer  # what was taken for the others is theirs
                continue
            for mailbox, messages in zip(part, answer, strict=True):
                if messages.problem:
                    self._note_problem(mailbox.address, messages.problem)
                if messages:
                    mailbox.deliver(messages)
                    is_full = is_full or len(messages) >= TAKEN_MAX
        if failure is not None:
            raise failure
        return is_full

    def _note_problem(self, address: str, problem: str) -> None:
        """Log what is wrong with an address, which is no outage: all others are served."""
        now = time.monotonic()
        if now - self._said_at.get(address, -SAID_S) >= SAID_S:
            self._said_at = {one: at for one, at in self._said_at.items() if now - at < SAID_S} | {address: now}
            logger.error("the messages for %s cannot be read: %s", address, problem)

    async def _wait(self) -> None:
        """Wait for the next due time; a hint ends it, and a change of the clock moves it."""
        give_up_at = monotonic_us() / 1e6 + LOOK_AGAIN_S
        while not self._hint.is_set():
            wait_s = give_up_at - monotonic_us() / 1e6
            if self._next_due_ms is not None:
                wait_s = min(wait_s, self._clock.seconds_until(self._next_due_ms) - AIM_EARLY_S)
            if self._has_hint_for_singles:
                wait_s = min(wait_s, self._singles_at - monotonic_us() / 1e6)
            if wait_s <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(min(wait_s, RECKON_S)):
                    await self._hint.wait()

    async def listen(self) -> None:
        """Wake up when a script says that something is ready, or due earlier."""
        link = self._store.link(self._keys)
        try:
            while True:
                try:
                    await self._listen_once(link, f"{self._keys.resonate}wake".encode())
                except StoreError as error:
                    self._delivery.outage.report(error)
                    await asyncio.sleep(AGAIN_S)
                except Exception:
                    logger.exception("the %s loop failed and begins again", "hint")
                    await asyncio.sleep(AGAIN_S)
        finally:
            await link.close()

    async def _listen_once(self, link: Link, stream: bytes) -> None:
        if not link.connected:
            self._last = None
        if self._last is None:
            end = streams.read_end(stream)
            [reply] = await link.exchange([end.args])
            if isinstance(reply, Exception):
                raise refusal(reply) or StoreError(f"{stream.decode()} cannot be read: {reply}")
            self._last = end.parse(reply)
            self.wake()  # what was said before, nobody has heard
        block_s = self._store.settings.read_block_s
        read = streams.read_after({stream: self._last}, count=1, block_s=block_s)
        [found] = await link.exchange([read.args], block_s=block_s)
        if isinstance(found, Exception):
            await link.close()
            raise refusal(found) or StoreError(f"{stream.decode()} cannot be read: {found}")
        for _, rows in read.parse(found):
            self._last = rows[-1][0]
            self.wake()


def _going_on(plan: Plan[T], answers: list[Any]) -> Plan[T]:
    """The rest of a plan whose first calls were answered."""
    try:
        calls = plan.send(answers)
        while True:
            calls = plan.send((yield calls))
    except StopIteration as end:
        return end.value
