# Written by scripts/generate_sync.py from tests/client/test_messages.py: change that one.
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
from tests.client.functions import PAYMENT, Answer, Payment, Serving, answering, collecting, paid
from tests.client.sync_side import Client, NewClient, until


def test_a_message_is_stored_until_the_code_asks_for_it(client: Client, serving: Serving) -> None:
    client.rpc("a", collecting, 3)
    assert [client.send("a", "item", value) for value in ("first", {"second": 2})] == [Delivery.STORED] * 2
    with serving():
        until(client, "a", "suspended")
        assert client.send("a", "item") == "delivered"
        assert client.get("a").result(30) == ["first", {"second": 2}, None]
    with pytest.raises(Ended, match="a has ended: resolved"):
        client.send("a", "item", "late")
    with pytest.raises(NotFound, match="there is no execution nobody"):
        client.send("nobody", "item", 1)


def test_a_key_makes_a_message_count_once(client: Client, new_client: NewClient, serving: Serving) -> None:
    client.rpc("a", collecting, 3)
    assert client.send("a", "item", 1, key="k") == "stored"
    assert new_client().send("a", "item", 2, key="k") == "duplicate"
    assert client.send("a", "item", 3, key="k") == "duplicate"
    assert client.send("a", "other", 4, key="k") == "stored"
    assert [client.send("a", "item", 5) for _ in range(2)] == ["stored"] * 2
    with serving():
        assert client.get("a").result(30) == [1, 5, 5]


def test_start_begins_an_execution_with_its_first_message(client: Client, serving: Serving) -> None:
    caller = client.options(labels={"customer": "7"})
    assert caller.send("a", "item", "first", start=(collecting, 2)) == "stored"
    assert client.send("a", "item", "second", start=("collecting", 9)) == "stored"
    assert dict(client.describe("a").labels) == {"customer": "7"}
    with pytest.raises(OtherFunction):
        client.send("a", "item", "third", start=(paid,))
    with serving():
        assert client.get("a").result(30) == ["first", "second"]
    with pytest.raises(Ended):
        client.send("a", "item", "fourth", start=(collecting, 1))
    anew = client.options(if_finished="start")
    assert anew.send("a", "item", "fifth", start=(collecting, 1)) == "stored"
    with serving():
        assert client.get("a").result(30) == ["fifth"]


def test_a_channel_checks_what_is_sent(client: Client, serving: Serving) -> None:
    client.rpc("a", paid)
    with pytest.raises(UsageError, match="channel 'payment' takes no such message"):
        client.send("a", Channel("payment", Payment), "much")  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(UsageError, match="channel 'payment' takes no such message"):
        client.ask("a", Channel("payment", Payment), "much", timeout=1)  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert client.send("a", PAYMENT, Payment(4200)) == "stored"
    with serving():
        assert client.get("a", Payment).result(30) == Payment(4200)


def test_bad_calls_write_nothing(client: Client) -> None:
    for channel in ("", "c" * 256, "two\nlines", "\ud800"):
        with pytest.raises(InvalidId, match="channel"):
            client.send("a", channel, 1, start=(collecting, 1))
    for key in ("", "k" * 256, "two\nlines", "\ud800"):
        with pytest.raises(InvalidId, match="key"):
            client.send("a", "item", 1, key=key, start=(collecting, 1))
    with pytest.raises(InvalidId):
        client.send("", "item", 1)
    with pytest.raises(UsageError, match="give a function and its arguments"):
        client.send("a", "item", 1, start=collecting)  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(UsageError, match="say how an execution begins"):
        client.options(delay=1).send("a", "item", 1)
    with pytest.raises(UsageError, match="is not a duration"):
        client.ask("a", "item", 1, timeout="soon", start=(collecting, 1))
    with pytest.raises(UsageError):
        client.send("a", "item", object(), start=(collecting, 1))
    with pytest.raises(NotFound):
        client.describe("a")


def test_only_executions_take_messages(client: Client, serving: Serving) -> None:
    client.promises.create("p")
    with pytest.raises(NotAllowed, match="p is a promise, which takes no messages"):
        client.send("p", "item", 1)


def test_a_mailbox_has_a_bound(client: Client) -> None:
    client.rpc("a", collecting, 1)
    big = "x" * 600_000
    assert client.send("a", "item", big) == "stored"
    with pytest.raises(MailboxFull, match="a has 1 unread messages with"):
        client.send("a", "other", big)
    with pytest.raises(MailboxFull):
        client.ask("a", "other", big, timeout=1)
    assert client.send("a", "other", "small") == "stored"


def test_an_answer_comes_back_and_is_shaped(client: Client, serving: Serving) -> None:
    with serving():
        assert client.ask("a", "question", 5, timeout=30, start=(answering,)) == {"answer": 5, "asked": True}
        shaped = client.ask("a", "question", 4, timeout="30s", returns=Answer)
        assert shaped == Answer(4, True)
        with pytest.raises(UsageError, match="does not fit"):
            client.ask("a", "question", "text", timeout=30, returns=Answer)
        with pytest.raises(LookupError, match="not here"):
            client.ask("a", "question", "fail", timeout=30)
        assert client.send("a", "question", "not asked") != "duplicate"
        assert client.ask("a", "question", "last", timeout=30) == "the last one"
        assert client.get("a").result(30) == 6


def test_whoever_asks_hears_of_the_end_and_of_silence(client: Client, serving: Serving) -> None:
    with serving():
        client.rpc("a", answering)
        with pytest.raises(TimedOut, match=r"a has not answered within 0\.3 s; it has the message"):
            client.ask("a", "question", "be silent", timeout=0.3)
        began = time.monotonic()
        with pytest.raises(Ended, match="a has ended without an answer: resolved"):
            client.ask("a", "question", "end", timeout=60)
        with pytest.raises(Ended, match="a has ended: resolved"):
            client.ask("a", "question", 1, timeout=60)
        with pytest.raises(NotFound):
            client.ask("nobody", "question", 1, timeout=60)
        assert time.monotonic() - began < 20


def test_what_is_sent_by_hand_is_in_the_audit(client: Client, new_client: NewClient) -> None:
    client.rpc("a", collecting, 1)
    new_client(by="ada").send("a", "item", 1)
    [one] = client.audit()
    assert (one.by, one.verb, one.id, one.word) == ("ada", "send", "a", "stored item")
