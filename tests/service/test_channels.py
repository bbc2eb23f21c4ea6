"""Messages between clients and running workflows, on real servers."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from durasleep import (
    Channel,
    Context,
    Delivery,
    Durasleep,
    Ended,
    MailboxFull,
    NotAllowed,
    NotReplicated,
    Settings,
    StoreUnavailable,
    TimedOut,
    UsageError,
)
from durasleep.client.client import store_of
from durasleep.protocol.script import Value
from durasleep.sync import Client
from harness import versions
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.workers import Workers, eventually, link_of, serving, until


@dataclass
class Payment:
    cents: int


PAYMENT = Channel("payment", Payment)
BEFORE = "71906c64"
"""The last commit of the repository that knows no messages."""


async def order(ctx: Context, cents: int) -> str:
    """Waits for payments until it is paid."""
    paid = 0
    while paid < cents:
        paid += (await ctx.receive(PAYMENT, timeout="1h")).cents
    return f"paid {paid}"


async def sleeper(ctx: Context, seconds: float) -> list[Any]:
    """Sleeps first, and reads its messages then."""
    await ctx.sleep(seconds, name="first")
    return [await ctx.receive("item") for _ in range(2)]


async def counter(ctx: Context, total: int = 0) -> int:
    """Adds what it is sent, answers with the sum, and begins anew now and then."""
    count = 0
    async for message in ctx.messages("add"):
        if message.value is None:
            return total
        if message.value == "odd":
            await message.reply(error=ValueError("no number"))
        else:
            total += message.value
            await message.reply(total)
        count += 1
        if count == 5:
            ctx.continue_as_new(total)
    return total


async def ledger(ctx: Context, target: str, amounts: list[int]) -> list[str]:
    """Sends to another execution, and settles what it is told to settle."""
    sent = [str(await ctx.send(target, "add", amount)) for amount in amounts]
    settled = await ctx.settle(f"{target}-told", sum(amounts))
    return [*sent, "told" if settled else "not told"]


async def silent(ctx: Context) -> None:
    await ctx.receive("item")
    await ctx.sleep(3600)


async def asking(app: Durasleep, id: str, value: int) -> int:
    return await app.ask(id, "add", value, timeout=20, returns=int)


@pytest.fixture
def shop(new_app: NewApp) -> Durasleep:
    return with_functions(new_app())


def with_functions(app: Durasleep) -> Durasleep:
    for workflow in (order, sleeper, counter, ledger, silent):
        app.workflow(workflow)

    @app.task(name="ask_inside")
    async def ask_inside(id: str, value: int) -> int:  # pyright: ignore[reportUnusedFunction]
        return await asking(app, id, value)

    return app


async def test_messages_wait_for_an_execution_that_is_not_there_yet_or_not_awake(shop: Durasleep) -> None:
    assert await shop.send("early", PAYMENT, Payment(3), start=(order, 5)) == "stored"
    await shop.options(delay=0.5).rpc("delayed", order, 1)
    assert await shop.send("delayed", PAYMENT, Payment(1)) == "stored"
    await shop.rpc("halted", order, 1)
    await shop.halt("halted")
    assert await shop.send("halted", PAYMENT, Payment(1)) == "stored"
    async with serving(shop):
        await until(shop, "early", "suspended")
        assert await shop.send("early", PAYMENT, Payment(2)) == "delivered"
        assert await shop.get("early").result(30) == "paid 5"
        assert await shop.get("delayed").result(30) == "paid 1"
        asleep = await shop.rpc("asleep", sleeper, 3600)
        await until(shop, "asleep", "suspended")
        assert [await shop.send("asleep", "item", n) for n in range(2)] == ["stored", "stored"]
        assert (await shop.describe("asleep")).waiting_on[0].name == "first"
        await shop.wake("asleep")
        assert await asleep.result(30) == [0, 1]
        assert (await shop.describe("halted")).unread is not None
        await shop.resume("halted")
        assert await shop.get("halted").result(30) == "paid 1"


async def test_of_two_clients_with_one_key_one_sends(shop: Durasleep, new_app: NewApp) -> None:
    others = [with_functions(new_app()) for _ in range(2)]
    await shop.rpc("a", order, 10)
    words = await asyncio.gather(*[one.send("a", PAYMENT, Payment(5), key="evt-9") for one in [shop, *others] * 5])
    assert sorted(words) == ["duplicate"] * 14 + ["stored"]
    async with serving(shop):
        await eventually(lambda: _reads(shop, "a"), "the message to be read")
        assert await shop.send("a", PAYMENT, Payment(7), key="evt-9") == "duplicate"
        assert await shop.send("a", PAYMENT, Payment(5), key="evt-10") == "delivered"
        assert await shop.get("a").result(30) == "paid 10"


async def _reads(app: Durasleep, id: str) -> bool:
    described = await app.describe(id)
    return described.status == "suspended" and described.unread is None and bool(described.waiting_on)


async def test_many_begin_one_execution_with_their_messages(shop: Durasleep) -> None:
    async with serving(shop):
        calls = [shop.send("sum", "add", n, start=(counter,)) for n in range(40)]
        assert "duplicate" not in await asyncio.gather(*calls)
        await shop.send("sum", "add", None)
        assert await shop.get("sum").result(30) == sum(range(40))


async def test_a_question_is_answered_across_runs_and_by_errors(shop: Durasleep) -> None:
    async with serving(shop):
        sums = [await shop.ask("sum", "add", n, timeout=20, returns=int, start=(counter,)) for n in range(12)]
        assert sums == [sum(range(n + 1)) for n in range(12)]
        together = await asyncio.gather(*[asking(shop, "sum", 1) for _ in range(30)])
        assert sorted(together) == list(range(67, 97))
        with pytest.raises(ValueError, match="no number"):
            await shop.ask("sum", "add", "odd", timeout=20)
        assert await (await shop.start("ask_inside", "sum", 4)).result(30) == 100
        with pytest.raises(Ended, match="sum has ended without an answer: resolved"):
            await shop.ask("sum", "add", None, timeout=20)


@pytest.mark.parametrize("how", ["cancel", "force", "halt"])
async def test_whoever_asks_hears_at_once_of_an_end_by_hand(shop: Durasleep, how: str) -> None:
    async with serving(shop):
        await shop.rpc("a", silent)
        await until(shop, "a", "suspended")
        asked = asyncio.create_task(shop.ask("a", "question", 1, timeout=2 if how == "halt" else 60))
        await eventually(lambda: _unread(shop, "a"), "the question to be there")
        if how == "halt":
            await shop.halt("a")
            with pytest.raises(TimedOut):
                await asked
            await shop.cancel("a", force=True)
        else:
            await shop.cancel("a", force=how == "force")
            with pytest.raises(Ended, match="a has ended without an answer: canceled"):
                await asyncio.wait_for(asked, 20)


async def _unread(app: Durasleep, id: str) -> int:
    unread = (await app.describe(id)).unread
    return 0 if unread is None else unread.messages


async def test_nothing_is_left_of_a_question_without_an_answer(shop: Durasleep, real_server: Server) -> None:
    async with serving(shop):
        await shop.rpc("a", silent)
        with pytest.raises(TimedOut, match="a has not answered within 0"):
            await shop.ask("a", "question", 1, timeout=0.2)
        client: Any = real_server.sync_client()
        pattern = (await store_of(shop)).keys("a").promise("*")
        promises = [name for name in client.scan_iter(pattern) if not name.endswith(b":a")]
        assert len(promises) == 1
        await eventually(lambda: 0 < client.pttl(promises[0]) <= 90_000, "the promise of the answer to expire")


async def test_a_workflow_sends_and_settles_for_another(shop: Durasleep) -> None:
    async with serving(shop):
        await shop.promises.create("sum-told")
        await shop.rpc("sum", counter)
        words = await (await shop.rpc("ledger", ledger, "sum", [1, 2, 3])).result(30)
        assert words[-1] == "told"
        assert set(words[:-1]) <= {"delivered", "stored"}
        assert await shop.get("sum-told").result(30) == 6
        assert await asking(shop, "sum", 0) == 6
        await shop.send("sum", "add")
        assert await shop.get("sum").result(30) == 6


async def test_a_thousand_unread_messages_are_enough(shop: Durasleep) -> None:
    await shop.rpc("a", sleeper, 3600)
    words = await asyncio.gather(*[shop.send("a", "item", n, key=f"{n}") for n in range(1_000)])
    assert set(words) == {Delivery.STORED}
    for refused in (shop.send("a", "item", 1_000), shop.send("a", "other"), shop.ask("a", "other", timeout=5)):
        with pytest.raises(MailboxFull, match="a has 1000 unread messages"):
            await refused
    assert await shop.send("a", "item", 0, key="7") == "duplicate"
    described = await shop.describe("a")
    assert described.unread is not None
    assert (described.unread.messages, described.unread.channels) == (1_000, {"item": 1_000})
    [finding] = [one for one in await shop.diagnose() if one.subject == "mailboxes"]
    assert finding.text == "1 mailbox is nearly full, and then refuses messages: a has 1,000 unread ones"
    async with serving(shop):
        await until(shop, "a", "suspended")
        await shop.wake("a")
        assert await shop.get("a").result(30) == [0, 1]


async def test_sync_clients_in_threads_and_children_ask(shop: Durasleep, real_server: Server, namespace: str) -> None:
    answers: list[int] = []
    with_client = Client(real_server.url, namespace=namespace)

    def ask(times: int) -> None:
        answers.extend(with_client.ask("sum", "add", 1, timeout=20, returns=int) for _ in range(times))

    async with serving(shop):
        await shop.rpc("sum", counter)
        await asyncio.to_thread(ask, 2)
        threads = [threading.Thread(target=ask, args=(5,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert sorted(answers) == list(range(1, 18))
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if with_client.ask("sum", "add", 1, timeout=20) == 18 else 1)
            finally:
                os._exit(2)
        _, code = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(code) == 0
        assert await asyncio.to_thread(with_client.send, "sum", "add", None) == "delivered"
        assert await shop.get("sum").result(30) == 18
    with_client.close()


async def test_what_it_waits_for_is_said_everywhere(shop: Durasleep) -> None:
    async with serving(shop):
        await shop.rpc("a", order, 5)
        await until(shop, "a", "suspended")
        [pending] = (await shop.describe("a")).waiting_on
        assert (pending.id, pending.kind, pending.name, pending.to) == ("a~1", "receive", "payment", None)
        assert pending.text == "message 'payment'"
        assert pending.due_ms is not None
        assert pending.due_ms > pending.since_ms > time.time() * 1000 - 60_000
        [found] = await shop.search()
        assert found.channels == ["payment"]
        [node] = (await shop.tree("a")).root.children
        assert (node.id, node.kind, node.name, node.state) == ("a~1", "receive", "payment", "pending")
        assert not [one for one in await shop.diagnose() if one.subject == "mailboxes"]
        await shop.rpc("b", ledger, "a", [1])
        await until(shop, "b", "done")
        [send, settle] = (await shop.tree("b")).root.children
        assert (send.kind, send.name, send.to, settle.kind, settle.to) == ("send", "add", "a", "settle", "a-told")


async def test_a_worker_that_suspends_always_loses_nothing(new_app: NewApp) -> None:
    shop = with_functions(new_app(settings=Settings(always_suspend=True, debug=True)))
    async with serving(shop):
        sums = [await shop.ask("sum", "add", n, timeout=20, start=(counter,)) for n in range(12)]
        assert sums == [sum(range(n + 1)) for n in range(12)]
        await shop.send("sum", "add")
        assert await shop.get("sum").result(30) == 66


async def test_lost_answers_send_nothing_twice(shop: Durasleep, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(shop):
        await shop.rpc("sum", counter)
        link = await link_of(shop)
        exchange = link.exchange
        lost: set[tuple[Value, Value]] = set()

        async def lose_each_first_answer(calls: Sequence[Sequence[Value]], **options: Any) -> list[Any]:
            replies = await exchange(calls, **options)
            sent = {(call[n + 1], call[n + 2]) for call in calls for n, value in enumerate(call) if value == "add"}
            if sent - lost:
                lost.update(sent)
                raise StoreUnavailable("the answer is lost")
            return replies

        monkeypatch.setattr(link, "exchange", lose_each_first_answer)
        assert await asking(shop, "sum", 1) == 1
        assert await shop.send("sum", "add", 2) in ("delivered", "stored")
        assert await shop.send("sum", "add", 3, key="k") in ("delivered", "stored")
        assert await shop.send("sum", "add", 4, key="k") == "duplicate"
        assert await asking(shop, "sum", 0) == 6
        assert await shop.send("sum", "add", None) in ("delivered", "stored")
        assert len(lost) == 6
        assert await shop.get("sum").result(30) == 6


@pytest.mark.long
async def test_a_message_may_be_confirmed_by_replicas(new_app: NewApp) -> None:
    shop = with_functions(new_app(settings=Settings(confirm_timeout_s=0.1)))
    await shop.rpc("a", sleeper, 3600)
    confirmed = shop.options(min_replicas=1)
    with pytest.raises(NotReplicated):
        await confirmed.send("a", "item", 1)
    with pytest.raises(NotReplicated):
        await confirmed.ask("a", "item", 1, timeout=5)
    assert await _unread(shop, "a") == 2


@pytest.mark.long
async def test_while_an_older_version_works_nothing_is_sent(shop: Durasleep, workers: Workers, tmp_path: Path) -> None:
    old = versions.of_commit(BEFORE, tmp_path / "old")
    if old is None:
        pytest.skip("the history of the repository is not at hand")
    older = await workers.begin("older", package=old, module="older").ready()
    for call in (
        shop.send("a", "item", 1),
        shop.send("a", "item", 1, start=(sleeper, 1)),
        shop.ask("a", "item", 1, timeout=5),
    ):
        with pytest.raises(NotAllowed, match="when no worker of an older version is left; there are older"):
            await call
    await older.kill()
    await eventually(lambda: _is_sent(shop), "the older one to be gone")


async def _is_sent(app: Durasleep) -> bool:
    try:
        return await app.send("a", "item", 1, start=(sleeper, 1)) == "stored"
    except NotAllowed:
        return False


async def test_a_message_of_the_wrong_type_stops_nothing(shop: Durasleep, caplog: pytest.LogCaptureFixture) -> None:
    """Also where every wake-up is a replay; its sender hears it, if it asks."""

    async def adding(ctx: Context) -> int:
        total = 0
        async for message in ctx.messages("add", int):
            total += message.value
            await message.reply(total)
            if total >= 10:
                break
        return total

    shop.workflow(adding)
    async with serving(shop):
        handle = await shop.rpc("a", adding)
        assert await shop.ask("a", "add", 3, timeout=20) == 3
        await shop.send("a", "add", "three")
        with pytest.raises(UsageError, match=r"channel 'add' of a takes no such message: .*int"):
            await shop.ask("a", "add", {"three": 3}, timeout=20)
        assert await shop.ask("a", "add", 4, timeout=20) == 7
        await shop.send("a", "add", 3)
        assert await handle.result(20) == 10
    assert caplog.text.count("it was not received") == 2
    assert (await shop.fsck()).is_clean


async def test_whoever_asks_one_that_is_halted_hears_why_there_is_no_answer(shop: Durasleep) -> None:
    async with serving(shop):
        await shop.rpc("a", counter)
        await until(shop, "a", "suspended")
        await shop.halt("a", reason="to be looked at")
        with pytest.raises(TimedOut, match=r"a has not answered within 0.1 s; it has the message; it is halted: to be"):
            await shop.ask("a", "add", 1, timeout=0.1)
        await shop.cancel("a", force=True)
