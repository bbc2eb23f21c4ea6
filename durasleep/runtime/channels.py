"""The durable calls of a workflow that receive and send: messages, and the promises of others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from types import UnionType
from typing import Any, Generic, TypeVar, overload

from durasleep.channel import Channel, channel_of
from durasleep.codec import Codec
from durasleep.codec.messages import encode_message
from durasleep.errors import TimedOut, UsageError
from durasleep.model import (
    Delivery,
    Due,
    Duration,
    Entry,
    Kind,
    Number,
    PromiseId,
    SendMessage,
    SettlePromise,
    StartReceive,
    State,
    check_id,
    due_in,
)
from durasleep.runtime.event_loop import CallNumbers, WorkflowFuture
from durasleep.runtime.journal import DurableFuture, Journal

T = TypeVar("T")

logger = logging.getLogger("durasleep.runtime")

LATEST_MS = 1_000  # after the beginning of its execution: an entry that began earlier does not say when

# The journal's private parts are not for users.
# pyright: reportPrivateUsage=false


class ChannelCalls:
    """The part of ``Context`` that receives and sends."""

    __slots__ = ()

    _codec: Codec
    _journal: Journal
    info: Any

    @overload
    def receive(self, channel: Channel[T], /, *, timeout: Duration | None = None) -> DurableFuture[T]: ...
    @overload
    def receive(self, channel: str, type_hint: type[T], /, *, timeout: Duration | None = None) -> DurableFuture[T]: ...
    @overload
    def receive(
        self, channel: str, type_hint: UnionType, /, *, timeout: Duration | None = None
    ) -> DurableFuture[Any]: ...
    @overload
    def receive(self, channel: str, /, *, timeout: Duration | None = None) -> DurableFuture[Any]: ...
    def receive(
        self, channel: Channel[Any] | str, type_hint: Any = Any, /, *, timeout: Duration | None = None
    ) -> DurableFuture[Any]:
        """The oldest unread message of a channel, or the next one that comes, as a value that ``type_hint`` shapes::

            payment = await ctx.receive("payment", Payment, timeout="3d")

        Anybody sends it by the id of this execution, before or after this call: ``app.send``, ``ctx.send``. Each
        message is received once, in the order of their coming. Raises TimedOut when ``timeout`` (seconds, a timedelta,
        or text such as ``"3d"``) has passed; 0 takes only what is there. By default it waits for ever. A call that is
        canceled, such as the loser of a race, gives its message back. A message that does not fit ``type_hint`` is not
        received: the log names it, and a sender that asks gets the error. InvalidId for a bad name, UsageError if 256
        calls wait already.
        """
        future: Receive[Any] = Receive(loop=self._journal.loop)
        return self._receive(future, channel, type_hint, timeout)

    @overload
    def messages(self, channel: Channel[T], /, *, timeout: Duration | None = None) -> Messages[T]: ...
    @overload
    def messages(self, channel: str, type_hint: type[T], /, *, timeout: Duration | None = None) -> Messages[T]: ...
    @overload
    def messages(self, channel: str, type_hint: UnionType, /, *, timeout: Duration | None = None) -> Messages[Any]: ...
    @overload
    def messages(self, channel: str, /, *, timeout: Duration | None = None) -> Messages[Any]: ...
    def messages(
        self, channel: Channel[Any] | str, type_hint: Any = Any, /, *, timeout: Duration | None = None
    ) -> Messages[Any]:
        """Every message of a channel, in order, each with its value and a way to answer it::

            async for message in ctx.messages("change", Change):
                await message.reply(apply(message.value))

        None is taken before the loop asks for it. It ends if none comes within ``timeout`` (seconds, a timedelta, or
        text such as ``"30m"``); by default it waits for ever. InvalidId for a bad name.
        """
        name, type_hint = channel_of(channel, type_hint)
        return Messages(self, name, type_hint, None if timeout is None else due_in(timeout, "timeout"))

    def _receive(
        self, future: Receive[Any], channel: Channel[Any] | str, type_hint: Any, timeout: Duration | None
    ) -> DurableFuture[Any]:
        name, type_hint = channel_of(channel, type_hint)
        due = None if timeout is None else due_in(timeout, "timeout")
        return self._ask_for(future, name, type_hint, due)

    def _ask_for(self, future: Receive[Any], name: str, type_hint: Any, due: Due | None) -> DurableFuture[Any]:
        journal = self._journal
        if not journal.loop.evicting:
            journal.check_receive()
        future.begin(self.info.incarnation, due)
        journal.call_channel(future, Kind.RECEIVE, name, type_hint, lambda number: StartReceive(number, name, due))
        return future

    @overload
    def send(self, id: str, channel: Channel[T], value: T, /) -> DurableFuture[Delivery]: ...
    @overload
    def send(self, id: str, channel: str, value: Any = None, /) -> DurableFuture[Delivery]: ...
    def send(self, id: str, channel: Channel[Any] | str, value: Any = None, /) -> DurableFuture[Delivery]:
        """Send a message to another execution, exactly once::

            await ctx.send("ledger-2026", "entry", amount)

        Awaiting it says whether the other one waited for it: ``"delivered"`` or ``"stored"``. It raises NotFound,
        Ended or MailboxFull if the message was not sent. An end of this workflow waits until it was sent, or refused.
        Messages to another partition that are not awaited may change places. InvalidId for a bad id or name,
        NotSerializable or PayloadTooLarge for a bad value, UsageError if it does not fit its channel.
        """
        name, type_hint = channel_of(channel)
        target = check_id(id)
        codec = self._codec

        def make(number: Number) -> SendMessage:
            return SendMessage(number, name, target, encode_message(codec, name, type_hint, value))

        future: DurableFuture[Delivery] = DurableFuture(loop=self._journal.loop)
        self._journal.call_channel(future, Kind.SEND, name, None, make)
        return future

    def settle(self, id: str, value: object = None, /, *, error: BaseException | None = None) -> DurableFuture[bool]:
        """Resolve a promise of anybody with ``value``, by its id, or reject it with ``error``, exactly once::

            await ctx.settle(approval_id, {"ok": True})

        Awaiting it says whether this call has settled it: false if it had settled before, in another way. It raises
        NotFound if there is none, NotAllowed for anything but a promise. An end of this workflow waits for it.
        """
        future: DurableFuture[bool] = DurableFuture(loop=self._journal.loop)
        return self._settle(future, check_id(id), value, error)

    def _settle(
        self,
        future: DurableFuture[bool],
        target: PromiseId,
        value: object,
        error: BaseException | None,
        what: str = "",
    ) -> DurableFuture[bool]:
        codec = self._codec

        def make(number: Number) -> SettlePromise:
            if error is not None:
                return SettlePromise(number, target, State.REJECTED, codec.encode_error(error))
            return SettlePromise(number, target, State.RESOLVED, codec.encode(value, what or f"value for {target}"))

        self._journal.call_channel(future, Kind.SETTLE, "", None, make)
        return future


class _Unheard:
    """Nobody hears how this settles."""

    def deliver(self, entry: Entry) -> None:
        """Nothing."""


_UNHEARD = _Unheard()


class Receive(DurableFuture[T]):
    """A receive. What does not fit its type is not received: a sender that asks gets the error as entry n.1, and the
    next message is asked for as the next such entry. A journal that has that entry says that the message was refused,
    whatever fits today's code.
    """

    __slots__ = ("_current", "_due", "_incarnation", "_refusals")
    _current: Number
    """The entry it waits for now; empty for the first one."""
    _due: Due | None
    _incarnation: int
    _refusals: CallNumbers | None

    def begin(self, incarnation: int, due: Due | None) -> None:
        """It is going to be asked for, with this timeout."""
        self._current = Number("")
        self._refusals = None
        self._due = due
        self._incarnation = incarnation

    def deliver(self, entry: Entry) -> None:
        """Complete, or ask for the next message."""
        journal = self._journal
        is_message = entry.state is State.RESOLVED and not self.done()
        if is_message and journal is not None and journal.knows(self._upcoming):
            self._refuse(journal, entry, UsageError("it was refused before"))
        else:
            super().deliver(entry)

    @property
    def _upcoming(self) -> Number:
        """The next entry that a refusal makes."""
        return Number(f"{self.number}.1") if self._refusals is None else self._refusals.upcoming

    def _take_back(self, journal: Journal) -> None:
        journal.cancel(self._current or self.number, self._kind, self._name)

    def _refuse(self, journal: Journal, entry: Entry, misfit: Exception) -> None:
        name, codec = self._name, journal.codec
        text = f"channel {name!r} of {journal.owner} takes no such message: {misfit}"
        if self._refusals is None:
            self._refusals = CallNumbers(f"{self.number}.")
        number = self._refusals.next()
        if not journal.knows(number) and not journal.loop.is_shadow:
            logger.warning("%s: it was not received", text)
        if reply_id := PromiseId(entry.child_id):
            journal.ask_channel(
                number,
                Kind.SETTLE,
                "",
                _UNHEARD,
                lambda number: SettlePromise(number, reply_id, State.REJECTED, codec.encode_error(UsageError(text))),
            )
            number = self._refusals.next()
        if not self._current and self._due is not None and self._due != "+0":
            began_ms = self._incarnation + (entry.begun_ms or LATEST_MS)
            self._due = Due(f"={began_ms + int(self._due)}")  # as it was asked for first, and never earlier
        due, self._current = self._due, number
        journal.ask_channel(number, Kind.RECEIVE, name, self, lambda number: StartReceive(number, name, due))


class Message(Generic[T]):
    """One message of a channel."""

    __slots__ = ("_calls", "_reply_id", "value")

    def __init__(self, calls: ChannelCalls, value: T, reply_id: str) -> None:
        self._calls = calls
        self._reply_id = reply_id
        self.value: T = value
        """Its value."""

    def __repr__(self) -> str:
        return f"Message({self.value!r})"

    @property
    def wants_reply(self) -> bool:
        """Whether its sender waits for an answer, see ``app.ask``."""
        return bool(self._reply_id)

    def reply(self, value: object = None, /, *, error: BaseException | None = None) -> asyncio.Future[bool]:
        """Answer it with ``value``, which ``app.ask`` returns, or with ``error``, which it raises; once.

        Awaiting it says whether anybody has heard the answer. It never raises for a sender that has gone, or has not
        asked for an answer.
        """
        journal = self._calls._journal
        if not self._reply_id:
            unheard: WorkflowFuture[bool] = WorkflowFuture(loop=journal.loop)
            unheard.serial = journal.loop.call_numbers().next_serial()
            unheard.set_result(False)
            return unheard
        answer = Answer(loop=journal.loop)
        self._calls._settle(answer, PromiseId(self._reply_id), value, error, "the reply to a message")
        return answer


class Answer(DurableFuture[bool]):
    """The settlement of a sender's promise."""

    __slots__ = ()

    def deliver(self, entry: Entry) -> None:
        """Complete with whether that was done; a promise that is gone is nobody's error."""
        if entry.state is State.REJECTED and not self.done():
            self.set_result(False)
        else:
            super().deliver(entry)


class Messages(Generic[T]):
    """The messages of a channel, one after another, see ``ctx.messages``. It is no generator: that would take a number
    of the journal, and read ahead.
    """

    __slots__ = ("_calls", "_due", "_name", "_type_hint")

    def __init__(self, calls: ChannelCalls, name: str, type_hint: Any, due: Due | None) -> None:
        self._calls = calls
        self._name = name
        self._type_hint = type_hint
        self._due = due

    def __aiter__(self) -> Messages[T]:
        return self

    def __anext__(self) -> Awaitable[Message[T]]:
        future: NextMessage[T] = NextMessage(loop=self._calls._journal.loop)
        future.calls = self._calls
        self._calls._ask_for(future, self._name, self._type_hint, self._due)
        return future


class NextMessage(Receive[Message[T]]):
    """A receive whose result is the message itself."""

    __slots__ = ("calls", "reply_id")

    calls: ChannelCalls
    reply_id: str

    def deliver(self, entry: Entry) -> None:
        """Complete with the message."""
        self.reply_id = entry.child_id
        super().deliver(entry)

    def set_result(self, result: Any, /) -> None:
        """The value has come."""
        super().set_result(Message(self.calls, result, self.reply_id))

    def set_exception(self, exception: type | BaseException, /) -> None:
        """None has come in time: that ends the loop over them."""
        super().set_exception(StopAsyncIteration() if isinstance(exception, TimedOut) else exception)
