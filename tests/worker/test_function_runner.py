"""Functions of users: called on the loop or in a thread, after a while, within their time; none ends the worker."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from durasleep import Retry, current
from durasleep.codec import Codec
from durasleep.model import Kind, Number, PromiseId, State
from durasleep.protocol.journal import PromiseRecord
from durasleep.runtime.current import Current
from durasleep.runtime.journal import StepCall
from durasleep.runtime.waits import inside
from durasleep.worker.execution.function_runner import FunctionRunner, as_exception, note_stopped
from durasleep.worker.execution.threads import NotBegun, Threads
from tests.worker.standing import Standing

CODEC = Codec()


class Runner:
    """A function runner with threads of its own, and a way to call by it."""

    def __init__(self, threads_max: int = 1, overrides: Mapping[Any, Any] | None = None) -> None:
        self.threads = Threads(threads_max, lost_max_s=60.0, on_back=lambda: None, on_used_up=lambda: None)
        self.code = FunctionRunner(self.threads, CODEC, overrides or {})
        self.about: list[float | None] = []

    def start(self, fn: Callable[..., Any], *args: Any, **options: Any) -> asyncio.Task[Any]:
        kwargs = options.pop("kwargs", {})
        return self.code.start(fn, args, kwargs, about=self._note, name="durasleep:a", **options)

    def _note(self, *, ends_at: float | None = None) -> Current:
        self.about.append(ends_at)
        return Current("a", None, "fn", "workers", 1, None, "a:7")


@pytest.fixture
async def runner() -> Any:
    """With one thread."""
    runner = Runner()
    yield runner
    runner.threads.close()


def record_of(*, deadline_ms: int = 0) -> PromiseRecord:
    """An execution that is alive."""
    return PromiseRecord(
        id=PromiseId("a"),
        kind=Kind.EXECUTION,
        incarnation=7,
        created_ms=7,
        begun_ms=7,
        queue="workers/w1",
        deadline_ms=deadline_ms,
    )


# -- where


async def test_an_async_function_runs_on_the_loop(runner: Runner) -> None:
    async def work(number: int, *, word: str) -> tuple[int, str, int]:
        return number, word, threading.get_ident()

    task = runner.start(work, 1, kwargs={"word": "x"})
    assert task.get_name() == "durasleep:a"
    assert await task == (1, "x", threading.get_ident())


async def test_a_sync_function_runs_in_a_thread(runner: Runner) -> None:
    def work(number: int, *, word: str) -> tuple[int, str, int]:
        return number, word, threading.get_ident()

    number, word, thread = await runner.start(work, 1, kwargs={"word": "x"})
    assert (number, word) == (1, "x")
    assert thread != threading.get_ident()


async def test_what_a_sync_function_returns_may_be_awaited(runner: Runner) -> None:
    """It is, on the loop."""

    async def later() -> int:
        return threading.get_ident()

    def work() -> Any:
        return later()

    assert await runner.start(work) == threading.get_ident()


class Unhashable:
    """An object that is called, and has no hash."""

    __hash__ = None  # type: ignore[assignment]

    async def __call__(self) -> str:
        return "called"

    def __eq__(self, other: object) -> bool:
        return self is other


async def test_what_is_async_needs_no_thread(runner: Runner) -> None:
    async def work(number: int) -> tuple[int, int]:
        return number, threading.get_ident()

    class Worker:
        async def work(self) -> int:
            return threading.get_ident()

    await runner.threads.take()  # there is no thread for it
    assert await runner.start(work, 2) == (2, threading.get_ident())
    assert await runner.start(functools.partial(work, 3)) == (3, threading.get_ident())
    assert await runner.start(Worker().work) == threading.get_ident()


async def test_a_test_may_put_another_in_its_place() -> None:
    def real() -> str:
        raise AssertionError

    async def instead() -> str:
        return "instead"

    runner = Runner(overrides={real: instead})
    assert await runner.start(real) == "instead"
    assert await runner.start(len, "ab") == 2
    assert await runner.start(Unhashable()) == "called", "what has no hash has nothing in its place"
    runner.threads.close()


@pytest.mark.parametrize("kind", ["async", "later", "sync"])
async def test_it_knows_whose_call_it_is(runner: Runner, kind: str) -> None:
    """Wherever it runs."""

    async def on_loop() -> Any:
        return inside(), current().id

    def in_thread() -> Any:
        return inside(), current().id

    fn = in_thread if kind == "sync" else on_loop
    (waits, name, *_), id = await runner.start(fn, **({"delay_s": 0.001} if kind == "later" else {}))
    assert waits is runner.code.waits
    assert (name, id) == ("durasleep:a", "a")
    assert runner.about == [None]
    assert inside() is None


# -- how long


@pytest.mark.parametrize("is_sync", [False, True])
async def test_one_that_takes_longer_than_it_may_is_told_so(runner: Runner, is_sync: bool) -> None:
    standing = Standing()

    async def slow_on_loop() -> None:
        current()
        await asyncio.Event().wait()

    def slow() -> None:
        current()
        standing()

    before = time.time()
    with pytest.raises(TimeoutError, match=r"\.slow\w* took longer than 0\.03 s$") as caught:
        await runner.start(slow if is_sync else slow_on_loop, timeout_s=0.03)
    assert isinstance(caught.value.__cause__, TimeoutError)
    [ends_at] = runner.about
    assert ends_at is not None
    assert before + 0.03 <= ends_at <= time.time() + 0.03
    standing.let_go()


@pytest.mark.parametrize("is_sync", [False, True])
async def test_one_that_is_in_time_has_its_result_and_its_own_timeouts(runner: Runner, is_sync: bool) -> None:
    async def on_loop(error: str) -> str:
        return in_thread(error)

    def in_thread(error: str) -> str:
        if error:
            raise TimeoutError(error)
        return "in time"

    fn = in_thread if is_sync else on_loop
    assert await runner.start(fn, "", timeout_s=60.0) == "in time"
    with pytest.raises(TimeoutError, match=r"^its own$"):
        await runner.start(fn, "its own", timeout_s=60.0)


async def test_its_time_begins_with_its_thread(runner: Runner) -> None:
    standing = Standing()
    before = runner.start(standing)
    await standing.begun()
    task = runner.start(lambda: "in time", timeout_s=0.05)
    done, _ = await asyncio.wait([task], timeout=0.1)
    assert not done
    standing.let_go()
    assert await asyncio.gather(before, task) == ["standing", "in time"]


@pytest.mark.parametrize("timeout_s", [None, 60.0])
@pytest.mark.parametrize("is_sync", [False, True])
async def test_it_begins_after_a_while(runner: Runner, is_sync: bool, timeout_s: float | None) -> None:
    async def on_loop() -> float:
        return time.monotonic()

    before = time.monotonic()
    began = await runner.start(time.monotonic if is_sync else on_loop, delay_s=0.03, timeout_s=timeout_s)
    assert began - before >= 0.029


async def test_what_waits_here_is_not_counted_as_its_time(runner: Runner) -> None:
    async def work() -> str:
        return "in time"

    assert await runner.start(work, delay_s=0.05, timeout_s=0.04) == "in time"
    assert await runner.start(lambda: "in time", delay_s=0.05, timeout_s=0.04) == "in time"


# -- leaving


@pytest.mark.parametrize("kind", ["async", "sync", "no thread"])
async def test_what_waits_as_the_worker_leaves_does_not_begin(runner: Runner, kind: str) -> None:
    called: list[int] = []

    async def work() -> None:
        called.append(1)

    if kind == "no thread":
        await runner.threads.take()
        task = runner.start(lambda: called.append(1))
    else:
        task = runner.start(work if kind == "async" else lambda: called.append(1), delay_s=0.02)
    await asyncio.sleep(0)
    assert not runner.code.is_leaving
    runner.code.leave()
    assert runner.code.is_leaving
    with pytest.raises(NotBegun):
        await task
    assert called == []


async def test_what_has_begun_as_the_worker_leaves_goes_on(runner: Runner) -> None:
    may_end = asyncio.Event()

    async def work() -> str:
        await may_end.wait()
        return "to its end"

    task = runner.start(work, timeout_s=60.0)
    await asyncio.sleep(0)
    runner.code.leave()
    may_end.set()
    assert await task == "to its end"


# -- what it raises


@pytest.mark.parametrize("is_sync", [False, True])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
async def test_what_would_end_the_worker_is_an_error_like_others(
    runner: Runner, kind: type[BaseException], is_sync: bool
) -> None:
    async def on_loop() -> None:
        raise kind(3)

    def in_thread() -> None:
        raise kind(3)

    with pytest.raises(RuntimeError, match=rf"^{kind.__name__} in user code: 3$") as caught:
        await runner.start(in_thread if is_sync else on_loop)
    assert isinstance(caught.value.__cause__, kind)


def test_what_is_no_exception_is_told_as_one() -> None:
    error = ValueError("no")
    assert as_exception(error, "fn") is error
    other = as_exception(asyncio.CancelledError("by itself"), "fn")
    assert repr(other) == "RuntimeError('CancelledError in fn: by itself')"


async def test_of_a_call_that_was_stopped_only_what_went_wrong_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def work(error: BaseException | None) -> None:
        if error is not None:
            raise error

    for error in (None, asyncio.CancelledError(), OSError("the cleanup failed")):
        task = asyncio.create_task(work(error))
        await asyncio.gather(task, return_exceptions=True)
        note_stopped(task, "step 1 of a")
    assert caplog.messages == ["step 1 of a was stopped, and failed as it ended: OSError: the cleanup failed"]


# -- steps


def step(fn: Callable[..., Any], *args: Any, number: str = "3", **other: Any) -> StepCall:
    return StepCall(Number(number), "a step", fn, args, other.pop("kwargs", {}), other.pop("timeout_s", None), **other)


async def test_a_step_knows_what_it_is(runner: Runner) -> None:
    """All its attempts have the number of the first; its time is its own or that of its execution."""

    async def asking(word: str, *, twice: bool) -> tuple[Current, str, str, bool]:
        call = inside()
        assert call is not None
        return current(), call[1], word, twice

    of = record_of()
    now, name, *given = await runner.code.start_step(step(asking, "x", kwargs={"twice": True}), of)
    assert (now.id, now.step, now.function, now.group, now.attempt) == ("a", "3", "a step", "workers", 1)
    assert (now.deadline, now.idempotency_key) == (None, "a:7:3")
    assert (name, given) == ("durasleep:a~3", ["x", True])

    again = step(asking, "x", kwargs={"twice": False}, number="3.2", first=Number("3"), attempt=2, timeout_s=3600.0)
    now, name, *_ = await runner.code.start_step(again, of)
    assert (now.step, now.attempt, now.idempotency_key, name) == ("3", 2, "a:7:3", "durasleep:a~3.2")
    assert now.deadline is not None
    assert 3500 < (now.deadline - datetime.now(UTC)).total_seconds() <= 3600

    now, *_ = await runner.code.start_step(again, record_of(deadline_ms=1000))
    assert now.deadline == datetime.fromtimestamp(1, UTC)


async def test_a_step_waits_before_it_is_tried_again(runner: Runner) -> None:
    async def work() -> float:
        return time.monotonic()

    before = time.monotonic()
    assert await runner.code.start_step(step(work, delay_s=0.03), record_of()) - before >= 0.029


async def test_its_result_is_journaled(runner: Runner, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> list[int]:
        return [1, 2]

    call = step(work)
    task = runner.code.start_step(call, record_of())
    await task
    result = runner.code.result_of(call, task, "a", 7000)
    assert (result.number, result.name, result.state, result.begun_ms) == ("3", "a step", State.RESOLVED, 7000)
    assert CODEC.decode(result.payload) == [1, 2]
    assert caplog.messages == []


async def failed(runner: Runner, error: BaseException, **other: Any) -> bytes:
    """What is journaled of a step that raises this."""

    async def work() -> None:
        raise error

    call = step(work, **other)
    task = runner.code.start_step(call, record_of())
    await asyncio.wait([task])
    result = runner.code.result_of(call, task, "a", 7000)
    assert (result.number, result.name, result.state, result.begun_ms) == ("3", "a step", State.REJECTED, 7000)
    return result.payload


async def test_its_error_is_journaled_and_told(runner: Runner, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "durasleep")
    assert repr(CODEC.decode_error(await failed(runner, ValueError("no")))) == "ValueError('no')"
    assert caplog.messages == ["step 3 (a step) of a failed: ValueError: no"]
    canceled = await failed(runner, asyncio.CancelledError("by itself"))
    assert str(CODEC.decode_error(canceled)) == "CancelledError in step a step: by itself"


async def test_a_result_that_cannot_be_kept_is_an_error(runner: Runner) -> None:
    async def work() -> object:
        return object()

    call = step(work)
    task = runner.code.start_step(call, record_of())
    await task
    result = runner.code.result_of(call, task, "a", 7000)
    assert result.state is State.REJECTED
    assert "the result of a step" in str(CODEC.decode_error(result.payload))


async def test_whether_another_attempt_follows_is_decided_on_the_error_itself(runner: Runner) -> None:
    retry = Retry(attempts=3, delay=0, retry_on=(asyncio.CancelledError,))
    for error, attempt, is_retried in (
        (asyncio.CancelledError(), 2, True),
        (asyncio.CancelledError(), 3, False),
        (ValueError(), 2, False),
    ):
        payload = await failed(runner, error, retry=retry, attempt=attempt)
        assert CODEC.was_retried(payload) is is_retried
    assert CODEC.was_retried(await failed(runner, ValueError())) is False, "whatever is deployed later"
