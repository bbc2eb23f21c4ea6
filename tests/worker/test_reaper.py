"""The reaper judges others by their beats; time is what the test says it is."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from durasleep.model import CommitAction, Place
from durasleep.protocol import membership
from durasleep.protocol.membership import Beat
from durasleep.settings import DEFAULTS, Settings
from durasleep.transport.connector import Connector
from durasleep.transport.store import Store
from durasleep.worker.loops.reaper import Reaper, take_over
from harness.servers import Server
from tests.store.driver import OTHER, WORKER, Driver

THIRD = "w3/cccccccc"


@pytest.fixture
def reaper(driver: Driver) -> Reaper:
    """That of a worker which knows of no connection."""
    return reaper_of(driver.store)


def reaper_of(store: Store, *, client_id: Callable[[], int] = lambda: 0, settings: Settings = DEFAULTS) -> Reaper:
    return Reaper(store, store.keyspaces[-1], consumer=WORKER, group="workers", settings=settings, client_id=client_id)


async def found_dead(reaper: Reaper, beat: Beat, ats: Iterable[float]) -> dict[float, list[str]]:
    """What it says at each of these times to the same beat: nobody has beaten since."""
    return {at: dead for at in ats if (dead := await reaper.once(beat, at))}


async def seen(driver: Driver, *, beat_ms: int | None = 1000, client_id: int = 1) -> Beat:
    """A beat of ours that shows another worker, which holds an execution."""
    await driver.start("a", consumer=OTHER)
    await driver.beat(consumer=OTHER, beat_ms=beat_ms, client_id=client_id)
    return await driver.beat()


# -- by beats alone


async def test_a_worker_that_shows_no_new_beat_for_three_seconds_is_dead(
    driver: Driver, reaper: Reaper, caplog: pytest.LogCaptureFixture
) -> None:
    beat = await seen(driver)
    assert await found_dead(reaper, beat, [100, 101, 102, 102.99]) == {}
    assert await driver.place("a") is Place.QUEUED
    assert await reaper.once(beat, 103) == [OTHER]
    assert "worker w2 is dead: 1 executions given to others" in caplog.text
    assert (await driver.take(consumer=THIRD)).epoch == 2
    assert await reaper.once(await driver.beat(), 104) == []


async def test_what_is_left_of_a_lease_that_has_ended_is_no_death(
    driver: Driver, reaper: Reaper, caplog: pytest.LogCaptureFixture
) -> None:
    lease, heir = await driver.start("a"), "http/1"
    await driver.store.call(
        membership.lend(driver.keys, WORKER, heir, lease, group="workers", info="", knows="", lease_ms=3_000)
    )
    await driver.commit(lease, CommitAction.RESOLVE, consumer=heir)
    assert await found_dead(reaper, await driver.beat(), [100, 101, 102, 103]) == {103: [heir]}
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_each_new_beat_begins_the_time_anew(driver: Driver, reaper: Reaper) -> None:
    beat = await seen(driver)
    assert await found_dead(reaper, beat, [100, 101, 102]) == {}
    await driver.another_life()
    await driver.beat(consumer=OTHER)
    later = await driver.beat()
    assert await found_dead(reaper, later, [103, 104, 105, 105.99]) == {}
    assert await reaper.once(later, 106) == [OTHER]


async def test_who_beats_more_seldom_has_longer(driver: Driver, reaper: Reaper) -> None:
    """Three of its own beats."""
    beat = await seen(driver, beat_ms=2000)
    assert await found_dead(reaper, beat, [100, 101, 102, 103, 104, 105, 105.99]) == {}
    assert await reaper.once(beat, 106) == [OTHER]


async def test_who_beats_more_often_has_as_long_as_the_others(driver: Driver, reaper: Reaper) -> None:
    beat = await seen(driver, beat_ms=100)
    assert await found_dead(reaper, beat, [100, 101, 102, 102.99]) == {}
    assert await reaper.once(beat, 103) == [OTHER]


async def test_who_does_not_say_how_often_it_beats_is_taken_to_beat_as_we_do(driver: Driver) -> None:
    beat = await seen(driver, beat_ms=None)
    slow = reaper_of(driver.store, settings=replace(DEFAULTS, heartbeat_s=2.0))
    assert await found_dead(slow, beat, [100, 103, 105.99]) == {}
    assert await slow.once(beat, 106) == [OTHER]


async def test_a_consumer_that_has_never_beaten_is_judged_too(driver: Driver, reaper: Reaper) -> None:
    await driver.start("a", consumer=OTHER)
    beat = await driver.beat()
    assert [peer.consumer for peer in beat.peers] == [WORKER]
    assert await found_dead(reaper, beat, [100, 101, 102, 102.99]) == {}
    assert await reaper.once(beat, 103) == [OTHER]


async def test_nobody_judges_itself(driver: Driver, reaper: Reaper) -> None:
    lease = await driver.start("a")
    beat = await driver.beat(lease)
    assert beat.consumers == [WORKER]
    assert await found_dead(reaper, beat, range(100, 110)) == {}


async def test_who_missed_beats_itself_does_not_judge(driver: Driver, reaper: Reaper) -> None:
    """It may be that it was away, and not they: everybody's time begins anew."""
    beat = await seen(driver)
    assert await found_dead(reaper, beat, [100, 101, 102]) == {}
    assert await found_dead(reaper, beat, [103.51, 104.5, 105.5, 106.5]) == {}
    assert await reaper.once(beat, 106.51) == [OTHER]


async def test_a_beat_that_is_only_late_is_no_break(driver: Driver, reaper: Reaper) -> None:
    beat = await seen(driver)
    assert await found_dead(reaper, beat, [100, 101.5]) == {}
    assert await reaper.once(beat, 103) == [OTHER]


async def test_who_has_beaten_after_all_is_left_alone(driver: Driver, reaper: Reaper) -> None:
    """The beat by which it is judged is older than its own."""
    beat = await seen(driver)
    await driver.another_life()
    await driver.beat(consumer=OTHER)
    assert await found_dead(reaper, beat, [100, 101, 102, 103]) == {}
    assert await driver.queued() == ["a"]
    assert (await driver.record("a")).epoch == 1


async def test_one_that_was_gone_for_a_while_has_its_time_again(driver: Driver, reaper: Reaper) -> None:
    beat = await seen(driver)
    gone = replace(beat, consumers=[WORKER])
    assert await found_dead(reaper, beat, [100, 101]) == {}
    assert await reaper.once(gone, 102) == []
    assert await found_dead(reaper, beat, [103, 104, 105, 105.99]) == {}
    assert await reaper.once(beat, 106) == [OTHER]


async def test_all_that_are_dead_are_found_together(driver: Driver, reaper: Reaper) -> None:
    await driver.start("b", consumer=THIRD)
    await driver.beat(consumer=THIRD)
    beat = await seen(driver)
    assert await found_dead(reaper, beat, [100, 101, 102]) == {}
    assert sorted(await reaper.once(beat, 103)) == [OTHER, THIRD]


# -- by connections


async def connection(driver: Driver) -> int:
    """The id of one that is open."""
    return await driver.redis.client_id()


async def test_one_missed_beat_is_enough_where_the_connection_is_closed(driver: Driver) -> None:
    """Half a beat after the last one was seen, it may be a whole one old."""
    own = await connection(driver)
    reaper = reaper_of(driver.store, client_id=lambda: own)
    beat = await seen(driver)
    assert await found_dead(reaper, beat, [100, 100.49]) == {}
    assert await reaper.once(beat, 100.5) == [OTHER]


async def test_who_beats_more_seldom_has_missed_one_later(driver: Driver) -> None:
    own = await connection(driver)
    reaper = reaper_of(driver.store, client_id=lambda: own)
    beat = await seen(driver, beat_ms=4000)
    assert await found_dead(reaper, beat, [100, 101, 102, 103, 103.49]) == {}
    assert await reaper.once(beat, 103.5) == [OTHER]


async def test_who_beats_more_often_has_not_missed_one_before_half_of_ours(driver: Driver) -> None:
    own = await connection(driver)
    reaper = reaper_of(driver.store, client_id=lambda: own)
    beat = await seen(driver, beat_ms=250)
    assert await found_dead(reaper, beat, [100, 100.49]) == {}
    assert await reaper.once(beat, 100.5) == [OTHER]


async def test_an_open_connection_is_given_the_whole_time(driver: Driver) -> None:
    own = await connection(driver)
    reaper = reaper_of(driver.store, client_id=lambda: own)
    beat = await seen(driver, client_id=own)
    assert await found_dead(reaper, beat, [100, 101, 102, 102.99]) == {}
    assert await reaper.once(beat, 103) == [OTHER]


async def test_who_has_never_beaten_has_no_connection_to_be_judged_by(driver: Driver) -> None:
    """And the others are judged by theirs all the same."""
    await driver.start("b", consumer=THIRD)
    own = await connection(driver)
    reaper = reaper_of(driver.store, client_id=lambda: own)
    beat = await seen(driver)
    assert beat.consumers == [OTHER, THIRD]
    assert await found_dead(reaper, beat, [100, 101, 102, 102.99]) == {101: [OTHER]}
    await driver.reclaim(consumer=THIRD)


async def test_who_is_dead_by_its_beats_and_by_its_connection_is_so_once(driver: Driver, real_server: Server) -> None:
    own = await connection(driver)
    reaper = reaper_of(driver.store, client_id=lambda: own)
    client: Any = real_server.client(single_connection_client=True)
    beat = await seen(driver, client_id=await client.client_id())
    assert await found_dead(reaper, beat, [100, 101, 102]) == {}
    await client.aclose()
    assert await reaper.once(beat, 103) == [OTHER]


@pytest.mark.parametrize("own", [0, 10**15], ids=["before a beat of its own", "by a proxy that has other ids"])
async def test_connections_count_only_where_its_own_is_shown(driver: Driver, own: int) -> None:
    ids = [own]
    reaper = reaper_of(driver.store, client_id=lambda: ids[-1])
    beat = await seen(driver)
    assert await found_dead(reaper, beat, [100, 101]) == {}
    ids.append(await connection(driver))
    assert await found_dead(reaper, beat, [102, 102.99]) == {}, "it does not ask again"
    assert await reaper.once(beat, 103) == [OTHER]


async def test_its_own_connection_is_looked_for_once(driver: Driver) -> None:
    ids = [await connection(driver)]
    reaper = reaper_of(driver.store, client_id=ids.pop)
    beat = await seen(driver, client_id=ids[0])
    assert await found_dead(reaper, beat, [100, 101, 102]) == {}
    assert ids == []


@pytest.fixture
async def limited(driver: Driver, real_server: Server) -> AsyncGenerator[Store]:
    """As a user of its own, whose rights may be taken away."""
    user = user_of(driver)
    await driver.redis.execute_command("ACL", "SETUSER", user, "on", ">secret", "~*", "+@all")
    url = real_server.admin_url.replace("redis://", f"redis://{user}:secret@")
    store = Store(Connector.of(url), namespace=driver.namespace, settings=DEFAULTS, patience_s=5.0)
    await store.open()
    yield store
    await store.aclose()
    await driver.redis.execute_command("ACL", "DELUSER", user)


def user_of(driver: Driver) -> str:
    return f"{driver.namespace}-reaper"


@pytest.mark.parametrize("lost_at", [100, 102])
async def test_without_the_right_to_see_connections_beats_alone_count(
    driver: Driver, limited: Store, caplog: pytest.LogCaptureFixture, lost_at: int
) -> None:
    """Whether it never had it or has lost it."""
    caplog.set_level(logging.INFO, "durasleep")
    own = await connection(driver)
    reaper = reaper_of(limited, client_id=lambda: own)
    beat = await seen(driver, client_id=own if lost_at > 100 else 1)
    if lost_at > 100:
        assert await found_dead(reaper, beat, [100, 101]) == {}
        assert caplog.text == ""
    await driver.redis.execute_command("ACL", "SETUSER", user_of(driver), "-client|list")
    assert await found_dead(reaper, beat, [100, 101] if lost_at == 100 else [102]) == {}
    said = caplog.text.count("CLIENT LIST is not available")
    assert said
    assert await found_dead(reaper, beat, [102, 102.99]) == {}
    assert await reaper.once(beat, 103) == [OTHER]
    assert caplog.text.count("CLIENT LIST is not available") == said, "it does not ask again"


async def test_a_judge_sees_each_by_its_own_connection(driver: Driver) -> None:
    """One is closed, the other is open."""
    own = await connection(driver)
    await driver.start("b", consumer=THIRD)
    await driver.beat(consumer=THIRD, client_id=own)
    reaper = reaper_of(driver.store, client_id=lambda: own)
    beat = await seen(driver)
    await reaper.once(beat, 100)
    assert await reaper.once(beat, 101) == [OTHER]
    await driver.reclaim(consumer=THIRD)


# -- what the dead leave


async def test_what_it_held_is_given_on_from_both_its_queues(driver: Driver) -> None:
    await driver.create("own", queue="workers/w2")
    await driver.take(consumer=OTHER, queue="workers/w2")
    beat = await seen(driver)
    given = await take_over(
        driver.store,
        driver.keys,
        OTHER,
        "workers",
        beat=next(peer.beat for peer in beat.peers if peer.consumer == OTHER),
        max_attempts=5,
    )
    assert given == 2
    assert (await driver.beat()).consumers == []


async def test_however_much_it_held(driver: Driver) -> None:
    """One call of the script gives back 256."""
    for number in range(300):
        await driver.create(f"x{number}")
    assert len(await driver.read(300, consumer=OTHER)) == 300
    assert await take_over(driver.store, driver.keys, OTHER, "workers", beat="", max_attempts=5) == 300


async def test_one_that_has_beaten_since_keeps_what_it_holds(driver: Driver) -> None:
    await seen(driver)
    assert await take_over(driver.store, driver.keys, OTHER, "workers", beat="1", max_attempts=5) is None
    assert (await driver.beat(consumer=OTHER)).unnamed != []


async def test_what_was_halted_as_a_killer_is_said(
    driver: Driver, reaper: Reaper, caplog: pytest.LogCaptureFixture
) -> None:
    for at in range(4):
        if at:
            await driver.take(consumer=OTHER)
        else:
            await driver.start("a", consumer=OTHER)
        assert await take_over(driver.store, driver.keys, OTHER, "workers", beat="", max_attempts=4) == int(at < 3)
    assert "a halted: 4 workers in a row died while running it" in caplog.text
    assert await driver.halted() == ["a"]
