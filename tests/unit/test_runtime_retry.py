"""Retries: when a failed attempt gets another one, and the entries of a step's attempts in the journal."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from enum import Enum
from typing import Any
from urllib.error import URLError

import pydantic
import pytest

from durasleep.codec.exceptions import error_line
from durasleep.errors import Canceled, NotSerializable, RemoteError, UsageError
from durasleep.model import Entry, Kind, Number, State
from durasleep.runtime.context import Context
from durasleep.runtime.definition import Registry
from durasleep.runtime.journal import StepCall
from durasleep.runtime.retry import Retry, RetryAfter
from tests.unit.runtime_world import CODEC, CREATED_MS, World, unwrap


class DeclinedError(Exception):
    pass


def test_it_gives_up_after_its_attempts() -> None:
    retry = Retry(attempts=3)
    assert [retry.wants(OSError(), attempt) for attempt in (1, 2, 3)] == [True, True, False]


def test_what_to_give_up_on_wins_over_what_to_retry_on() -> None:
    retry = Retry(retry_on=(OSError, "DeclinedError"), give_up_on=(FileNotFoundError, "elsewhere.Final"))
    assert retry.wants(ConnectionError(), 1)
    assert not retry.wants(FileNotFoundError(), 1)
    assert not retry.wants(ValueError(), 1)
    assert retry.wants(DeclinedError(), 1)
    assert retry.wants(RemoteError("billing.errors.DeclinedError", "of another process"), 1)
    assert not Retry(give_up_on=("elsewhere.Final",)).wants(RemoteError("elsewhere.Final", ""), 1)


@pytest.mark.parametrize("error", [Canceled("by hand"), NotSerializable("the result")])
def test_what_another_attempt_cannot_mend_is_not_tried_again(error: Exception) -> None:
    assert not Retry().wants(error, 1)


def test_waits_grow_up_to_their_longest_and_are_spread() -> None:
    retry = Retry(attempts=1000, delay=0.5, backoff=3, delay_max=timedelta(seconds=20), jitter=0.1)
    waits_ms = [retry.delay_ms(OSError(), attempt, 0.0) for attempt in (1, 2, 3, 4, 5, 999)]
    assert waits_ms == [500, 1500, 4500, 13_500, 20_000, 20_000]
    assert retry.delay_ms(OSError(), 2, 0.999) in range(1640, 1651)


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"attempts": 5000}, {"backoff": 0.5}, {"jitter": 2}, {"delay": -1}, {"delay_max": -1}]
)
def test_a_policy_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Retry(**wrong)


class Flaky:
    """Fails the first ``failures`` calls."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise ConnectionError(f"attempt {self.calls}")
        return f"attempt {self.calls}"


def test_waits_and_attempts_are_entries_below_the_first_one() -> None:
    async def paying(ctx: Context) -> list[str]:
        return [await ctx.run(charge, retry=Retry(attempts=4, delay=5, jitter=0)), await ctx.run(Flaky(0))]

    charge = Flaky(2)
    world = World(paying)
    assert unwrap(world.play()) == ["attempt 3", "attempt 1"]
    assert world.shape() == {
        "1": (Kind.STEP, "Flaky", State.REJECTED),
        "1.1": (Kind.TIMER, "Flaky, attempt 2", State.RESOLVED),
        "1.2": (Kind.STEP, "Flaky", State.REJECTED),
        "1.3": (Kind.TIMER, "Flaky, attempt 3", State.RESOLVED),
        "1.4": (Kind.STEP, "Flaky", State.RESOLVED),
        "2": (Kind.STEP, "Flaky", State.RESOLVED),
    }
    assert world.now_ms - world.info.created_ms == 15_000


def test_a_wait_below_a_second_is_the_workers() -> None:
    async def paying(ctx: Context) -> str:
        return await ctx.run(charge, retry=Retry(attempts=3, delay=0.2, jitter=0))

    charge = Flaky(1)
    world = World(paying)
    world.activation = world.new_activation()
    first = world.activation.start([])
    assert [call.delay_s for call in first.steps] == [0.0]
    world.run_step(first.steps[0])
    [again] = world.activation.feed(world.journal.values()).steps
    assert (again.number, again.delay_s) == ("1.1", 0.2)
    world.close()


def test_the_last_error_is_the_outcome() -> None:
    async def paying(ctx: Context) -> str:
        return await ctx.run(charge, retry=Retry(attempts=2, delay=1))

    charge = Flaky(9)
    assert unwrap(World(paying).play()) == ("rejected", "ConnectionError: attempt 2")


def test_an_error_to_give_up_on_is_raised_at_once() -> None:
    async def paying(ctx: Context) -> int:
        try:
            await ctx.run(charge, retry=Retry(give_up_on=(ConnectionError,)))
        except ConnectionError:
            return charge.calls
        return 0

    charge = Flaky(9)
    world = World(paying)
    assert unwrap(world.play()) == 1


def test_a_tasks_own_retry_holds_where_it_is_a_step() -> None:
    def charge() -> str:
        return attempts()

    attempts = Flaky(1)
    Registry().task(charge, retry=Retry(attempts=2, delay=1), timeout=7)

    async def paying(ctx: Context) -> str:
        return await ctx.run(charge)

    world = World(paying)
    world.activate()
    assert (world.journal["1.1"].kind, world.journal["1.1"].state) == (Kind.TIMER, State.PENDING)  # type: ignore[index]
    assert unwrap(world.play()) == "attempt 2"


def test_taking_the_call_back_takes_back_the_wait_it_is_in() -> None:
    async def paying(ctx: Context) -> str:
        try:
            async with asyncio.timeout(3):
                return await ctx.run(Flaky(9), retry=Retry(delay=60))
        except TimeoutError:
            return "gave up"

    world = World(paying)
    assert unwrap(world.play()) == "gave up"
    assert world.journal["2.1"].state is State.CANCELED  # type: ignore[index]


def test_attempts_in_one_branch_do_not_renumber_another() -> None:
    async def paying(ctx: Context) -> list[str]:
        retry = Retry(attempts=3, delay=2)
        return list(await asyncio.gather(*(ctx.run(call, retry=retry) for call in calls)))

    for failures in (0, 2):
        calls = [Flaky(failures), Flaky(0), Flaky(1)]
        world = World(paying)
        assert unwrap(world.play())[1:] == ["attempt 1", "attempt 2"]
        assert {number for number in world.journal if number.startswith("3")} == {"3", "3.1", "3.2"}


class Throttled:
    """Asks for another attempt after a delay, this often; raised from an error, if one is given."""

    def __init__(self, times: int, delay: float | timedelta, error: Exception | None = None) -> None:
        self.times = times
        self.delay = delay
        self.error = error
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise RetryAfter(self.delay) from self.error
        return f"attempt {self.calls}"


@pytest.mark.parametrize("delay", [30, timedelta(seconds=30)], ids=repr)
def test_what_says_itself_when_to_try_again_is_tried_then(delay: float | timedelta) -> None:
    """Whatever the ``Retry`` says about delays and errors."""

    async def fetching(ctx: Context) -> str:
        return await ctx.run(fetch, retry=Retry(attempts=3, delay=5, give_up_on=(Exception,)))

    fetch = Throttled(2, delay, ConnectionError("429"))
    world = World(fetching)
    began_ms = world.now_ms
    assert unwrap(world.play()) == "attempt 3"
    assert world.now_ms - began_ms in range(60_000, 60_100)


def test_a_short_wait_it_asks_for_is_made_by_the_worker() -> None:
    async def fetching(ctx: Context) -> str:
        return await ctx.run(fetch, retry=Retry(attempts=3))

    fetch = Throttled(2, 0.25)
    world = World(fetching)
    assert unwrap(world.play()) == "attempt 3"
    assert {kind for kind, *_ in world.shape().values()} == {Kind.STEP}


@pytest.mark.parametrize("retry", [None, Retry(attempts=1), Retry(attempts=3)], ids=repr)
@pytest.mark.parametrize("error", [None, ConnectionError("429")], ids=repr)
def test_beyond_the_last_attempt_it_is_the_error_it_was_raised_from(
    retry: Retry | None, error: Exception | None
) -> None:
    async def fetching(ctx: Context) -> str:
        try:
            return await ctx.run(fetch, retry=retry)
        except (ConnectionError, RetryAfter) as found:
            return f"{type(found).__name__}: {found}"

    fetch = Throttled(9, 0.01, error)
    said = unwrap(World(fetching).play())
    assert said == ("RetryAfter: asks for another attempt in 0.01 s" if error is None else "ConnectionError: 429")
    assert fetch.calls == (retry.attempts if retry else 1)


def test_who_asks_for_another_attempt_says_because_of_what() -> None:
    busy, plain = ConnectionError("429"), RetryAfter(1)
    from_it, from_another, while_handling = RetryAfter(1), RetryAfter(2), RetryAfter(3)
    from_it.__cause__ = busy
    from_another.__cause__ = from_it
    assert error_line(plain) == "RetryAfter: asks for another attempt in 1 s"
    assert error_line(from_it) == "RetryAfter: asks for another attempt in 1 s, after ConnectionError: 429"
    assert error_line(from_another) == "RetryAfter: asks for another attempt in 2 s, after ConnectionError: 429"
    while_handling.__context__ = busy
    assert error_line(while_handling).endswith("in 3 s, after ConnectionError: 429")
    sent = CODEC.decode_error(CODEC.encode_error(from_another))
    assert isinstance(sent, RetryAfter)
    assert (sent.delay_ms, str(sent)) == (2000, str(from_another))


@pytest.mark.parametrize("wrong", [-1, "soon", float("nan")])
def test_a_delay_that_cannot_be_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError):
        RetryAfter(wrong)


class Reason(Enum):
    BUSY = "busy"


def decode_garbage() -> str:
    return b"\xff".decode()


def read_nothing() -> str:
    raise URLError(ConnectionRefusedError(111, "refused"))


def validate() -> str:
    class Order(pydantic.BaseModel):
        cents: int

    return str(Order.model_validate({"cents": "many"}))


def of_here_only() -> str:
    class Local(LookupError):
        pass

    raise Local


def of_a_kind() -> str:
    raise KeyError(Reason.BUSY)


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (decode_garbage, UnicodeDecodeError),
        (read_nothing, URLError),
        (validate, pydantic.ValidationError),
        (validate, ValueError),
        (validate, "ValidationError"),
        (of_here_only, LookupError),
        (of_here_only, "Local"),
        (of_a_kind, KeyError),
    ],
)
def test_another_attempt_is_decided_on_the_error_itself(step: Any, kind: Any) -> None:
    async def trying(ctx: Context) -> int:
        try:
            await ctx.run(step, retry=retry)
        except Exception:  # noqa: BLE001 - whatever it is here, the step knew what it was
            return len([number for number in world.journal if number.startswith("1")])
        return 0

    retry = Retry(attempts=3, delay=0, give_up_on=(kind,))
    world = World(trying)
    assert unwrap(world.play()) == 1
    retry = Retry(attempts=3, delay=0, retry_on=(kind,))
    world = World(trying)
    assert unwrap(world.play()) == 3


def test_what_was_decided_stays_so_whatever_is_deployed() -> None:
    async def trying(ctx: Context) -> str:
        try:
            return await ctx.run(charge, retry=retry)
        except ConnectionError:
            await ctx.sleep(1)
            return "gave up"

    charge = Flaky(1)
    retry = Retry(attempts=3, delay=2)
    world = World(trying)
    world.activate()
    world.close()
    retry = Retry(attempts=2, delay=2, give_up_on=(ConnectionError,))
    assert unwrap(world.play()) == "attempt 2"


def test_a_retry_that_comes_later_does_not_begin_what_has_failed() -> None:
    async def trying(ctx: Context) -> str:
        try:
            return await ctx.run(charge, retry=retry)
        except ConnectionError:
            await ctx.sleep(60)
            return "gave up"

    charge = Flaky(1)
    retry: Retry | None = None
    world = World(trying)
    world.activate()
    world.close()
    retry = Retry(attempts=3, delay=2)
    assert unwrap(world.play()) == "gave up"


def test_journals_of_before_are_decided_on_what_they_tell() -> None:
    async def trying(ctx: Context) -> str:
        return await ctx.run(charge, retry=Retry(attempts=2, delay=5, retry_on=(ConnectionError,)))

    charge = Flaky(0)
    world = World(trying)
    told = CODEC.encode_error(ConnectionError("of before"))
    world.journal[Number("1")] = Entry(Number("1"), Kind.STEP, State.REJECTED, "Flaky", CREATED_MS + 1, payload=told)
    world.order = CREATED_MS + 1
    assert unwrap(world.play()) == "attempt 1"


def test_who_only_has_the_copy_of_an_error_may_name_its_class() -> None:
    with pytest.raises(pydantic.ValidationError) as raised:
        validate()
    copy = CODEC.decode_error(CODEC.encode_error(raised.value))
    assert isinstance(copy, RemoteError)
    for kind in (pydantic.ValidationError, ValueError, "ValidationError", "ValueError", Exception):
        assert Retry(retry_on=(kind,)).wants(copy, 1)
    for kind in (TypeError, "TypeError", URLError):
        assert not Retry(retry_on=(kind,)).wants(copy, 1)


@pytest.mark.parametrize("wrong", [(int,), (3,), ValueError, [ValueError]])
def test_only_errors_and_their_names_can_be_named(wrong: Any) -> None:
    with pytest.raises(UsageError, match="names errors"):
        Retry(retry_on=wrong)


def test_all_attempts_of_a_step_are_named_by_the_number_of_the_first() -> None:
    first = StepCall(Number("1"), "charge", len, (), {}, None)
    second = StepCall(Number("1.2"), "charge", len, (), {}, None, attempt=2, first=Number("1"))
    assert first.shown_of("order-7") == "step 1 (charge) of order-7"
    assert second.shown_of("order-7") == "step 1 (charge), attempt 2, of order-7"
