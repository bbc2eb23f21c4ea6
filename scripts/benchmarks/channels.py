"""Messages: how many a second reach one workflow and many, and what each costs the server.

The processor time of a message for code that waits, and of one that is stored, stands against that of settling a
promise: rounds of the three take turns, and the medians are compared. Then messages are stored to see what they weigh.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from durasleep.client.client import store_of
from durasleep.errors import MailboxFull
from durasleep.model import Place, PromiseId, State
from durasleep.protocol import channels, journal, promises
from durasleep.protocol.command import BatchItem, unwrap
from scripts.benchmarks import readers
from scripts.benchmarks.bench import LOOK_S, Bench, bench_on
from scripts.benchmarks.memory import NO_SLOWLOG
from scripts.benchmarks.report import Report

ROUND = 500  # of one kind of call in a round
SENDERS = 10  # of messages at a time
FULL_S = 0.02  # until a sender tries a full mailbox again
STORED_EACH = 100  # messages in a mailbox that is weighed
MESSAGE_BYTES = 50
PENDING_MAX, STORED_MAX = 1.15, 1.0


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--to-one", type=int, default=5_000, help="messages to one workflow (%(default)s)")
    parser.add_argument("--to-many", type=int, default=10_000, help="workflows that get one each (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="of the comparison (%(default)s)")
    parser.add_argument("--mailboxes", type=int, default=100, help="that are weighed (%(default)s)")


async def measure(options: Namespace) -> Report:
    async with bench_on(options.server, extra_args=NO_SLOWLOG) as bench:
        report = Report("channels", bench.name, "messages, with one worker")
        async with bench.worker(app=readers.APP):
            report.add("to_one_per_s", await _to_one(bench, options.to_one))
            report.add("to_many_per_s", await _to_many(bench, options.to_many))
            await _wait_all(bench, options.rounds * ROUND, options.mailboxes)
        settled, pending, stored = await _server_us(bench, options.rounds)
        report.add("settle_us", settled)
        report.add("send_to_pending_us", pending)
        report.add("send_to_stored_us", stored)
        report.add("pending_to_settle", pending / settled, at_most=PENDING_MAX)
        report.add("stored_to_settle", stored / settled, at_most=STORED_MAX)
        report.add("bytes_of_a_stored_message", await _bytes_each(bench, options.mailboxes))
    return report


async def _to_one(bench: Bench, count: int) -> float:
    """From the first message until the workflow has read the last one."""
    client = bench.client
    handle = await client.rpc("one", readers.read_many, count)
    numbers = iter(range(count))

    async def send() -> None:
        for number in numbers:
            while True:
                try:
                    await client.send("one", readers.NUMBERS, number)
                    break
                except MailboxFull:
                    await asyncio.sleep(FULL_S)

    began = time.perf_counter()
    await asyncio.gather(*(send() for _ in range(SENDERS)))
    assert await handle == sum(range(count)), "each message is read once"
    return count / (time.perf_counter() - began)


async def _to_many(bench: Bench, count: int) -> float:
    """From the first message until the last workflow has ended with it."""
    client = bench.client
    handles = await client.rpc_many(readers.read_one, [(f"many-{n}",) for n in range(count)])
    await _until_asleep(bench, [handle.id for handle in handles])
    numbers = iter(range(count))

    async def send() -> None:
        for number in numbers:
            await client.send(f"many-{number}", readers.NUMBERS, number)

    began = time.perf_counter()
    await asyncio.gather(*(send() for _ in range(SENDERS)))
    assert await client.gather(handles) == list(range(count))
    return count / (time.perf_counter() - began)


async def _until_asleep(bench: Bench, ids: Sequence[PromiseId]) -> None:
    """Until all of them wait; the last ones are asked most often."""
    store = await store_of(bench.client)
    for id in reversed(ids):
        while True:
            record = await store.call(journal.read_outcome(bench.keys, id))
            if record is not None and record.place is Place.SUSPENDED:
                break
            await asyncio.sleep(LOOK_S)


async def _wait_all(bench: Bench, count: int, mailboxes: int) -> None:
    client = bench.client
    waiting = [
        *(await client.rpc_many(readers.read_one, [(f"pending-{n}",) for n in range(count)])),
        *(await client.rpc_many(readers.wait_for_promise, [(f"promise-{n}",) for n in range(count)])),
        *(await client.rpc_many(readers.sleep_long, [(f"stored-{n}",) for n in range(count)])),
        *(await client.rpc_many(readers.sleep_long, [(f"weighed-{n}",) for n in range(mailboxes)])),
    ]
    await _until_asleep(bench, [handle.id for handle in waiting])


async def _server_us(bench: Bench, rounds: int) -> tuple[float, float, float]:
    """Microseconds of scripts for each settlement, message to code that waits, and message that is stored."""
    store = await store_of(bench.client)
    keys, value = bench.keys, bench.client.codec.encode(7, "value")
    spent: tuple[list[float], ...] = ([], [], [])
    for first in range(0, rounds * ROUND, ROUND):
        numbers = range(first, first + ROUND)
        calls: tuple[list[BatchItem[Any]], ...] = (
            [promises.settle(keys, PromiseId(f"promise-{n}~1"), State.RESOLVED, value) for n in numbers],
            [channels.send(keys, PromiseId(f"pending-{n}"), "number", value, channels.new_call()) for n in numbers],
            [channels.send(keys, PromiseId(f"stored-{n}"), "number", value, channels.new_call()) for n in numbers],
        )
        for items, figures in zip(calls, spent, strict=True):
            before = await bench.script_us()
            for answer in await store.ask(items):
                unwrap(answer)
            figures.append((await bench.script_us() - before) / ROUND)
    settled, pending, stored = map(statistics.median, spent)
    return settled, pending, stored


async def _bytes_each(bench: Bench, mailboxes: int) -> float:
    """The growth of the server's memory with each message; its mailbox is part of it."""
    store = await store_of(bench.client)
    value = bench.client.codec.encode("x" * MESSAGE_BYTES, "value")
    before = int((await bench.info("memory"))["used_memory_dataset"])
    items = [
        channels.send(bench.keys, PromiseId(f"weighed-{n}"), "number", value, channels.new_call())
        for _ in range(STORED_EACH)
        for n in range(mailboxes)
    ]
    for start in range(0, len(items), ROUND):
        for answer in await store.ask(items[start : start + ROUND]):
            unwrap(answer)
    after = int((await bench.info("memory"))["used_memory_dataset"])
    return (after - before) / len(items)
