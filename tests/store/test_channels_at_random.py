"""Messages at random: however sends, receives, cancels, repeats, timeouts, new runs and new leases follow each other,
each message is received once, or unread, and fsck finds nothing.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from durasleep.model import (
    CancelEntry,
    CommitAction,
    Due,
    Entry,
    Kind,
    Number,
    Op,
    Place,
    StartReceive,
    StartTimer,
    State,
)
from durasleep.protocol.commit import Committed, Lease
from durasleep.query import fsck
from harness.servers import Server
from tests.store.driver import FAR, PAST, Driver

STEPS = 120
RUNS = int(os.environ.get("DURASLEEP_CHANNEL_RUNS", "4"))
CHANNELS = "xy"
DUES: tuple[Due | None, ...] = (None, None, FAR, PAST, Due("+0"))


@dataclass
class Receiver:
    """A worker with one execution, whose code receives at random."""

    driver: Driver
    chance: random.Random
    lease: Lease
    taken: int = 0
    """The last number."""
    base: int = 0
    asked: dict[str, str] = field(default_factory=dict[str, str])
    """The receives that the code waits for: the channel of each."""
    undelivered: dict[int, Entry] = field(default_factory=dict[int, Entry])
    """Settlements that the worker knows, and the code does not, by their stamps."""
    seen: Entry | None = None
    got: list[bytes] = field(default_factory=list[bytes])
    sent: list[bytes] = field(default_factory=list[bytes])
    calls: list[tuple[str, bytes, str, str | None]] = field(default_factory=list[tuple[str, bytes, str, str | None]])

    # -- senders

    async def send(self) -> None:
        """A new message, or an old call again."""
        if self.calls and self.chance.random() < 0.3:
            channel, value, call, key = self.chance.choice(self.calls)
        else:
            value = f"{len(self.sent)}".encode()
            channel, call = self.chance.choice(CHANNELS), f"call-{len(self.sent)}"
            key = self.chance.choice([None, f"key-{len(self.sent)}"])
            self.sent.append(value)
            self.calls.append((channel, value, call, key))
        await self.driver.send("a", channel, value, call=call, key=key)

    # -- the worker

    def take_settled(self, entries: list[Entry]) -> None:
        last = self.seen.stamp if self.seen else 0
        for entry in entries:
            if entry.stamp > last:
                self.undelivered[entry.stamp] = entry

    def deliver_some(self) -> None:
        """The code gets some of the undelivered, in their order."""
        for stamp in sorted(self.undelivered)[: self.chance.randint(0, 3)]:
            entry = self.seen = self.undelivered.pop(stamp)
            if self.asked.pop(entry.number, None) and entry.state is State.RESOLVED:
                self.got.append(entry.payload)

    def wishes(self) -> list[Op]:
        ops: list[Op] = []
        for _ in range(self.chance.randint(0, 3)):
            if self.asked and self.chance.random() < 0.4:
                number = self.chance.choice([*self.asked])
                ops.append(CancelEntry(Number(number), Kind.RECEIVE, self.asked.pop(number)))
            else:
                self.taken += 1
                channel = self.chance.choice(CHANNELS)
                ops.append(StartReceive(Number(f"{self.taken}"), channel, self.chance.choice(DUES)))
                self.asked[f"{self.taken}"] = channel
        return ops

    async def commit(self, outcome: CommitAction, *ops: Op, **options: Any) -> Committed:
        """Sometimes its answer is lost, and it is repeated."""
        answer = await self.driver.commit(self.lease, outcome, *ops, seen=self.seen, **options)
        if outcome is CommitAction.CONTINUE and self.chance.random() < 0.3:
            before = await self.driver.snapshot()
            assert await self.driver.commit(self.lease, outcome, *ops, seen=self.seen) == answer
            assert await self.driver.snapshot() == before
        return answer

    async def go_on(self) -> None:
        answer = await self.commit(CommitAction.CONTINUE, *self.wishes())
        self.take_settled(answer.entries)
        self.deliver_some()

    async def suspend(self) -> None:
        """With a timer that wakes it. Then another worker loads it, and delivers what the code has not got."""
        self.taken += 1
        nap = StartTimer(Number(f"{self.taken}"), "", FAR)
        answer = await self.commit(CommitAction.SUSPEND, *self.wishes(), nap)
        self.take_settled(answer.entries)
        if answer.redrive:
            return
        await self.send()
        if await self.driver.place("a") is Place.SUSPENDED:
            await self.driver.control("wake", f"a~{nap.number}")
        await self.load()

    async def crash(self) -> None:
        await self.driver.control("halt", "a", reason="as if its worker had died")
        await self.driver.control("resume", "a")
        await self.load()

    async def load(self) -> None:
        self.lease = await self.driver.take()
        loaded = await self.driver.load("a")
        self.undelivered.clear()
        self.take_settled([entry for entry in loaded.entries.values() if entry.stamp])

    async def begin_anew(self) -> None:
        """Messages that the code has not got are for the next run."""
        cancels = [op for op in self.wishes() if isinstance(op, CancelEntry)]
        self.base = self.taken
        await self.commit(CommitAction.CONTINUE_AS_NEW, *cancels, payload=b"", due=f"{self.base}")
        self.asked.clear()
        self.seen = None
        await self.driver.fire_all()
        await self.load()


async def check(receiver: Receiver) -> None:
    """Nothing is lost, and nothing is there twice."""
    driver = receiver.driver
    loaded = await driver.load("a")
    waiting = [
        entry.payload
        for entry in loaded.entries.values()
        if entry.kind is Kind.RECEIVE
        and entry.state is State.RESOLVED
        and entry.number in loaded.record.unseen
        and entry.stamp > (receiver.seen.stamp if receiver.seen else 0)
    ]
    unread = [value for _, value in await driver.unread("a")]
    assert Counter(receiver.got + waiting + unread) == Counter(receiver.sent)
    report = await driver.store.run(fsck.fsck(driver.store.keyspaces))
    assert report.findings == []


@pytest.mark.parametrize("seed", range(RUNS))
async def test_each_message_is_received_once_or_unread(one_server: Server, namespace: str, seed: int) -> None:
    driver = Driver(one_server.client(), namespace)
    async with driver.store.opened():
        chance = random.Random(seed)
        receiver = Receiver(driver, chance, await driver.start("a"))
        actions = (
            [receiver.send] * 5
            + [receiver.go_on] * 5
            + [receiver.suspend, receiver.crash, receiver.begin_anew, driver.fire]
        )
        for step in range(STEPS):
            action: Any = chance.choice(actions)
            await action()
            if step % 3 == 0:
                await check(receiver)
        await check(receiver)
        unread = len(receiver.sent) - len(receiver.got)
        ended = await driver.commit(receiver.lease, CommitAction.RESOLVE, seen=receiver.seen)
        assert ended.unread == unread
