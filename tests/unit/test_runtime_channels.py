"""Messages as the code of a workflow sees them: what is asked for, given back, and waited for at the end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durasleep import Channel, Ended, MailboxFull, TimedOut, UsageError
from durasleep.model import (
    CancelEntry,
    Due,
    Entry,
    Kind,
    Number,
    PromiseId,
    SendMessage,
    SettlePromise,
    StartReceive,
    State,
)
from durasleep.runtime.activation import Activation
from durasleep.runtime.context import Context
from durasleep.runtime.outcome import Halted, Rejected, Resolved
from tests.unit.runtime_world import CODEC, CREATED_MS, World, unwrap


def activation_of(fn: Any) -> Activation:
    return World(fn).new_activation()


def received(number: str, channel: str, value: Any, stamp: int, *, reply: str = "") -> Entry:
    """A message that the server has put into the journal."""
    return Entry(
        Number(number),
        Kind.RECEIVE,
        State.RESOLVED,
        channel,
        CREATED_MS + stamp,
        child_id=reply,
        payload=CODEC.encode(value, "value"),
    )


def heard(number: str, kind: Kind, stamp: int, payload: bytes, state: State = State.RESOLVED) -> Entry:
    """What an entry has heard of what it has sent or settled."""
    name = "entry" if kind is Kind.SEND else ""
    return Entry(Number(number), kind, state, name, CREATED_MS + stamp, child_id="ledger", payload=payload)


async def first_of_two(ctx: Context) -> str:
    winner = await ctx.race(ctx.receive("a", str), ctx.receive("b", str))
    await ctx.sleep(10)
    return winner.value


def test_a_receive_asks_for_a_message_and_takes_what_has_come() -> None:
    async def paying(ctx: Context) -> int:
        return await ctx.receive("payment", int, timeout="3d")

    activation = activation_of(paying)
    assert activation.start([]).ops == (StartReceive(Number("1"), "payment", Due("+259200000")),)
    assert unwrap(activation.feed([received("1", "payment", 4200, 1)])) == 4200


def test_a_message_that_the_code_has_not_got_when_it_stops_waiting_is_given_back() -> None:
    """Both have come before the workflow woke up: the second is delivered to nobody."""
    activation = activation_of(first_of_two)
    progress = activation.start([received("1", "a", "A", 1), received("2", "b", "B", 2)])
    assert CancelEntry(Number("2"), Kind.RECEIVE, "b") in progress.ops
    assert activation.seen == CREATED_MS + 2, "the server knows the stamp of what was given back"


def test_a_message_that_was_given_back_is_not_delivered_by_a_replay() -> None:
    gone = Entry(Number("2"), Kind.RECEIVE, State.CANCELED, "b", CREATED_MS + 2)
    activation = activation_of(first_of_two)
    progress = activation.start([received("1", "a", "A", 1), gone])
    assert progress.outcome is None
    assert not any(isinstance(op, CancelEntry) for op in progress.ops)
    assert progress.waiting


def test_code_that_waits_for_what_was_given_back_does_not_fit_its_journal() -> None:
    async def changed(ctx: Context) -> str:
        await ctx.receive("a", str)
        return await ctx.receive("b", str)

    gone = Entry(Number("2"), Kind.RECEIVE, State.CANCELED, "b", CREATED_MS + 2)
    progress = activation_of(changed).start([received("1", "a", "A", 1), gone])
    assert isinstance(progress.outcome, Halted)
    assert "still awaited" in progress.outcome.reason


def test_an_end_waits_for_what_was_sent_and_runs_no_code_meanwhile() -> None:
    ran: list[str] = []

    async def sending(ctx: Context) -> str:
        async def behind() -> None:
            await ctx.settle("approval", True)
            ran.append("behind")

        ctx.send("ledger", "entry", 1)
        background = ctx.run(print)  # never begun: the code has ended
        del background
        task = asyncio.ensure_future(behind())
        await ctx.sleep(0.001)
        assert not task.done()
        return "done"

    activation = activation_of(sending)
    activation.start([])
    timer = Entry(Number("4"), Kind.TIMER, State.RESOLVED, "", CREATED_MS + 1)
    progress = activation.feed([timer])
    assert progress.waiting
    assert progress.outcome is None
    assert activation.feed([heard("1", Kind.SEND, 2, b"d")]).outcome is None, "the settlement is not heard of yet"
    progress = activation.feed([heard("3.1", Kind.SETTLE, 3, b"1")])
    assert isinstance(progress.outcome, Resolved)
    assert ran == []


def test_an_end_with_an_error_waits_too_and_a_replay_comes_to_the_same_end() -> None:
    async def failing(ctx: Context) -> None:
        ctx.send("ledger", "entry", 1)
        raise ValueError("no")

    activation = activation_of(failing)
    progress = activation.start([])
    assert progress.ops == (SendMessage(Number("1"), "entry", PromiseId("ledger"), CODEC.encode(1, "value")),)
    assert progress.outcome is None
    again = activation_of(failing).start([heard("1", Kind.SEND, 1, b"s")])
    assert isinstance(again.outcome, Rejected)
    assert again.outcome.text == "ValueError: no"


def test_what_was_not_sent_says_why() -> None:
    async def trying(ctx: Context) -> list[str]:
        words: list[str] = []
        for _ in range(2):
            try:
                await ctx.send("ledger", "entry", 1)
            except (Ended, MailboxFull) as error:
                words.append(str(error))
        return words

    refused = [heard("1", Kind.SEND, 1, b"E", State.REJECTED), heard("2", Kind.SEND, 2, b"M", State.REJECTED)]
    assert unwrap(activation_of(trying).start(refused)) == [
        "a message for ledger was not made: it has ended",
        "a message for ledger was not made: its mailbox is full",
    ]


def test_sending_and_settling_say_what_became_of_it() -> None:
    async def telling(ctx: Context) -> tuple[Any, ...]:
        return await ctx.send("ledger", "entry"), await ctx.settle("ledger", 1), await ctx.settle("ledger", 2)

    answers = [
        heard("1", Kind.SEND, 1, b"s"),
        heard("2", Kind.SETTLE, 2, b"1"),
        heard("3", Kind.SETTLE, 3, b"0"),
    ]
    assert unwrap(activation_of(telling).start(answers)) == ("stored", True, False)


def test_an_answer_settles_the_promise_of_whoever_asks_and_never_raises() -> None:
    async def answering(ctx: Context) -> list[bool]:
        return [await message.reply(message.value + 1) async for message in ctx.messages("add", int, timeout=5)]

    activation = activation_of(answering)
    activation.start([])
    progress = activation.feed([received("1", "add", 1, 1, reply="ask-1")])
    payload = CODEC.encode(2, "value")
    assert progress.ops == (SettlePromise(Number("2"), PromiseId("ask-1"), State.RESOLVED, payload),)
    activation.feed([heard("2", Kind.SETTLE, 2, b"1")])
    activation.feed([received("3", "add", 2, 3, reply="ask-2")])
    activation.feed([heard("4", Kind.SETTLE, 4, b"N", State.REJECTED)])
    activation.feed([received("5", "add", 3, 5)])
    progress = activation.feed([Entry(Number("6"), Kind.RECEIVE, State.TIMEDOUT, "add", CREATED_MS + 6)])
    assert unwrap(progress) == [True, False, False]


def test_a_receive_that_waits_too_long_raises_a_timeout_that_names_its_channel() -> None:
    async def waiting(ctx: Context) -> None:
        await ctx.receive(Channel("payment", int), timeout=5)

    activation = activation_of(waiting)
    activation.start([])
    late = Entry(Number("1"), Kind.RECEIVE, State.TIMEDOUT, "payment", CREATED_MS + 5000)
    outcome = activation.feed([late]).outcome
    assert isinstance(outcome, Rejected)
    assert TimedOut.__name__ in outcome.text
    assert "no message came to channel 'payment' of order-1 in time" in outcome.text


def test_an_execution_waits_for_a_bounded_number_of_messages() -> None:
    async def greedy(ctx: Context) -> str:
        many = [ctx.receive("a") for _ in range(256)]
        try:
            ctx.receive("b")
        except UsageError as error:
            many[0].cancel()
            ctx.receive("b").cancel()
            return str(error)
        return "no bound"

    assert unwrap(activation_of(greedy).start([])) == (
        "order-1 waits for 256 messages already: await some, or cancel them"
    )


def test_a_message_that_does_not_fit_its_channel_is_not_sent() -> None:
    async def sending(ctx: Context) -> str:
        try:
            await ctx.send("ledger", Channel("entry", int), "text")  # pyright: ignore[reportCallIssue, reportArgumentType]
        except UsageError as error:
            return str(error)
        return "sent"

    text = unwrap(activation_of(sending).start([]))
    assert text.startswith("channel 'entry' takes no such message: ")


# -- what does not fit


def waiting_for_numbers(type_hint: Any) -> Any:
    async def waiting(ctx: Context) -> Any:
        first = await ctx.receive("a", type_hint, timeout="1h")
        await ctx.sleep(5)
        return first

    return waiting


def test_a_message_that_does_not_fit_is_not_received_and_whoever_asked_hears_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    activation = activation_of(waiting_for_numbers(int))
    activation.start([])
    progress = activation.feed([received("1", "a", "text", 1, reply="ask-1")])
    answer, again = progress.ops
    assert isinstance(answer, SettlePromise)
    assert (answer.number, answer.target, answer.state) == ("1.1", "ask-1", State.REJECTED)
    assert "takes no such message" in str(CODEC.decode_error(answer.payload))
    assert again == StartReceive(Number("1.2"), "a", Due(f"={7 + 1000 + 3_600_000}")), (
        "until the same time, and never earlier"
    )
    assert "channel 'a' of order-1 takes no such message" in caplog.text
    progress = activation.feed([heard("1.1", Kind.SETTLE, 2, b"1"), received("1.2", "a", 7, 3)])
    assert progress.outcome is None
    assert unwrap(activation.feed([Entry(Number("2"), Kind.TIMER, State.RESOLVED, "", CREATED_MS + 9)])) == 7


def test_what_was_refused_once_is_refused_in_every_replay_whatever_fits_today() -> None:
    journal = [
        received("1", "a", "text", 1),
        received("1.1", "a", "more", 2, reply="ask-1"),
        heard("1.2", Kind.SETTLE, 3, b"1"),
        received("1.3", "a", 7, 4),
    ]
    for type_hint in (int, int | str):
        activation = activation_of(waiting_for_numbers(type_hint))
        progress = activation.start(journal)
        assert progress.outcome is None, progress.outcome
        assert [op.number for op in progress.ops] == ["2"]


def test_a_receive_that_has_refused_messages_is_canceled_as_any_other() -> None:
    async def racing(ctx: Context) -> int:
        winner = await ctx.race(ctx.receive("a", int), ctx.receive("b", int))
        await ctx.sleep(5)
        return winner.index

    activation = activation_of(racing)
    activation.start([])
    activation.feed([received("1", "a", "text", 1)])
    progress = activation.feed([received("2", "b", 5, 2)])
    assert CancelEntry(Number("1.1"), Kind.RECEIVE, "a") in progress.ops


def test_a_loop_over_messages_goes_on_behind_what_does_not_fit() -> None:
    async def adding(ctx: Context) -> int:
        return sum([message.value async for message in ctx.messages("a", int, timeout=5)])

    activation = activation_of(adding)
    activation.start([])
    activation.feed([received("1", "a", "text", 1)])
    activation.feed([received("1.1", "a", 7, 2)])
    assert unwrap(activation.feed([Entry(Number("2"), Kind.RECEIVE, State.TIMEDOUT, "a", CREATED_MS + 9)])) == 7
