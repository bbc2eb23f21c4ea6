"""Messages that come just when nobody waits for them any more, and as many as a month brings."""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from dataclasses import replace

import pytest

from durasleep import Context, Delivery, Durasleep, Ended, MailboxFull, TimedOut
from durasleep.settings import DEFAULTS
from tests.service.fixtures import NewApp
from tests.service.workers import PATIENCE_S, serving

RACES = 1_000
SURE = 50
"""So many of them come in any case in time, and as many too late."""
WAIT_S = 2.0
MESSAGES = int(os.environ.get("DURASLEEP_MESSAGES", "1000"))
"""Those that pass through one workflow; a release is tried with 10,000."""
EACH_RUN = 500 if MESSAGES >= 5_000 else 50
UNREAD = re.compile(r"; (\d+) messages? (?:was|were) never read")


async def impatient(ctx: Context) -> str:
    """Waits for a while, looks once more, and ends."""
    try:
        return f"in time {await ctx.receive('x', int, timeout=WAIT_S)}"
    except TimedOut:
        pass
    try:
        return f"late {await ctx.receive('x', int, timeout=0)}"
    except TimedOut:
        return "nothing"


async def test_of_a_message_and_a_timeout_that_meet_exactly_one_happens(
    new_app: NewApp, caplog: pytest.LogCaptureFixture
) -> None:
    """A thousand of them: each message is received, is unread at the end, or finds that it has ended."""
    app = new_app(settings=replace(DEFAULTS, log_lines_max=10 * RACES))
    app.workflow(impatient)
    caplog.set_level("INFO", logger="durasleep")

    async def send(number: int) -> Delivery | None:
        if number >= RACES - SURE:
            await handles[number]
        elif number >= SURE:
            await asyncio.sleep(WAIT_S - 0.3 + 0.6 * number / RACES)
        try:
            return await app.send(f"race-{number}", "x", number)
        except Ended:
            return None

    async with serving(app, "w1"), serving(app, "w2"):
        handles = await app.rpc_many(impatient, [(f"race-{number}",) for number in range(RACES)])
        sent = await asyncio.gather(*(send(number) for number in range(RACES)))
        results = await app.gather(handles)
    unread = sum(int(found[1]) for line in caplog.messages if (found := UNREAD.search(line)))
    stored_unread = 0
    for number, (delivery, result) in enumerate(zip(sent, results, strict=True)):
        if result == "nothing":
            assert delivery in (None, Delivery.STORED), f"{number} was {delivery}, and nobody has got it"
            stored_unread += delivery is Delivery.STORED
        else:
            assert result in (f"in time {number}", f"late {number}")
            assert delivery is not None, f"{number} was refused, and received"
    assert unread == stored_unread
    kinds = Counter(result.partition(" ")[0] for result in results)
    assert kinds["in"] >= SURE
    assert kinds["nothing"] >= SURE


async def reading(ctx: Context, seen: int = 0) -> int:
    """Every message in order, in runs that follow each other."""
    while seen < MESSAGES:
        number = await ctx.receive("x", int)
        if number != seen:
            raise ValueError(f"{number} came after {seen - 1}")
        seen += 1
        if seen % EACH_RUN == 0:
            ctx.continue_as_new(seen)
    return seen


@pytest.mark.timeout(30 + MESSAGES / 50)
async def test_all_messages_pass_in_order_through_runs_that_follow_each_other(new_app: NewApp) -> None:
    app = new_app()
    app.workflow(reading)
    async with serving(app, "w1"), serving(app, "w2"):
        handle = await app.rpc("reader", reading)
        for number in range(MESSAGES):
            await send_patiently(app, number)
        assert await handle.result(PATIENCE_S) == MESSAGES


async def send_patiently(app: Durasleep, number: int) -> None:
    while True:
        try:
            await app.send("reader", "x", number)
        except MailboxFull:
            await asyncio.sleep(0.05)
        else:
            return
