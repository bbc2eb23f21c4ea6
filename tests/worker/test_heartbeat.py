"""The heartbeat shows a worker alive as long as its event loop is not blocked for too long."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from types import ModuleType

import pytest

from durasleep.errors import SchemaMismatch, StoreError, StoreUnavailable
from durasleep.model import CommitAction
from durasleep.observe.health import PULSE_MAX_S
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import Keyspace, W, meta_key
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.protocol.membership import Beat
from durasleep.settings import DEFAULTS, Settings
from durasleep.transport import handshake, server_clock
from durasleep.transport.connector import Connector
from durasleep.transport.outage import Outage
from durasleep.worker.loops import loop_watch
from durasleep.worker.loops.heartbeat import Heartbeat
from durasleep.worker.loops.loop_watch import LoopWatch
from harness.servers import MakeServer, Server
from tests.service.workers import ended, eventually
from tests.store.driver import OTHER, WORKER, Driver
from tests.worker.clock import HeldClock
from tests.worker.standing import Standing

HoldClock = Callable[[ModuleType], HeldClock]
OnBeat = Callable[[Beat, int, int], None]
OFTEN = replace(DEFAULTS, heartbeat_s=0.02)


class Hearts:
    """Makes heartbeats, in the partition of the driver, and keeps what they pass on."""

    def __init__(self, server: Server, driver: Driver) -> None:
        self.held: list[Lease] = []
        self.beats: list[tuple[Beat, int, int]] = []
        self.unfit: list[SchemaMismatch] = []
        self.unserved: list[Keyspace] = []
        self.outage = Outage()
        self._namespace = driver.namespace
        self._partitions = driver.store.partitions
        self._url = server.url
        self.served = [driver.keys]
        self._made: list[Heartbeat] = []

    def make(
        self,
        settings: Settings = DEFAULTS,
        *,
        on_beat: OnBeat | None = None,
        url: str = "",
        loop_thread: int | None = None,
    ) -> Heartbeat:
        watch = self.watch = LoopWatch(settings, threading.get_ident() if loop_thread is None else loop_thread)
        made = Heartbeat(
            Connector.of(url or self._url),
            self._partitions,
            namespace=self._namespace,
            consumer=WORKER,
            group="workers",
            settings=settings,
            held=lambda: self.held,
            served=lambda: self.served,
            functions=lambda _: "some",
            lost_threads=lambda: 3,
            blocked_ms=lambda: 0,
            slots=7,
            on_beat=on_beat or self._note,
            on_unfit=self.unfit.append,
            on_unserved=self.unserved.append,
            knows_namespace=lambda: True,
            is_stalled=watch.is_stalled,
            outage=self.outage,
        )
        self._made.append(made)
        return made

    def _note(self, beat: Beat, sent_us: int, received_us: int) -> None:
        self.beats.append((beat, sent_us, received_us))

    async def beaten(self, count: int) -> None:
        """So many beats have been passed on."""
        await eventually(lambda: len(self.beats) >= count, f"{count} beats")

    def stop(self) -> None:
        for made in self._made:
            made.stop()


@pytest.fixture
def hearts(real_server: Server, driver: Driver) -> Iterator[Hearts]:
    hearts = Hearts(real_server, driver)
    yield hearts
    hearts.stop()


async def shown(driver: Driver) -> float | None:
    """The beat of the worker, as others see it."""
    return await driver.redis.zscore(driver.keys.workers, WORKER)


async def listed(driver: Driver, client_id: int) -> str:
    """What the server says of a connection, if there is one."""
    found: bytes = await driver.redis.execute_command("CLIENT", "LIST", "ID", client_id)
    return found.decode()


# -- one beat


async def test_a_beat_says_who_the_worker_is_and_what_it_holds(hearts: Hearts, driver: Driver) -> None:
    lost = await driver.start("a")
    await driver.commit(lost, CommitAction.RESOLVE)
    hearts.held = [lost, await driver.start("b")]
    began_us = server_clock.monotonic_us()
    beats = hearts.make(replace(DEFAULTS, heartbeat_s=0.5)).once()
    assert beats
    assert [beat.partition for beat in beats] == [keys.partition for keys in driver.store.keyspaces]
    beat = beats[driver.keys.partition]
    assert beat.lost == [lost.entry_key]
    assert beat.unnamed == []
    [(passed_on, sent_us, received_us)] = hearts.beats
    assert passed_on is beat
    assert began_us <= sent_us <= received_us <= server_clock.monotonic_us()
    fields = await driver.redis.hgetall(driver.keys.worker(WORKER))
    said = {
        name: fields[W[name].encode()].decode() for name in ("group", "info", "beat_ms", "functions", "lost", "knows")
    }
    assert said == {
        "group": "workers",
        "info": f"{socket.gethostname()}:{os.getpid()}",
        "beat_ms": "500",
        "functions": "some",
        "lost": "3",
        "knows": handshake.KNOWS,
    }


async def test_it_names_its_connection(hearts: Hearts, driver: Driver) -> None:
    """Others judge by it. It asks for its id once."""
    heart = hearts.make()
    assert heart.client_id == 0
    asked = await driver.calls("client|id")
    for _ in range(2):
        assert heart.once()
        [peer] = [peer for peer in (await driver.beat(consumer=OTHER)).peers if peer.consumer == WORKER]
        assert peer.client_id == str(heart.client_id)
        assert f" name=durasleep/{driver.namespace}/w1 " in await listed(driver, heart.client_id)
    assert await driver.calls("client|id") == asked + 1


@pytest.mark.parametrize(("every_s", "ttl_s"), [(1.0, 90), (9.0, 90), (20.0, 200)])
async def test_what_is_the_workers_own_goes_if_it_does_not_beat(
    hearts: Hearts, driver: Driver, every_s: float, ttl_s: int
) -> None:
    """In a minute and a half, and after ten of its beats at least."""
    hearts.make(replace(DEFAULTS, heartbeat_s=every_s)).once()
    for key in (driver.keys.worker(WORKER), driver.keys.inbox(WORKER)):
        assert 1000 * ttl_s - 10_000 < await driver.redis.pttl(key) <= 1000 * ttl_s


async def test_a_beat_counts_at_once_where_writes_are_to_be_confirmed(hearts: Hearts) -> None:
    """The next one is as good."""
    assert hearts.make(replace(DEFAULTS, min_replicas=1, fsync=True)).once()


async def test_after_its_connection_was_cut_it_has_another(hearts: Hearts, driver: Driver) -> None:
    heart = hearts.make()
    heart.once()
    first = heart.client_id
    await driver.redis.execute_command("CLIENT", "KILL", "ID", first)
    with pytest.raises(StoreUnavailable):
        heart.once()
    assert heart.client_id == 0
    heart.once()
    assert heart.client_id not in (0, first)


async def test_where_nobody_answers_it_says_so_at_once(hearts: Hearts) -> None:
    """It is the next beat that tries again."""
    began_s = time.monotonic()
    with pytest.raises(StoreUnavailable):
        hearts.make(url="redis://127.0.0.1:1").once()
    assert time.monotonic() - began_s < 1.0


@pytest.mark.parametrize("change", [{"schema": "99"}, {"features": "unheard-of"}])
async def test_a_namespace_for_other_versions_is_told_after_its_beat(
    hearts: Hearts, driver: Driver, change: dict[str, str]
) -> None:
    meta = meta_key(driver.namespace)
    before = await driver.redis.hgetall(meta)
    await driver.redis.hset(meta, mapping=change)
    with pytest.raises(SchemaMismatch):
        hearts.make().once()
    assert len(hearts.beats) == 1
    await driver.redis.delete(meta)
    await driver.redis.hset(meta, mapping=before)


async def test_it_beats_only_where_the_worker_serves(hearts: Hearts, driver: Driver) -> None:
    hearts.served = []
    assert hearts.make().once() == []
    assert await shown(driver) is None


async def test_what_is_wrong_in_one_partition_concerns_no_other_one(hearts: Hearts, driver: Driver) -> None:
    spaces = Keyspaces(driver.namespace, 3)
    hearts.served = list(spaces)
    await driver.redis.set(spaces[1].workers, "not a sorted set")
    with pytest.raises(StoreError, match="wrong kind of value"):
        hearts.make().once()
    assert [beat.partition for beat, _, _ in hearts.beats] == [0, 2]
    await driver.redis.delete(spaces[1].workers)
    assert len(hearts.make().once() or ()) == 3


async def test_the_beat_under_way_can_be_waited_for(hearts: Hearts) -> None:
    """Who gives that up does not disturb it."""
    second, count = Standing("the second beat"), 0

    def on_beat(*_: object) -> None:
        nonlocal count
        count += 1
        if count == 2:
            second()

    heart = hearts.make(OFTEN, on_beat=on_beat)
    await heart.settled()
    await asyncio.wrap_future(heart.start())
    await second.begun()
    given_up, waiting = (asyncio.create_task(heart.settled()) for _ in range(2))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    second.let_go()
    await waiting
    await eventually(lambda: count > 3, "it to go on")


# -- a loop that is blocked


async def test_a_loop_blocked_for_too_long_stops_the_beat(
    hearts: Hearts, driver: Driver, hold_clock: HoldClock
) -> None:
    """What the worker holds is given to others; once the loop goes on, it is a worker as before."""
    clock = hold_clock(loop_watch)
    heart = hearts.make()
    clock.move(DEFAULTS.stall_max_s)
    assert heart.once(), "so long it is alive"
    last = await shown(driver)
    clock.move(0.001)
    await driver.another_life()
    assert heart.once() is None
    assert await shown(driver) == last
    assert len(hearts.beats) == 1
    hearts.watch.pulse()
    assert heart.once()
    assert await shown(driver) != last


async def test_a_blocked_loop_is_reported_with_its_stack_now_and_again(
    hearts: Hearts, hold_clock: HoldClock, caplog: pytest.LogCaptureFixture
) -> None:
    clock = hold_clock(loop_watch)
    heart = hearts.make()

    def reports(after_s: float) -> list[str]:
        caplog.clear()
        clock.move(after_s)
        assert heart.once()
        return caplog.messages

    first_s, every_s = DEFAULTS.stall_warn_s, loop_watch.AGAIN_S
    assert first_s < PULSE_MAX_S, "a probe that fails can be explained"
    assert reports(first_s) == []
    [report] = reports(0.6)
    assert "the event loop has been blocked for 6 s" in report
    assert "in test_a_blocked_loop_is_reported_with_its_stack_now_and_again" in report
    assert reports(every_s) == []
    assert len(reports(0.5)) == 1
    hearts.watch.pulse()
    assert reports(first_s) == []
    assert len(reports(0.5)) == 1, "it is blocked once more"


def test_a_loop_that_is_gone_is_reported_without_a_stack(
    hearts: Hearts, hold_clock: HoldClock, caplog: pytest.LogCaptureFixture
) -> None:
    clock = hold_clock(loop_watch)
    heart = hearts.make(loop_thread=0)
    clock.move(DEFAULTS.stall_warn_s + 1)
    assert heart.once()
    [report] = caplog.messages
    assert report.endswith("here:\n")


# -- its thread


async def test_it_beats_on_until_it_is_told_to_stop(hearts: Hearts, driver: Driver) -> None:
    """Not more often than it is to; all over one connection."""
    heart = hearts.make(OFTEN)
    began_s = time.monotonic()
    await asyncio.wrap_future(heart.start())
    assert len(hearts.beats) >= 1, "the first has been"
    [thread] = threads()
    assert thread.daemon, "it keeps no process"
    first = heart.client_id
    await hearts.beaten(6)
    assert time.monotonic() - began_s < 4.0
    sent_us = [sent_us for _, sent_us, _ in hearts.beats]
    every_us = OFTEN.heartbeat_s * 1e6
    assert sent_us[1] - sent_us[0] >= every_us
    assert sent_us[5] - sent_us[1] >= 3 * every_us
    heart.stop()
    count = len(hearts.beats)
    assert threads() == []
    assert heart.client_id == first
    last = await shown(driver)
    await asyncio.sleep(3 * OFTEN.heartbeat_s)
    assert (len(hearts.beats), await shown(driver)) == (count, last)
    await eventually(partial(_is_gone, driver, first), "its connection to go")


async def test_to_wait_for_its_end_leaves_the_loop_free(hearts: Hearts, driver: Driver) -> None:
    """And needs no thread."""
    beat = Standing("a beat")
    heart = hearts.make(replace(DEFAULTS, heartbeat_s=120.0), on_beat=beat)
    first = heart.start()
    await beat.begun()
    leaving = asyncio.create_task(heart.leave())
    await asyncio.sleep(0)
    assert not leaving.done()
    beat.let_go()
    await leaving
    await asyncio.wrap_future(first)
    assert ended(threads())


@pytest.mark.parametrize("how", ["stop", "leave"])
async def test_it_leaves_no_connection_behind_whose_ever_thread_has_beaten(
    hearts: Hearts, driver: Driver, how: str
) -> None:
    heart = hearts.make()
    heart.once()
    assert await listed(driver, heart.client_id)
    if how == "stop":
        heart.stop()
    else:
        await heart.leave()
    await eventually(partial(_is_gone, driver, heart.client_id), "its connection to go")


async def _is_gone(driver: Driver, client_id: int) -> bool:
    return await listed(driver, client_id) == ""


@pytest.mark.parametrize("how", ["stop", "leave"])
async def test_one_that_hangs_is_waited_for_no_longer_than_a_beat(hearts: Hearts, how: str) -> None:
    beat = Standing("a beat")
    heart = hearts.make(OFTEN, on_beat=beat)
    first = heart.start()
    await beat.begun()
    began_s = time.monotonic()
    if how == "stop":
        heart.stop()
    else:
        await heart.leave()
    assert OFTEN.heartbeat_s <= time.monotonic() - began_s < 10
    assert not first.done()
    beat.let_go()
    await asyncio.wrap_future(first)


async def test_one_that_was_never_started_is_stopped_at_once(hearts: Hearts) -> None:
    seldom = replace(DEFAULTS, heartbeat_s=120.0)
    hearts.make(seldom).stop()
    await hearts.make(seldom).leave()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "durasleep-heartbeat"]


async def test_if_the_first_beat_fails_there_are_no_more(hearts: Hearts) -> None:
    """Whoever waits for it hears why, and may start it anew."""
    heart = hearts.make(OFTEN, url="redis://127.0.0.1:1")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await asyncio.wrap_future(heart.start())
        await eventually(lambda: threads() == [], "its thread to end")
    await heart.leave()


async def test_one_that_nobody_waits_for_any_more_does_not_begin(
    hearts: Hearts, monkeypatch: pytest.MonkeyPatch
) -> None:
    canceled: list[threading.Thread] = []

    def start_late(thread: threading.Thread) -> None:
        canceled.append(thread)

    heart = hearts.make(OFTEN)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_late)
        first = heart.start()
    assert first.cancel()
    [thread] = canceled
    thread.start()
    thread.join()
    assert hearts.beats == []


async def test_a_connection_that_is_cut_leaves_no_beat_out(
    hearts: Hearts, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    """That would look like a death."""
    heart = hearts.make(OFTEN)
    await asyncio.wrap_future(heart.start())
    for _ in range(3):
        await driver.redis.execute_command("CLIENT", "KILL", "ID", heart.client_id)
        await hearts.beaten(len(hearts.beats) + 2)
    assert caplog.text == ""


async def test_while_redis_is_away_it_goes_on_trying(
    hearts: Hearts, make_server: MakeServer, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_server()
    heart = hearts.make(OFTEN, url=server.url)
    await asyncio.wrap_future(heart.start())
    server.stop()
    await eventually(lambda: "this worker waits, nothing is lost" in caplog.text, "a line")
    count = len(hearts.beats)
    server.start()
    await hearts.beaten(count + 3)
    heart.stop()
    assert "a heartbeat failed" not in caplog.text


async def test_it_ends_once_the_namespace_is_for_other_versions(hearts: Hearts, driver: Driver) -> None:
    await asyncio.wrap_future(hearts.make(OFTEN).start())
    meta = meta_key(driver.namespace)
    before = await driver.redis.hget(meta, "schema")
    await driver.redis.hset(meta, "schema", "99")
    await eventually(lambda: threads() == [], "its thread to end")
    assert len(hearts.unfit) == 1
    await driver.redis.hset(meta, "schema", before)


async def test_a_fault_of_ours_is_said_and_the_next_beat_comes(
    hearts: Hearts, caplog: pytest.LogCaptureFixture
) -> None:
    is_to_fail = False

    def fail(beat: Beat, sent_us: int, received_us: int) -> None:
        if is_to_fail:
            raise ZeroDivisionError

    await asyncio.wrap_future(hearts.make(OFTEN, on_beat=fail).start())
    is_to_fail = True
    await eventually(lambda: caplog.text.count("a heartbeat failed") > 1, "two lines")
    assert hearts.unfit == []
