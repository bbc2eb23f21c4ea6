"""The threads of a worker's own loop: what is lost of them, and who does its work instead."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from durasleep.worker.execution.loop_threads import LoopCall, LoopThreads
from tests.service.workers import ended

LONG_S = 20.0


class Stands:
    """Threads, calls that stand in them, and what they tell."""

    def __init__(self, calls_max: int, lost_max: int) -> None:
        self.lost: list[LoopCall] = []
        self.back: list[LoopCall] = []
        self.order: list[str] = []
        self.threads = LoopThreads(calls_max, lost_max, on_lost=self.lost.append, on_back=self.back.append)
        self._gates: list[threading.Event] = []

    def stand(self, name: str = "standing") -> tuple[LoopCall, threading.Event]:
        """A call that has begun, and what lets it go."""
        call, gate, has_begun = self.submit(name)
        assert has_begun.wait(LONG_S), f"{name} has not begun"
        return call, gate

    def submit(self, name: str) -> tuple[LoopCall, threading.Event, threading.Event]:
        gate, has_begun = threading.Event(), threading.Event()
        self._gates.append(gate)

        def standing() -> str:
            self.order.append(name)
            has_begun.set()
            gate.wait(LONG_S)
            return name

        return self.threads.submit(standing), gate, has_begun

    def end(self) -> None:
        for gate in self._gates:
            gate.set()
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
    with pytest.raises(ValueError, match="invalid literal"):
        threads.submit(int, "x").result(LONG_S)
    assert threads.submit(lambda: threading.current_thread().name).result(LONG_S).startswith("durasleep-loop")
    assert (stands.lost, stands.back) == ([], [])


def test_beyond_so_many_they_wait_their_turn_the_oldest_first(make: Make) -> None:
    stands = make(2, 0)
    (first, open_first), (second, open_second) = stands.stand("a"), stands.stand("b")
    later = [stands.submit(name) for name in ("c", "d")]
    assert not any(begun.is_set() for _, _, begun in later)
    open_first.set()
    assert later[0][2].wait(LONG_S)
    assert first.result(LONG_S) == "a"
    assert not later[1][2].is_set()
    open_second.set()
    assert later[1][2].wait(LONG_S)
    assert stands.order == ["a", "b", "c", "d"]
    assert second.result(LONG_S) == "b"


def test_one_that_is_given_up_is_lost_and_another_thread_does_its_work(make: Make) -> None:
    stands = make(1, 1)
    call, gate = stands.stand()
    waiting = stands.submit("waiting")
    assert not call.cancel(), "it has begun"
    assert not call.cancel()
    assert (stands.lost, stands.back, call.is_lost) == ([call], [], True)
    assert waiting[2].wait(LONG_S)
    last = stands.submit("last")
    gate.set()
    assert call.result(LONG_S) == "standing"
    assert stands.back == [call]
    assert not last[2].wait(0.05), "there is one place, which is taken"
    waiting[1].set()
    assert last[2].wait(LONG_S)


def test_beyond_so_many_lost_ones_each_takes_a_place(make: Make) -> None:
    stands = make(1, 1)
    lost = [stands.stand("one")]
    lost[0][0].cancel()
    lost.append(stands.stand("two"))
    lost[1][0].cancel()
    assert len(stands.lost) == 2
    waiting = stands.submit("waiting")
    lost[0][1].set()
    assert lost[0][0].result(LONG_S) == "one"
    assert not waiting[2].wait(0.05), "it had no place to give on"
    lost[1][1].set()
    assert waiting[2].wait(LONG_S)
    assert stands.back == [lost[0][0], lost[1][0]]


def test_one_that_has_returned_cannot_be_lost(make: Make) -> None:
    stands = make(1, 1)
    call, gate = stands.stand()
    gate.set()
    call.result(LONG_S)
    call.cancel()
    assert (stands.lost, call.is_lost) == ([], False)


def test_one_that_is_given_up_before_its_turn_holds_up_nobody(make: Make) -> None:
    stands = make(1, 1)
    _, gate = stands.stand()
    given_up, last = stands.submit("given up"), stands.submit("last")
    assert given_up[0].cancel()
    gate.set()
    assert last[2].wait(LONG_S)
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
    lost, open_lost = stands.stand("lost")
    lost.cancel()
    call, gate = stands.stand("call")
    waiting = stands.submit("waiting")
    waiting[1].set()
    timer = threading.Timer(0.05, gate.set)
    timer.start()
    stands.threads.shutdown()
    assert (call.done(), waiting[0].done(), lost.done()) == (True, True, False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        stands.threads.submit(int)
    timer.join()
    open_lost.set()
    assert ended([thread for thread in threading.enumerate() if thread.name.startswith("durasleep-loop")])


def test_it_may_end_without_waiting_and_without_those_whose_turn_it_is_not(make: Make) -> None:
    stands = make(1, 1)
    call, _ = stands.stand()
    waiting = stands.submit("waiting")
    stands.threads.shutdown(wait=False)
    assert not waiting[0].cancelled()
    stands.threads.shutdown(wait=False, cancel_futures=True)
    assert waiting[0].cancelled()
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


def test_those_behind_it_have_it_too_or_their_turn(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stands = make(1, 1)
    call, gate = stands.stand()
    waiting: list[Future[Any]] = [stands.threads.submit(int, str(number)) for number in range(2)]

    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(ThreadPoolExecutor, "submit", refuse)
        gate.set()
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
