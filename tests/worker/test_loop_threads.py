"""The threads of a worker's own loop: what is lost of them, and who does its work instead."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from durasleep.worker.execution.loop_threads import LoopCall, LoopThreads
from tests.service.workers import ended
from tests.worker.standing import Standing

LONG_S = 20.0


class Stands:
    """Threads, calls that stand in them, and what they tell."""

    def __init__(self, calls_max: int, lost_max: int) -> None:
        self.lost: list[LoopCall] = []
        self.back: list[LoopCall] = []
        self.order: list[str] = []
        self.threads = LoopThreads(calls_max, lost_max, on_lost=self.lost.append, on_back=self.back.append)
        self._standing: list[Standing] = []

    def stand(self, name: str = "standing") -> tuple[LoopCall, Standing]:
        """A call that has begun, and what lets it go."""
        call, standing = self.submit(name)
        assert standing.has_begun.wait(LONG_S), f"{name} has not begun"
        return call, standing

    def submit(self, name: str) -> tuple[LoopCall, Standing]:
        standing = Standing(name)
        self._standing.append(standing)

        def stand() -> str:
            self.order.append(name)
            return standing()

        return self.threads.submit(stand), standing

    def waiting(self) -> list[LoopCall]:
        """Those whose turn it is not; who has one may not have begun yet."""
        return list(self.threads._turns)  # pyright: ignore[reportPrivateUsage]

    def end(self) -> None:
        for standing in self._standing:
            standing.let_go()
        self.threads.shutdown()


@pytest.fixture
def make() -> Iterator[Callable[[int, int], Stands]]:
    made: list[Stands] = []

    def make(calls_max: int, lost_max: int) -> Stands:
        made.append(Stands(calls_max, lost_max))
        return made[-1]

    yield make
    for stands in made:
        stands.end()


Make = Callable[[int, int], Stands]


def test_a_call_has_its_result_or_its_error(make: Make) -> None:
    stands = make(1, 1)
    threads = stands.threads
    assert threads.submit(int, "11", base=2).result(LONG_S) == 3
    assert threads.submit(int, "3").result(LONG_S) == 3
    assert threads.submit(dict, three=3).result(LONG_S) == {"three": 3}
    with pytest.raises(ValueError, match="invalid literal"):
        threads.submit(int, "x").result(LONG_S)
    assert threads.submit(lambda: threading.current_thread().name).result(LONG_S).startswith("durasleep-loop")
    assert (stands.lost, stands.back) == ([], [])


def test_one_that_has_failed_is_gone_with_its_last_reference(make: Make) -> None:
    """The traceback of its error does not hold it until the garbage is collected."""
    threads = make(1, 1).threads
    gc.disable()
    try:
        call = threads.submit(int, "x")
        assert isinstance(call.exception(LONG_S), ValueError)
        threads.shutdown()
        assert ended([thread for thread in threading.enumerate() if thread.name.startswith("durasleep-loop")])
        left = weakref.ref(call)
        del call
        assert left() is None
    finally:
        gc.enable()


def test_beyond_so_many_they_wait_their_turn_the_oldest_first(make: Make) -> None:
    stands = make(2, 0)
    (first, first_stands), (second, second_stands) = stands.stand("a"), stands.stand("b")
    (third, third_stands), (fourth, fourth_stands) = stands.submit("c"), stands.submit("d")
    assert stands.waiting() == [third, fourth]
    first_stands.let_go()
    assert third_stands.has_begun.wait(LONG_S)
    assert first.result(LONG_S) == "a"
    assert stands.waiting() == [fourth]
    second_stands.let_go()
    assert fourth_stands.has_begun.wait(LONG_S)
    assert stands.order == ["a", "b", "c", "d"]
    assert second.result(LONG_S) == "b"


def test_one_that_is_given_up_is_lost_and_another_thread_does_its_work(make: Make) -> None:
    stands = make(1, 1)
    call, standing = stands.stand()
    _, next_stands = stands.submit("next")
    assert not call.cancel(), "it has begun"
    assert not call.cancel()
    assert (stands.lost, stands.back, call.is_lost) == ([call], [], True)
    assert next_stands.has_begun.wait(LONG_S)
    last, last_stands = stands.submit("last")
    standing.let_go()
    assert call.result(LONG_S) == "standing"
    assert stands.back == [call]
    assert stands.waiting() == [last], "there is one place, which is taken"
    next_stands.let_go()
    assert last_stands.has_begun.wait(LONG_S)


def test_beyond_so_many_lost_ones_each_takes_a_place(make: Make) -> None:
    stands = make(1, 1)
    first, first_stands = stands.stand("one")
    first.cancel()
    second, second_stands = stands.stand("two")
    second.cancel()
    assert stands.lost == [first, second]
    last, last_stands = stands.submit("last")
    first_stands.let_go()
    assert first.result(LONG_S) == "one"
    assert stands.waiting() == [last], "it had no place to give on"
    second_stands.let_go()
    assert last_stands.has_begun.wait(LONG_S)
    assert stands.back == [first, second]


def test_one_that_has_returned_leaves_room_for_another_lost_one(make: Make) -> None:
    stands = make(1, 1)
    for name in ("one", "two"):
        call, standing = stands.stand(name)
        call.cancel()
        standing.let_go()
        assert call.result(LONG_S) == name
    call, _ = stands.stand("three")
    call.cancel()
    stands.stand("four")
    assert len(stands.lost) == 3


def test_one_that_has_returned_cannot_be_lost(make: Make) -> None:
    stands = make(1, 1)
    call, standing = stands.stand()
    standing.let_go()
    call.result(LONG_S)
    call.cancel()
    assert (stands.lost, call.is_lost) == ([], False)


def test_one_that_is_given_up_before_its_turn_holds_up_nobody(make: Make) -> None:
    stands = make(1, 1)
    _, standing = stands.stand()
    (given_up, _), (_, last_stands) = stands.submit("given up"), stands.submit("last")
    assert given_up.cancel()
    standing.let_go()
    assert last_stands.has_begun.wait(LONG_S)
    assert stands.order == ["standing", "last"]
    assert stands.lost == []


def test_what_is_given_up_as_the_worker_leaves_is_not_lost(make: Make) -> None:
    stands = make(1, 1)
    call, _ = stands.stand()
    stands.threads.leave()
    assert not call.cancel()
    assert (stands.lost, call.is_lost) == ([], False)


# -- the end


def test_at_the_end_what_runs_or_waits_is_waited_for_but_not_what_is_lost(make: Make) -> None:
    stands = make(1, 1)
    lost, lost_stands = stands.stand("lost")
    lost.cancel()
    call, standing = stands.stand("call")
    waiting, waiting_stands = stands.submit("waiting")
    waiting_stands.let_go()
    timer = threading.Timer(0.05, standing.let_go)
    timer.start()
    stands.threads.shutdown()
    assert (call.done(), waiting.done(), lost.done()) == (True, True, False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        stands.threads.submit(int)
    timer.join()
    lost_stands.let_go()
    assert ended([thread for thread in threading.enumerate() if thread.name.startswith("durasleep-loop")])


def test_at_the_end_a_lost_one_that_takes_a_place_is_not_waited_for_either(make: Make) -> None:
    stands = make(1, 0)
    lost, _ = stands.stand("lost")
    lost.cancel()
    stands.threads.shutdown()
    assert not lost.done()


def test_it_may_end_without_waiting_and_without_those_whose_turn_it_is_not(make: Make) -> None:
    stands = make(1, 1)
    call, _ = stands.stand()
    waiting, _ = stands.submit("waiting")
    stands.threads.shutdown(wait=False)
    assert not waiting.cancelled()
    stands.threads.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    assert not call.done()


def test_where_no_thread_can_be_started_the_call_has_the_error(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And no other thread begins it later, though the pool still has it."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    stands = make(1, 1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            stands.submit("never")[0].result(LONG_S)
    assert stands.threads.submit(int, "1").result(LONG_S) == 1, "its place is free again"
    assert stands.order == []
    assert caplog.text == ""


def test_what_another_thread_has_begun_runs_there(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that can start no thread has put it where an older thread of it finds it."""
    stands, starts = make(1, 1), ThreadPoolExecutor.submit

    def find_it_before_that(pool: ThreadPoolExecutor, work: Callable[..., None], *args: Any) -> None:
        starts(pool, work, *args)
        [standing] = stands._standing  # pyright: ignore[reportPrivateUsage]
        assert standing.has_begun.wait(LONG_S)
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(ThreadPoolExecutor, "submit", find_it_before_that)
        call, standing = stands.stand()
    last, _ = stands.submit("last")
    assert stands.waiting() == [last], "it has its place"
    standing.let_go()
    assert call.result(LONG_S) == "standing"


def test_those_behind_it_have_it_too_or_their_turn(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stands = make(1, 1)
    call, standing = stands.stand()
    waiting: list[Future[Any]] = [stands.threads.submit(int, str(number)) for number in range(2)]

    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(ThreadPoolExecutor, "submit", refuse)
        standing.let_go()
        for one in waiting:
            with pytest.raises(RuntimeError, match="can't start new thread"):
                one.result(LONG_S)
    assert call.result(LONG_S) == "standing"


# -- names


def work() -> None: ...


class Called:
    def __call__(self) -> None: ...


async def test_a_call_has_the_name_of_its_function(make: Make) -> None:
    threads = make(1, 1).threads
    named = {
        threads.submit(work).name,
        threads.submit(functools.partial(work)).name,
        threads.submit(functools.partial(functools.partial(work))).name,
    }
    assert named == {"work"}
    assert threads.submit(Called()).name == "Called"
    assert threads.submit(functools.partial(int, "1")).name == "int"
    assert threads.submit(functools.partial(contextvars.copy_context().run)).name == "Context.run"
    seen: list[str] = []

    class Noting(LoopThreads):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> LoopCall:
            call = super().submit(fn, *args, **kwargs)
            seen.append(call.name)
            return call

    noting = Noting(1, 1, on_lost=lambda _: None, on_back=lambda _: None)
    asyncio.get_running_loop().set_default_executor(noting)
    await asyncio.to_thread(work)
    assert seen == ["work"]
