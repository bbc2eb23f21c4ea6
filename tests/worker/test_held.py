"""What a worker knows of an execution that it holds: which settlements it has heard of."""

from __future__ import annotations

from durasleep.model import Entry, Kind, Number, PromiseId, State
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import F
from durasleep.worker.execution.held import HeldExecution
from tests.worker.hand import Hand


async def test_whatever_has_settled_while_it_is_loaded_is_looked_at(hand: Hand) -> None:
    await hand.executor.submit(await hand.read("a", "b"))
    first, second = hand.executor._running.values()  # pyright: ignore[reportPrivateUsage]
    hand.executor.on_beat(hand.beat(orders={"a": 1, "b": 0}))
    assert (first.work, first.has_unseen) == (None, True)
    assert (second.work, second.has_unseen) == (None, False)
    await hand.begun("a", "b")


async def test_one_that_has_killed_nobody_is_in_the_way_of_no_suspect(hand: Hand) -> None:
    await hand.standing("a")
    [suspect] = await hand.read("b")
    await hand.driver.redis.hset(hand.driver.keys.promise("b"), F["crash_count"], 2)
    await hand.executor.submit([suspect])
    await hand.begun("b")


def test_the_newest_stamp_that_was_delivered_counts() -> None:
    lease = Lease(PromiseId("a"), "workers", "1-1", 1)
    held = HeldExecution(lease, lease.entry_key, is_kept=False)
    orders: list[int] = []
    for stamps in ([], [3, 5], [4], [], [4, 5, 7]):
        held.note_order([Entry(Number("1"), Kind.STEP, State.RESOLVED, stamp=stamp) for stamp in stamps])
        orders.append(held.order)
    assert orders == [0, 5, 5, 5, 7]
