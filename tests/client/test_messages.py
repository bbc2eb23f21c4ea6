"""Messages to executions, and their answers."""

from __future__ import annotations

import time

import pytest

from durasleep import (
    Channel,
    Delivery,
    Ended,
    InvalidId,
    MailboxFull,
    NotAllowed,
    NotFound,
    OtherFunction,
    TimedOut,
    UsageError,
)
from tests.client.async_side import Client, NewClient, until
from tests.client.functions import PAYMENT, Answer, Payment, Serving, answering, collecting, paid


async def test_a_message_is_stored_until_the_code_asks_for_it(client: Client, serving: Serving) -> None:
    await client.rpc("a", collecting, 3)
    assert [await client.send("a", "item", value) for value in ("first", {"second": 2})] == [Delivery.STORED] * 2
    with serving():
        await until(client, "a", "suspended")
        assert await client.send("a", "item") == "delivered"
        assert await client.get("a").result(30) == ["first", {"second": 2}, None]
    with pytest.raises(Ended, match="a has ended: resolved"):
        await client.send("a", "item", "late")
    with pytest.raises(NotFound, match="there is no execution nobody"):
        await client.send("nobody", "item", 1)


async def test_a_key_makes_a_message_count_once(client: Client, new_client: NewClient, serving: Serving) -> None:
    await client.rpc("a", collecting, 3)
    assert await client.send("a", "item", 1, key="k") == "stored"
    assert await new_client().send("a", "item", 2, key="k") == "duplicate"
    assert await client.send("a", "item", 3, key="k") == "duplicate"
    assert await client.send("a", "other", 4, key="k") == "stored"
    assert [await client.send("a", "item", 5) for _ in range(2)] == ["stored"] * 2
    with serving():
        assert await client.get("a").result(30) == [1, 5, 5]


async def test_start_begins_an_execution_with_its_first_message(client: Client, serving: Serving) -> None:
    caller = client.options(labels={"customer": "7"})
    assert await caller.send("a", "item", "first", start=(collecting, 2)) == "stored"
    assert await client.send("a", "item", "second", start=("collecting", 9)) == "stored"
    assert dict((await client.describe("a")).labels) == {"customer": "7"}
    with pytest.raises(OtherFunction):
        await client.send("a", "item", "third", start=(paid,))
    with serving():
        assert await client.get("a").result(30) == ["first", "second"]
    with pytest.raises(Ended):
        await client.send("a", "item", "fourth", start=(collecting, 1))
    anew = client.options(if_finished="start")
    assert await anew.send("a", "item", "fifth", start=(collecting, 1)) == "stored"
    with serving():
        assert await client.get("a").result(30) == ["fifth"]


async def test_a_channel_checks_what_is_sent(client: Client, serving: Serving) -> None:
    await client.rpc("a", paid)
    with pytest.raises(UsageError, match="channel 'payment' takes no such message"):
        await client.send("a", Channel("payment", Payment), "much")  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(UsageError, match="channel 'payment' takes no such message"):
        await client.ask("a", Channel("payment", Payment), "much", timeout=1)  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert await client.send("a", PAYMENT, Payment(4200)) == "stored"
    with serving():
        assert await client.get("a", Payment).result(30) == Payment(4200)


async def test_bad_calls_write_nothing(client: Client) -> None:
    for channel in ("", "c" * 256, "two\nlines", "\ud800"):
        with pytest.raises(InvalidId, match="channel"):
            await client.send("a", channel, 1, start=(collecting, 1))
    for key in ("", "k" * 256, "two\nlines", "\ud800"):
        with pytest.raises(InvalidId, match="key"):
            await client.send("a", "item", 1, key=key, start=(collecting, 1))
    with pytest.raises(InvalidId):
        await client.send("", "item", 1)
    with pytest.raises(UsageError, match="give a function and its arguments"):
        await client.send("a", "item", 1, start=collecting)  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(UsageError, match="say how an execution begins"):
        await client.options(delay=1).send("a", "item", 1)
    with pytest.raises(UsageError, match="is not a duration"):
        await client.ask("a", "item", 1, timeout="soon", start=(collecting, 1))
    with pytest.raises(UsageError):
        await client.send("a", "item", object(), start=(collecting, 1))
    with pytest.raises(NotFound):
        await client.describe("a")


async def test_only_executions_take_messages(client: Client, serving: Serving) -> None:
    await client.promises.create("p")
    with pytest.raises(NotAllowed, match="p is a promise, which takes no messages"):
        await client.send("p", "item", 1)


async def test_a_mailbox_has_a_bound(client: Client) -> None:
    await client.rpc("a", collecting, 1)
    big = "x" * 600_000
    assert await client.send("a", "item", big) == "stored"
    with pytest.raises(MailboxFull, match="a has 1 unread messages with"):
        await client.send("a", "other", big)
    with pytest.raises(MailboxFull):
        await client.ask("a", "other", big, timeout=1)
    assert await client.send("a", "other", "small") == "stored"


async def test_an_answer_comes_back_and_is_shaped(client: Client, serving: Serving) -> None:
    with serving():
        assert await client.ask("a", "question", 5, timeout=30, start=(answering,)) == {"answer": 5, "asked": True}
        shaped = await client.ask("a", "question", 4, timeout="30s", returns=Answer)
        assert shaped == Answer(4, True)
        with pytest.raises(UsageError, match="does not fit"):
            await client.ask("a", "question", "text", timeout=30, returns=Answer)
        with pytest.raises(LookupError, match="not here"):
            await client.ask("a", "question", "fail", timeout=30)
        assert await client.send("a", "question", "not asked") != "duplicate"
        assert await client.ask("a", "question", "last", timeout=30) == "the last one"
        assert await client.get("a").result(30) == 6


async def test_whoever_asks_hears_of_the_end_and_of_silence(client: Client, serving: Serving) -> None:
    with serving():
        await client.rpc("a", answering)
        with pytest.raises(TimedOut, match=r"a has not answered within 0\.3 s; it has the message"):
            await client.ask("a", "question", "be silent", timeout=0.3)
        began = time.monotonic()
        with pytest.raises(Ended, match="a has ended without an answer: resolved"):
            await client.ask("a", "question", "end", timeout=60)
        with pytest.raises(Ended, match="a has ended: resolved"):
            await client.ask("a", "question", 1, timeout=60)
        with pytest.raises(NotFound):
            await client.ask("nobody", "question", 1, timeout=60)
        assert time.monotonic() - began < 20


async def test_what_is_sent_by_hand_is_in_the_audit(client: Client, new_client: NewClient) -> None:
    await client.rpc("a", collecting, 1)
    await new_client(by="ada").send("a", "item", 1)
    [one] = await client.audit()
    assert (one.by, one.verb, one.id, one.word) == ("ada", "send", "a", "stored item")
