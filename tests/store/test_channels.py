"""send.lua, and receives, messages and settlements in commits: each message counts once, in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from durasleep.errors import (
    CorruptData,
    DurasleepError,
    Ended,
    LimitFull,
    MailboxFull,
    NotAllowed,
    NotFound,
    OtherFunction,
    UsageError,
)
from durasleep.model import (
    CancelEntry,
    CommitAction,
    Delivery,
    Due,
    Entry,
    Kind,
    Number,
    Op,
    Place,
    PromiseId,
    SendMessage,
    SettlePromise,
    StartPromise,
    StartReceive,
    StartTimer,
    State,
    StepResult,
)
from durasleep.protocol import limits
from durasleep.protocol.keys import LIMIT, F, L
from durasleep.protocol.limits import declared_text
from tests.store.driver import FAR, PAST, Driver, child

ROOM = LIMIT["mailbox_max"]


def receive(number: str, channel: str = "x", due: Due | None = None) -> StartReceive:
    return StartReceive(Number(number), channel, due)


def cancel(number: str, channel: str = "x") -> CancelEntry:
    return CancelEntry(Number(number), Kind.RECEIVE, channel)


def message(number: str, target: str, value: bytes = b"", channel: str = "x") -> SendMessage:
    return SendMessage(Number(number), channel, PromiseId(target), value)


def settlement(number: str, target: str, value: bytes = b"", state: State = State.RESOLVED) -> SettlePromise:
    return SettlePromise(Number(number), PromiseId(target), state, value)


def found(entry: Entry) -> tuple[State, bytes]:
    return entry.state, entry.payload


GOT = State.RESOLVED


async def word(sending: Awaitable[object]) -> str:
    return (await sending).delivery.value  # type: ignore[attr-defined]


async def store(driver: Driver, id: str, *values: bytes, channel: str = "x") -> None:
    for value in values:
        assert await word(driver.send(id, channel, value)) == "stored"


async def end(driver: Driver, *ids: str) -> None:
    for id in ids:
        await driver.control("force", id)


async def assert_unchanged(driver: Driver, error: type[DurasleepError], said: str, *calls: Awaitable[object]) -> None:
    """Each is refused in one sentence, and writes nothing."""
    before = await driver.snapshot()
    for call in calls:
        with pytest.raises(error, match=said):
            await call
    assert await driver.snapshot() == before


# -- from the sender to the code


async def test_a_message_settles_the_receive_that_waits_longest_for_its_channel(driver: Driver) -> None:
    await driver.suspended("a", receive("3", "y"), receive("1"), receive("2"))
    for value, number in ((b"first", "1"), (b"second", "2")):
        assert await word(driver.send("a", "x", value)) == "delivered"
        assert found(await driver.entry("a", number)) == (GOT, value)
    assert await driver.waiting("a") == ["3"]
    assert await driver.place("a") is Place.QUEUED
    assert await word(driver.send("a", "x", b"third")) == "stored"
    assert await word(driver.send("a", "y", b"other")) == "delivered"
    assert (await driver.record("a")).unseen == {"1", "2", "3"}
    await end(driver, "a")


async def test_what_nobody_waits_for_is_received_later_in_order_and_in_the_commit_that_asks(driver: Driver) -> None:
    lease = await driver.start("a")
    await store(driver, "a", b"1", b"2", b"3")
    await store(driver, "a", b"other", channel="y")
    ops = receive("1"), receive("2"), receive("3", "y"), receive("4", "z")
    first = await driver.commit(lease, CommitAction.SUSPEND, *ops)
    assert [(one.number, one.payload) for one in first.entries] == [("1", b"1"), ("2", b"2"), ("3", b"other")]
    assert first.redrive
    before = await driver.snapshot()
    assert await driver.commit(lease, CommitAction.SUSPEND, *ops) == first, "its answer was lost"
    assert await driver.snapshot() == before
    assert await driver.unread("a") == [("x", b"3")]
    assert await driver.waiting("a") == ["4"]
    await end(driver, "a")


async def test_messages_come_from_every_place_an_execution_can_be_in(driver: Driver) -> None:
    await driver.create("delayed", start=FAR)
    await driver.create("queued")
    for id in ("delayed", "queued"):
        await store(driver, id, b"early")
    lease = await driver.take()
    await driver.commit(lease, CommitAction.HALT, receive("1", "y"), payload=b"broken")
    await store(driver, "queued", b"while halted")
    assert await word(driver.send("queued", "y", b"wanted")) == "delivered"
    assert await driver.place("queued") is Place.HALTED, "it is not woken"
    await driver.control("resume", "queued")
    lease = await driver.take()
    answer = await driver.commit(lease, CommitAction.CONTINUE, receive("2"), receive("3"))
    assert [one.payload for one in answer.entries] == [b"wanted", b"early", b"while halted"]
    await end(driver, "queued", "delayed")


@pytest.mark.one_partition("the limit is declared in one partition")
async def test_a_parked_execution_gets_messages_and_one_that_cannot_begin_gets_none(driver: Driver) -> None:
    declared = declared_text("f", None, None, needs_key=False)
    await driver.store.call(limits.declare_limit(driver.keys, "f", {L["total"]: "1", L["parked_max"]: "1"}))
    await driver.store.call(limits.declare_function(driver.keys, "f", declared))
    await driver.create("runs")
    assert await word(driver.send("parked", start="f")) == "stored"
    assert await driver.place("parked") is Place.PARKED
    await assert_unchanged(driver, LimitFull, "more was not started", driver.send("more", start="f"))
    await end(driver, "runs", "parked")
    await driver.fire_all()


async def test_a_timeout_and_a_message_never_both_settle_a_receive(driver: Driver) -> None:
    await driver.suspended("a", receive("1", due=PAST), receive("2", due=FAR))
    assert set(await driver.timers()) == {"a~1", "a~2"}
    await driver.fire()
    assert (await driver.entry("a", "1")).state is State.TIMEDOUT
    assert await driver.waiting("a") == ["2"]
    assert await word(driver.send("a", value=b"late")) == "delivered"
    assert found(await driver.entry("a", "2")) == (GOT, b"late")
    assert await driver.timers() == {}
    await driver.redis.zadd(driver.keys.timers, {"a~2": 1})
    assert (await driver.fire()).stale == 1
    assert found(await driver.entry("a", "2")) == (GOT, b"late")
    await end(driver, "a")


async def test_without_time_a_receive_takes_what_is_there_or_nothing(driver: Driver) -> None:
    lease = await driver.start("a")
    await store(driver, "a", b"there")
    answer = await driver.commit(lease, CommitAction.CONTINUE, *(receive(n, due=Due("+0")) for n in "12"))
    assert [found(one) for one in answer.entries] == [(GOT, b"there"), (State.TIMEDOUT, b"")]
    assert await driver.waiting("a") == []
    assert await driver.timers() == {}
    await end(driver, "a")


# -- receives that are canceled


async def test_a_receive_that_is_canceled_while_it_waits_gets_no_message(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, receive("1", due=FAR), receive("2"))
    await driver.commit(lease, CommitAction.CONTINUE, cancel("1"))
    assert (await driver.entry("a", "1")).stamp == 0
    assert await driver.timers() == {}
    assert await word(driver.send("a", value=b"for the other")) == "delivered"
    assert found(await driver.entry("a", "2")) == (GOT, b"for the other")
    await end(driver, "a")


async def test_a_message_that_the_code_does_not_want_goes_to_the_next_receive_or_to_the_front(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, receive("1"), receive("2", "y"), receive("3"))
    await driver.send("a", value=b"first")
    [got] = (await driver.commit(lease, CommitAction.CONTINUE)).entries
    answer = await driver.commit(lease, CommitAction.CONTINUE, cancel("1"), seen=got)
    assert [(one.number, one.payload) for one in answer.entries] == [("3", b"first")]
    given, taken = await driver.entry("a", "1"), answer.entries[0]
    assert (given.state, given.stamp, given.payload) == (State.CANCELED, got.stamp, b"")
    await store(driver, "a", b"second")
    before = await driver.commit(lease, CommitAction.CONTINUE, cancel("3"), seen=given)
    assert before.entries == []
    assert await driver.unread("a") == [("x", b"first"), ("x", b"second")]
    held = await driver.snapshot()
    assert await driver.commit(lease, CommitAction.CONTINUE, cancel("3"), cancel("1"), seen=given) == before
    assert await driver.snapshot() == held, "it was a repeat"
    # By either entry the worker is known to have this history.
    for seen in (given, taken):
        await driver.commit(lease, CommitAction.CONTINUE, seen=seen)
    assert (await driver.record("a")).unseen == set()
    await end(driver, "a")


async def test_several_messages_return_in_their_order(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, *(receive(n) for n in "123"))
    for value in (b"1", b"2"):
        await driver.send("a", value=value)
    await driver.send("a", value=b"3")
    await store(driver, "a", b"4")
    assert [(one.number, one.payload) for one in (await driver.load("a")).entries.values()] == [
        ("1", b"1"),
        ("2", b"2"),
        ("3", b"3"),
    ]
    await driver.commit(lease, CommitAction.CONTINUE, receive("4"), receive("5"), receive("6"))
    assert await driver.waiting("a") == ["5", "6"]
    ops = cancel("6"), cancel("2"), cancel("1"), receive("7"), cancel("4"), cancel("3")
    answer = await driver.commit(lease, CommitAction.CONTINUE, *ops)
    assert [(one.number, one.payload) for one in answer.entries] == [("5", b"1"), ("7", b"2")]
    assert await driver.unread("a") == [("x", b"3"), ("x", b"4")]
    await end(driver, "a")


# -- sent once


async def test_a_repeated_call_hears_what_it_was_answered_and_another_one_with_its_key_that_it_is_late(
    driver: Driver,
) -> None:
    await driver.suspended("a", receive("1"), receive("2"), StartTimer(Number("3"), "", FAR))
    for key in (None, "k"):
        assert await word(driver.send("a", value=b"now", call=f"c{key}", key=key)) == "delivered"
    for key in (None, "k"):
        assert await word(driver.send("a", value=b"later", call=f"d{key}", key=key and "l")) == "stored"
    before = await driver.snapshot()
    for key in (None, "k"):
        assert await word(driver.send("a", value=b"now", call=f"c{key}", key=key)) == "delivered"
        assert await word(driver.send("a", value=b"later", call=f"d{key}", key=key and "l")) == "stored"
    for key in "kl":
        assert await word(driver.send("a", value=b"again", call="other", key=key)) == "duplicate"
    assert await driver.snapshot() == before
    assert await word(driver.send("a", "y", b"again", call="other", key="k")) == "stored", "a key is one of its channel"
    assert await driver.unread("a") == [("x", b"later"), ("x", b"later"), ("y", b"again")]
    await end(driver, "a")


async def test_calls_whose_messages_are_delivered_need_a_mailbox_only_if_they_are_many(driver: Driver) -> None:
    field = F["calls"].encode()
    await driver.suspended("a", *(receive(str(number)) for number in range(1, 8)))
    calls = [f"call-{number}-----" for number in range(7)]  # as long as those of clients
    for number, call in enumerate(calls):
        assert await word(driver.send("a", call=call)) == "delivered"
        known = await driver.redis.hget(driver.keys.promise("a"), field)
        assert len(known) <= LIMIT["calls_bytes_max"]
        assert bool(await driver.mail("a")) is (number >= 5), "five fit into the field"
    before = await driver.snapshot()
    for call in calls:
        assert await word(driver.send("a", call=call)) == "delivered"
    assert await driver.snapshot() == before
    assert await word(driver.send("a", call="another")) == "stored"
    await end(driver, "a")


@pytest.mark.parametrize("kept_ms", [0, 100, LIMIT["ended_mailbox_ms"]])
async def test_a_repeated_call_hears_what_it_was_answered_also_after_the_end(driver: Driver, kept_ms: int) -> None:
    await driver.create("a", retention_ms=kept_ms)
    lease = await driver.take()
    await driver.commit(lease, CommitAction.CONTINUE, receive("1"))
    assert await word(driver.send("a", call="c")) == "delivered"
    await driver.commit(lease, CommitAction.RESOLVE)
    if kept_ms < LIMIT["ended_mailbox_ms"]:
        await driver.redis.delete(driver.keys.promise("a"))
    assert await word(driver.send("a", call="c")) == "delivered"
    error = NotFound if kept_ms < LIMIT["ended_mailbox_ms"] else Ended
    with pytest.raises(error):
        await word(driver.send("a", call="d"))


async def test_a_thousand_keys_and_a_thousand_calls_are_remembered(driver: Driver) -> None:
    await driver.suspended("a", StartTimer(Number("1"), "", FAR))
    await driver.send("a", call="before", key="before")
    await driver.send("a", call="oldest")
    lease = await driver.start("reader")
    await driver.commit(lease, CommitAction.CONTINUE)
    size = LIMIT["ring_max"]
    key = f"{driver.keys.tag}mail:a"
    # As if all but the first had been sent, and read.
    for ring, letter in (("K", "k"), ("I", "i")):
        fields = {f"{ring}{n}": f"{letter}{n}" for n in range(1, size)}
        await driver.redis.hset(key, mapping=fields | {f"{letter}{letter}{n}": "scall" for n in range(1, size)})
    await driver.redis.hset(key, "n", f"2 0 {size} {size} 0")
    fields = len(await driver.mail("a"))
    assert await word(driver.send("a", call="new")) == "stored"
    assert await word(driver.send("a", call="other", key="before")) == "duplicate", "calls drive out no keys"
    assert await word(driver.send("a", call="new", key="new")) == "stored"
    known = await driver.mail("a")
    assert "ioldest" not in known
    assert all(f"ii{n}" in known and f"kk{n}" in known for n in range(1, size))
    assert await word(driver.send("a", call="other", key="before")) == "stored", "it was forgotten"
    assert "kk1" not in await driver.mail("a")
    assert len(await driver.mail("a")) == fields + 3, "three more messages, and nothing else"
    await end(driver, "a")


# -- bounds


async def test_a_mailbox_takes_a_thousand_messages(driver: Driver) -> None:
    await driver.create("a")
    await driver.send("a")
    key = f"{driver.keys.tag}mail:a"
    await driver.redis.hset(key, mapping={f"m{n} x": "\n" for n in range(1, ROOM - 1)})
    await driver.redis.hset(key, mapping={"cx": f"0 {ROOM - 1}", "n": f"{ROOM - 1} 0 0 1 0"})
    assert await word(driver.send("a", "y")) == "stored"
    await assert_unchanged(driver, MailboxFull, "a has 1000 unread", driver.send("a"), driver.send("a", "y", key="k"))
    lease = await driver.take()
    await driver.commit(lease, CommitAction.CONTINUE, receive("1"), receive("2", "z"))
    await store(driver, "a", b"")
    assert await word(driver.send("a", "z")) == "delivered", "it takes no room"
    # A message that returns may exceed it.
    await driver.commit(lease, CommitAction.CONTINUE, cancel("1"), cancel("2", "z"))
    assert len(await driver.unread("a")) == ROOM + 2
    await end(driver, "a")


async def test_a_mailbox_takes_a_megabyte_and_one_message_of_any_size_if_it_is_empty(driver: Driver) -> None:
    await driver.create("a")
    large = b"x" * (LIMIT["mailbox_bytes_max"] - 1)
    await store(driver, "a", large, b"x")
    await assert_unchanged(driver, MailboxFull, "a has 2 unread messages", driver.send("a", value=b"x"))
    lease = await driver.take()
    await driver.commit(lease, CommitAction.CONTINUE, receive("1"))
    await driver.commit(lease, CommitAction.CONTINUE, receive("2"), seen=await driver.entry("a", "1"))
    await store(driver, "a", large + b"xx")
    await end(driver, "a")


async def test_as_many_receives_wait_as_may_also_when_their_commit_is_repeated(driver: Driver) -> None:
    lease = await driver.start("a")
    most = LIMIT["receives_max"]
    ops = [receive(str(n)) for n in range(1, most + 1)]
    for _ in range(2):
        await driver.commit(lease, CommitAction.CONTINUE, *ops)
    with pytest.raises(UsageError, match="a waits for 256 messages already"):
        await driver.commit(lease, CommitAction.CONTINUE, receive("900"))
    swap = cancel("1"), receive("900")
    for _ in range(2):
        await driver.commit(lease, CommitAction.CONTINUE, *swap)
    assert len(await driver.waiting("a")) == most
    await end(driver, "a")


# -- who takes none


async def test_a_key_that_is_no_mailbox_is_named_and_nothing_is_written(driver: Driver) -> None:
    lease = await driver.start("a")
    key = f"{driver.keys.tag}mail:a"
    await driver.redis.set(key, "someone's")
    new = f"{driver.keys.tag}mail:new"
    await driver.redis.set(new, "someone's")
    said = "holds a string, not a hash"
    await assert_unchanged(
        driver,
        CorruptData,
        said,
        driver.send("a"),
        driver.send("new", start="f"),
        driver.send("a", reply="reply", due=FAR, inbox="me"),
        driver.commit(lease, CommitAction.CONTINUE, StartTimer(Number("1"), "", FAR), receive("2")),
    )
    answer = await driver.commit(lease, CommitAction.CONTINUE, message("1", "a"))
    assert found(answer.entries[0]) == (State.REJECTED, b"C")
    await end(driver, "a")
    await driver.redis.delete(key, new)


async def test_who_takes_no_messages_says_why(driver: Driver) -> None:
    await driver.create("p", kind=Kind.PROMISE)
    await driver.suspended("a", StartTimer(Number("1"), "", FAR), StartPromise(Number("2"), "", None), child("3"))
    await driver.commit(await driver.take(), CommitAction.RESOLVE)
    await driver.create("e")
    lease = await driver.take_of("e")
    await driver.commit(lease, CommitAction.CONTINUE, StepResult(Number("1"), "s", State.RESOLVED, b""))
    await driver.commit(lease, CommitAction.REJECT)
    targets: dict[str, tuple[type[DurasleepError], str, bytes]] = {
        "nobody": (NotFound, "no execution nobody", b"N"),
        "p": (NotAllowed, "p is a promise", b"A"),
        "a~1": (NotFound, "no execution a~1", b"N"),
        "a~2": (NotFound, "no execution a~2", b"N"),
        "a~3": (Ended, "a~3 has ended: resolved", b"E"),
        "e": (Ended, "e has ended: rejected", b"E"),
        "e~1": (NotFound, "no execution e~1", b"N"),
    }
    sender = await driver.take_of("a")
    for number, (target, (error, said, letter)) in enumerate(targets.items(), 10):
        await assert_unchanged(driver, error, said, driver.send(target), driver.send(target, key="k"))
        asking = driver.send(target, reply="reply", due=FAR, inbox="me")
        await assert_unchanged(driver, error, said, asking)
        answer = await driver.commit(sender, CommitAction.CONTINUE, message(str(number), target))
        assert found(answer.entries[-1]) == (State.REJECTED, letter), target
    await end(driver, "a", "p")


async def test_an_orphan_takes_no_messages(driver: Driver) -> None:
    await driver.suspended("a", child("1"))
    await driver.redis.delete(driver.keys.promise("a"))
    with pytest.raises(Ended, match="that has started a~1 has ended"):
        await driver.send("a~1")
    await end(driver, "a~1")


# -- start=


async def test_the_first_message_begins_its_execution_and_later_ones_find_it(driver: Driver) -> None:
    for call, value in (("one", b"1"), ("one", b"1"), ("two", b"2")):
        assert await word(driver.send("a", value=value, call=call, start="f")) == "stored"
    assert await driver.queued() == ["a"]
    await assert_unchanged(driver, OtherFunction, "belongs to function f", driver.send("a", start="g"))
    lease = await driver.take()
    answer = await driver.commit(lease, CommitAction.CONTINUE, receive("1"), receive("2"))
    assert [one.payload for one in answer.entries] == [b"1", b"2"]
    await driver.commit(lease, CommitAction.RESOLVE)
    await assert_unchanged(driver, Ended, "a has ended: resolved", driver.send("a", start="f"))


# -- questions


async def ask(driver: Driver, call: str = "c", key: str | None = None, inbox: str = "me") -> tuple[str, str, State]:
    sent = await driver.send("a", value=b"?", call=call, key=key, reply=f"reply-{call}", due=FAR, inbox=inbox)
    assert sent.reply is not None
    return sent.delivery.value, sent.reply.disposition.value, sent.reply.state


async def test_a_question_makes_the_promise_of_its_answer_and_is_asked_once(driver: Driver) -> None:
    await driver.suspended("a", receive("1"))
    assert await ask(driver) == ("delivered", "created", State.PENDING)
    before = await driver.snapshot()
    assert await ask(driver) == ("delivered", "attached", State.PENDING)
    assert await driver.snapshot() == before
    entry = await driver.entry("a", "1")
    assert (entry.payload, entry.child_id) == (b"?", "reply-c")
    lease = await driver.take()
    await driver.commit(lease, CommitAction.CONTINUE, settlement("2", "reply-c", b"!"), seen=entry)
    await driver.commit(lease, CommitAction.RESOLVE)
    told = [fields[b"i"] for fields in await driver.inbox("me")]
    assert told == [b"reply-c", b"a"], "whoever asks hears of the answer, and of the end"
    assert 80_000 < await driver.ttl_ms("reply-c") <= 90_000
    again = await driver.send("a", value=b"?", call="c", reply="reply-c", due=FAR, inbox="me")
    assert again.reply is not None
    assert (again.reply.state, again.reply.value) == (State.RESOLVED, b"!"), "also when who has answered is gone"


async def test_a_question_whose_key_was_used_waits_for_no_answer(driver: Driver) -> None:
    await driver.create("a")
    await driver.send("a", call="first", key="k")
    before = await driver.snapshot()
    sent = await driver.send("a", call="c", key="k", reply="reply-c", due=FAR, inbox="me")
    assert (sent.delivery, sent.reply) == (Delivery.DUPLICATE, None)
    assert await driver.snapshot() == before
    await end(driver, "a")


async def test_whoever_asks_hears_that_the_execution_has_ended_without_an_answer(driver: Driver) -> None:
    await driver.create("a")
    assert await ask(driver) == ("stored", "created", State.PENDING)
    await end(driver, "a")
    assert [(fields[b"i"], fields[b"s"]) for fields in await driver.inbox("me")] == [(b"a", b"c")]
    assert await ask(driver) == ("stored", "attached", State.PENDING)
    await end(driver, "reply-c")


async def test_a_reply_that_is_returned_with_its_message_is_found_with_it(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, receive("1"))
    await ask(driver)
    await driver.commit(lease, CommitAction.CONTINUE, cancel("1"))
    [got] = (await driver.commit(lease, CommitAction.CONTINUE, receive("2"))).entries
    assert (got.payload, got.child_id) == (b"?", "reply-c")
    await end(driver, "a", "reply-c")


# -- what executions send and settle


async def test_an_execution_sends_to_itself_to_its_parent_and_to_the_child_it_begins(driver: Driver) -> None:
    await driver.suspended("a", child("1"), receive("2", "from child"))
    lease = await driver.take_of("a~1")
    ops: list[Op] = [
        receive("1"),
        message("2", "a~1", b"to myself"),
        message("3", "a", b"to my parent", "from child"),
        child("4"),
        message("5", "a~1~4", b"to my child"),
        message("6", "a~1", b"unread"),
    ]
    answer = await driver.commit(lease, CommitAction.CONTINUE, *ops)
    got = [(one.number, one.payload) for one in answer.entries]
    assert got == [("1", b"to myself"), ("2", b"d"), ("3", b"d"), ("5", b"s"), ("6", b"s")]
    before = await driver.snapshot()
    assert await driver.commit(lease, CommitAction.CONTINUE, *ops) == answer
    assert await driver.snapshot() == before
    assert found(await driver.entry("a", "2")) == (GOT, b"to my parent")
    assert await driver.unread("a~1~4") == [("x", b"to my child")]
    ended = await driver.commit(lease, CommitAction.RESOLVE, message("7", "a", b"last"), seen=answer.entries[0])
    assert ended.unread == 1
    assert await driver.unread("a") == [("x", b"last")]
    await end(driver, "a")


async def test_a_full_mailbox_refuses_the_message_and_not_the_commit(driver: Driver) -> None:
    await driver.create("full")
    await store(driver, "full", b"x" * LIMIT["mailbox_bytes_max"])
    lease = await driver.take()
    lease = await driver.start("a")
    answer = await driver.commit(lease, CommitAction.RESOLVE, message("1", "full", b"x"))
    assert answer.entries == []
    assert await driver.redis.hget(driver.keys.promise("a"), "1") is not None
    assert found(await driver.entry("a", "1")) == (State.REJECTED, b"M")
    await end(driver, "full")


async def test_an_execution_settles_promises_of_its_own_and_of_others_once(driver: Driver) -> None:
    await driver.create("p", kind=Kind.PROMISE, inbox="me")
    await driver.create("other-timer", kind=Kind.TIMER, deadline=FAR)
    await driver.suspended("b", StartPromise(Number("1"), "", FAR))
    lease = await driver.start("a")
    ops: list[Op] = [
        StartPromise(Number("1"), "", FAR),
        settlement("2", "a~1", b"mine"),
        settlement("3", "p", b"theirs"),
        settlement("4", "p", b"theirs"),
        settlement("5", "p", b"late"),
        settlement("6", "b~1", b"error", State.REJECTED),
        settlement("7", "b"),
        settlement("8", "other-timer"),
        settlement("9", "nobody"),
        settlement("10", "a"),
        StartTimer(Number("11"), "", FAR),
        settlement("12", "a~11"),
        settlement("13", "a~99"),
    ]
    answer = await driver.commit(lease, CommitAction.CONTINUE, *ops)
    got = {one.number: found(one) for one in answer.entries}
    wanted = {"1": (GOT, b"mine")} | dict.fromkeys(("2", "3", "4", "6"), (GOT, b"1"))
    wanted |= {"5": (GOT, b"0")} | dict.fromkeys(("7", "8", "10", "12"), (State.REJECTED, b"A"))
    assert got == wanted | dict.fromkeys(("9", "13"), (State.REJECTED, b"N"))
    before = await driver.snapshot()
    assert await driver.commit(lease, CommitAction.CONTINUE, *ops) == answer
    assert await driver.snapshot() == before
    assert found(await driver.entry("b", "1")) == (State.REJECTED, b"error")
    assert await driver.place("b") is Place.QUEUED
    assert [fields[b"v"] for fields in await driver.inbox("me")] == [b"theirs"]
    await end(driver, "a", "b", "other-timer")


# -- endings


HowItEnds = Callable[[Driver], Awaitable[object]]


async def resolved(driver: Driver) -> object:
    answer = await driver.commit(await driver.take_of("a"), CommitAction.RESOLVE)
    assert answer.unread == 3, "two in the mailbox, and one that the code has not got"
    return answer


async def forced(driver: Driver) -> object:
    return await driver.control("force", "a")


@pytest.mark.parametrize("how", [resolved, forced])
async def test_a_mailbox_ends_with_its_execution(driver: Driver, how: HowItEnds) -> None:
    await driver.suspended("a", receive("1"), receive("2", "y", FAR))
    for value in (b"got", b"unread", b"unread too"):
        await driver.send("a", value=value, key=value.decode())
    await how(driver)
    assert 0 < await driver.redis.pttl(f"{driver.keys.tag}mail:a") <= LIMIT["ended_mailbox_ms"]
    fields = await driver.redis.hgetall(driver.keys.promise("a"))
    assert not {F["receives"].encode(), F["extras"].encode()} & fields.keys()
    assert await driver.timers() == {}


async def test_an_execution_that_begins_again_has_no_messages(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, receive("1", "y"))
    await driver.send("a", value=b"old", call="c", key="k")
    await driver.commit(lease, CommitAction.REJECT)
    assert (await driver.control("retry", "a")).state is State.PENDING
    lease = await driver.take()
    answer = await driver.commit(lease, CommitAction.CONTINUE, receive("1"), receive("2", "y"))
    assert answer.entries == []
    assert await word(driver.send("a", value=b"new", call="other", key="k")) == "delivered", "its keys are gone, too"
    await end(driver, "a")


async def test_a_child_of_another_life_of_its_parent_leaves_no_messages(driver: Driver) -> None:
    await driver.suspended("a", child("1"))
    await driver.send("a~1", value=b"old")
    fields = await driver.redis.hgetall(driver.keys.promise("a~1"))
    mail = await driver.mail("a~1")
    await end(driver, "a")
    await driver.fire_all()
    await driver.redis.delete(driver.keys.promise("a"))
    # As if it had never heard that its parent has ended.
    await driver.redis.delete(driver.keys.promise("a~1"))
    fields.pop(F["entry"].encode(), None)
    fields[F["place"].encode()] = b"s"
    await driver.redis.hset(driver.keys.promise("a~1"), mapping=fields)
    await driver.redis.hset(f"{driver.keys.tag}mail:a~1", mapping=mail)
    await driver.another_life()
    await driver.suspended("a", child("1"))
    lease = await driver.take_of("a~1")
    assert (await driver.commit(lease, CommitAction.CONTINUE, receive("1"))).entries == []
    await end(driver, "a")


async def test_what_an_older_version_has_left_is_not_read_by_the_next_one(driver: Driver) -> None:
    await driver.create("a")
    await store(driver, "a", b"old", b"old")
    mail = await driver.mail("a")
    await end(driver, "a")
    await driver.redis.delete(driver.keys.promise("a"))
    await driver.redis.hset(f"{driver.keys.tag}mail:a", mapping=mail)
    await driver.create("a")
    await store(driver, "a", b"new")
    assert await driver.unread("a") == [("x", b"new")]
    await end(driver, "a")


@pytest.mark.parametrize("entries", [0, 100], ids=["short", "long"])
async def test_a_new_run_gets_what_the_old_one_has_not_read_in_order(driver: Driver, entries: int) -> None:
    lease = await driver.start("a")
    steps = [StepResult(Number(str(n)), "s", State.RESOLVED, b"") for n in range(10, 10 + entries)]
    await driver.commit(lease, CommitAction.CONTINUE, *(receive(n) for n in "1234"), receive("5", "y"), *steps)
    for value in (b"1", b"2", b"3"):
        await driver.send("a", value=value, key="k" if value == b"1" else None)
    first = await driver.entry("a", "1")
    ops = cancel("2"), receive("200", "z")
    await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, *ops, seen=first, payload=b"args", due="200")
    assert await driver.unread("a") == [("x", b"2"), ("x", b"3")]
    assert await driver.waiting("a") == []
    assert await word(driver.send("a", value=b"again", key="k")) == "duplicate", "a mailbox lives longer than a run"
    await store(driver, "a", b"4")
    await driver.fire_all()
    lease = await driver.take()
    answer = await driver.commit(lease, CommitAction.CONTINUE, *(receive(n) for n in ("201", "202", "203", "204")))
    assert [one.payload for one in answer.entries] == [b"2", b"3", b"4"]
    await end(driver, "a")


async def test_an_execution_without_messages_has_no_field_of_them(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, StartTimer(Number("1"), "", FAR), child("2"))
    ours = {F["receives"].encode(), F["extras"].encode()}
    assert not ours & (await driver.redis.hgetall(driver.keys.promise("a"))).keys()
    await driver.send("a")
    await driver.commit(lease, CommitAction.CONTINUE, receive("3"))
    assert ours & (await driver.redis.hgetall(driver.keys.promise("a"))).keys() == {F["extras"].encode()}
    await end(driver, "a")
