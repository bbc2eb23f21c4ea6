"""The reader takes what is for the group and what is for its worker alone, as much as there is room for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from durasleep.errors import CorruptData, StoreError, StoreRefused, StoreUnavailable
from durasleep.protocol.commit import Lease
from durasleep.settings import DEFAULTS, Settings
from durasleep.transport.connector import Connector
from durasleep.transport.server_clock import monotonic_us
from durasleep.transport.store import Store
from durasleep.worker.loops import task_reader
from durasleep.worker.loops.task_reader import BROKEN_EPOCH, TaskReader
from harness.servers import FAKE, Server, Servers
from tests.service.workers import eventually
from tests.store.driver import WORKER, Driver
from tests.worker.clock import HeldClock

SHORT = replace(DEFAULTS, read_block_s=0.02)
OWN = "workers/w1"


def reader_of(driver: Driver, settings: Settings = SHORT, store: Store | None = None) -> TaskReader:
    link = (store or driver.store).link(driver.keys)
    return TaskReader(link, driver.keys, group="workers", consumer=WORKER, settings=settings)


@pytest.fixture
async def reader(driver: Driver) -> AsyncGenerator[TaskReader]:
    """One that has not read yet."""
    reader = reader_of(driver)
    yield reader
    await reader.close()


async def put(driver: Driver, *, group: int = 0, own: int = 0) -> None:
    """So many executions for the group, and for the worker alone."""
    for number in range(group):
        await driver.create(f"any-{number}")
    for number in range(own):
        await driver.create(f"own-{number}", queue=OWN)


def counts(leases: list[Lease]) -> tuple[int, int]:
    """How many are for the group, and how many for the worker alone."""
    own = sum(lease.queue == OWN for lease in leases)
    return len(leases) - own, own


# -- what it reads


async def test_it_is_a_consumer_of_both_its_streams(driver: Driver, reader: TaskReader) -> None:
    await reader.join()
    for queue in ("workers", OWN):
        [consumer] = await driver.redis.xinfo_consumers(driver.keys.queue(queue), "workers")
        assert consumer["name"] == WORKER.encode()


async def test_what_comes_is_leased_with_what_its_entry_tells(driver: Driver, reader: TaskReader) -> None:
    await put(driver, group=1)
    [lease] = await reader.once(10)
    assert (lease.id, lease.queue, lease.epoch) == ("any-0", "workers", 1)
    assert lease.entry == (await driver.record("any-0")).entry
    assert lease.snapshot
    assert (await driver.beat()).unnamed == [lease.entry_key]


async def test_what_is_its_own_already_comes_first_on_a_new_connection(driver: Driver, reader: TaskReader) -> None:
    """Much may have happened to it: what its entry tells is not believed."""
    await put(driver, group=3)
    held = await driver.read(2)
    for _ in range(2):
        leases = await reader.once(1)
        assert [lease.id for lease in leases] == [lease.id for lease in held]
        assert {lease.snapshot for lease in leases} == {b""}
        await reader.close()
    await reader.once(1)
    [new] = await reader.once(1)
    assert new.id == "any-2"
    assert new.snapshot


@pytest.mark.parametrize(
    "fields",
    [
        {"foo": "bar"},
        {"i": "a"},
        {"i": "a", "e": "one"},
        {"i": b"\xff", "e": "1"},
        {"e": "1", "x": "a"},
        {"e": "1", "i": b"\xff"},
        {"e": "one", "i": "a"},
    ],
)
async def test_an_entry_that_is_not_one_of_ours_has_an_epoch_that_nothing_has(
    driver: Driver, reader: TaskReader, fields: dict[str, Any]
) -> None:
    entry = await driver.redis.xadd(driver.keys.queue("workers"), fields)
    assert await reader.once(10) == [driver.lease("", entry.decode(), BROKEN_EPOCH)]
    assert BROKEN_EPOCH < 0
    await driver.redis.delete(driver.keys.queue("workers"))


async def test_an_entry_of_its_own_that_is_deleted_is_dropped_likewise(driver: Driver, reader: TaskReader) -> None:
    await put(driver, group=1)
    [lease] = await driver.read(1)
    await driver.redis.xdel(driver.keys.queue("workers"), lease.entry)
    assert await reader.once(10) == [driver.lease("", lease.entry, BROKEN_EPOCH)]
    await driver.redis.delete(driver.keys.queue("workers"))
    await driver.control("force", "any-0")


@pytest.mark.parametrize(
    ("fields", "snapshot"),
    [
        ({"i": "a", "e": "3"}, b""),
        ({"i": "a", "e": "3", "x": "told"}, b"told"),
        ({"i": "a", "e": "3", "x": "told", "z": "more"}, b"told"),
        ({"i": "a", "e": "3", "z": "more"}, b""),
        ({"e": "3", "i": "a", "x": "told"}, b""),
        ({"z": "more", "i": "a", "e": "3"}, b""),
        ({"i": "a", "z": "9", "e": "3"}, b""),
        ({"z": "b", "e": "3", "i": "a"}, b""),
    ],
)
async def test_an_entry_may_say_more_than_we_know(
    driver: Driver, reader: TaskReader, fields: dict[str, str], snapshot: bytes
) -> None:
    entry = await driver.redis.xadd(driver.keys.queue("workers"), fields)
    assert await reader.once(10) == [driver.lease("a", entry.decode(), 3, snapshot=snapshot)]
    await driver.redis.delete(driver.keys.queue("workers"))


# -- how much of it


async def test_one_at_a_time_it_takes_turns(driver: Driver, reader: TaskReader) -> None:
    await reader.join()
    await put(driver, group=3, own=3)
    taken = [counts(await reader.once(1)) for _ in range(6)]
    assert taken == [(0, 1), (1, 0)] * 3


@pytest.mark.parametrize(("free", "share"), [(2, (1, 1)), (5, (3, 2)), (8, (4, 4))])
async def test_of_both_it_takes_as_much_as_there_is_room_for(
    driver: Driver, reader: TaskReader, free: int, share: tuple[int, int]
) -> None:
    """Half of it at most is for this worker alone."""
    await reader.join()
    await put(driver, group=9, own=9)
    assert counts(await reader.once(free)) == share
    assert counts(await reader.once(free)) == share


async def test_one_stream_alone_has_all_the_room(driver: Driver, reader: TaskReader) -> None:
    await reader.join()
    await put(driver, group=9)
    assert counts(await reader.once(4)) == (2, 0), "its own was looked at first"
    assert counts(await reader.once(4)) == (4, 0)


async def test_its_own_stream_alone_is_read_one_at_a_time_too(driver: Driver, reader: TaskReader) -> None:
    await reader.join()
    await put(driver, own=5)
    assert [counts(await reader.once(1)) for _ in range(4)] == [(0, 1)] * 4


async def test_what_comes_in_both_while_it_waits_is_no_more_than_there_is_room_for(
    driver: Driver, reader: TaskReader
) -> None:
    """A read that waits asks each stream for its part. From then on they share."""
    assert await reader.once(12) == []
    await put(driver, group=30, own=30)
    assert counts(await reader.once(12)) == (2, 2)
    assert counts(await reader.once(12)) == (6, 6)


async def test_all_that_is_its_own_already_is_read_again_in_parts(driver: Driver) -> None:
    await put(driver, group=5)
    await driver.read(5)
    reader = reader_of(driver, replace(SHORT, read_own_max=3))
    assert counts(await reader.once(1)) == (3, 0)
    await reader.close()


# -- waiting


async def test_without_any_it_waits_on_the_server_for_a_while(driver: Driver) -> None:
    reader = reader_of(driver, replace(DEFAULTS, read_block_s=0.5))
    await reader.join()
    for asked in (3, 1):  # what is its own is looked for first
        before = await driver.calls("xreadgroup")
        began_s = time.monotonic()
        assert await reader.once(2) == []
        assert 0.5 <= time.monotonic() - began_s < 1.4
        assert await driver.calls("xreadgroup") == before + asked
    await reader.close()


async def blocked(driver: Driver, reader: TaskReader, free: int = 2) -> tuple[asyncio.Task[list[Lease]], str]:
    """A reader that waits on the server, and the id of its connection."""
    asking = asyncio.create_task(reader.once(free))

    async def find() -> str | None:
        clients = await driver.redis.client_list()
        mine = [one for one in clients if one["cmd"] == "xreadgroup" and "b" in one["flags"]]
        return mine[0]["id"] if mine and driver.namespace in mine[0]["name"] else None

    return asking, await eventually(find, "it to wait")


KEY = (0, "workers", "1-1")
"""What beats say is pending to it, and do not name."""


async def test_what_two_beats_do_not_name_never_arrived(reader: TaskReader) -> None:
    first_us, second_us = monotonic_us(), monotonic_us() + 1
    assert reader.never_arrived([KEY], first_us, first_us) == []
    assert reader.never_arrived([KEY], second_us, second_us) == [KEY]


async def test_one_beat_that_named_it_or_did_not_find_it_begins_anew(reader: TaskReader) -> None:
    us = monotonic_us()
    assert reader.never_arrived([KEY], us, us) == []
    assert reader.never_arrived([], us + 1, us + 1) == []
    assert reader.never_arrived([KEY], us + 2, us + 2) == []
    assert reader.never_arrived([KEY], us + 3, us + 3) == [KEY]


async def test_while_it_asks_what_was_delivered_since_may_be_on_its_way(driver: Driver) -> None:
    reader = reader_of(driver, DEFAULTS)
    asking, _ = await blocked(driver, reader)
    for us in (monotonic_us(), monotonic_us() + 1):
        assert reader.never_arrived([KEY], us, us) == []
    await put(driver, group=1)
    assert len(await asking) == 1
    us = monotonic_us() + 1
    assert reader.never_arrived([KEY], us, us) == [KEY]
    await reader.close()


async def test_what_was_delivered_before_it_asks_again_never_arrived(driver: Driver) -> None:
    reader = reader_of(driver, DEFAULTS)
    first_us = monotonic_us()
    assert reader.never_arrived([KEY], first_us, first_us) == []
    asking, _ = await blocked(driver, reader)
    us = monotonic_us()
    assert reader.never_arrived([KEY], us, us) == [KEY]
    await put(driver, group=1)
    await asking
    await reader.close()


async def test_a_beat_of_before_the_answer_says_nothing_of_what_came_with_it(driver: Driver) -> None:
    """Such beats are heard late after the loop was blocked: what came may be done with by then."""
    reader = reader_of(driver, DEFAULTS)
    asking, _ = await blocked(driver, reader)
    old_us = monotonic_us()
    assert reader.never_arrived([KEY], old_us, old_us) == []
    await put(driver, group=1)
    assert len(await asking) == 1
    assert reader.never_arrived([KEY], old_us + 1, old_us + 1) == []
    await reader.close()


async def test_what_was_asked_for_in_vain_may_have_been_given_to_it(driver: Driver) -> None:
    """It has heard of nothing since, until it has asked for that again."""
    reader = reader_of(driver, DEFAULTS)
    asking, connection = await blocked(driver, reader)
    us = monotonic_us()
    assert reader.never_arrived([KEY], us, us) == []
    await driver.redis.client_kill_filter(_id=connection)
    with pytest.raises(StoreUnavailable):
        await asking
    us = monotonic_us()
    assert reader.never_arrived([KEY], us, us) == []
    await put(driver, group=1)
    assert len(await reader.once(2)) == 1
    us = monotonic_us() + 1
    assert reader.never_arrived([KEY], us, us) == [KEY]
    await reader.close()


async def test_after_a_lost_connection_it_asks_for_half_and_soon_for_more(driver: Driver) -> None:
    """It may be that the answer was more than the server allows to be waiting for one."""
    reader = reader_of(driver, replace(DEFAULTS, read_block_s=60.0))
    asking, connection = await blocked(driver, reader, 8)
    await driver.redis.client_kill_filter(_id=connection)
    with pytest.raises(StoreUnavailable):
        await asking
    await put(driver, group=90)
    taken = [len(await reader.once(8)) for _ in range(12)]
    assert taken == [1] + [3] * 5 + [2] + [6] * 5, "one of them looks for its own, too"
    await reader.close()


class Pauses:
    """In the place of ``asyncio``: how long the reader has paused."""

    def __init__(self) -> None:
        self.s: list[float] = []

    async def sleep(self, for_s: float) -> None:
        self.s.append(for_s)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    pauses = Pauses()
    monkeypatch.setattr(task_reader, "asyncio", pauses)
    return pauses


async def test_where_nothing_blocks_it_pauses_a_moment(servers: Servers, namespace: str, pauses: Pauses) -> None:
    """As on fakeredis: what blocks there outlives its connection."""
    server = servers.get(FAKE)
    driver = Driver(server.client(), namespace)
    reader = reader_of(driver, replace(DEFAULTS, read_block_s=30.0))
    began_s = time.monotonic()
    for _ in range(3):
        assert await reader.once(1) == []
    assert time.monotonic() - began_s < 0.9
    assert pauses.s[-1:] == [0.002]
    await put(driver, group=1)
    pauses.s.clear()
    assert len(await reader.once(1)) == 1
    assert pauses.s == []
    await reader.close()
    await driver.store.aclose()
    server.flush()
    await server.close_clients()


@pytest.mark.parametrize(("took_s", "paused"), [(0.001, [0.002]), (0.002, [])])
async def test_what_took_a_moment_needs_no_pause(
    reader: TaskReader,
    pauses: Pauses,
    hold_clock: Callable[[ModuleType], HeldClock],
    took_s: float,
    paused: list[float],
) -> None:
    clock = hold_clock(task_reader)
    clock.now_s, clock.tick_s = 0.0, took_s
    assert await reader.once(1) == []
    assert pauses.s == paused


# -- what goes wrong


async def test_where_its_stream_is_gone_it_joins_anew(driver: Driver, reader: TaskReader) -> None:
    assert await reader.once(1) == []
    await driver.redis.delete(driver.keys.queue("workers"))
    with pytest.raises(StoreError, match="the stream is gone or not served now"):
        await reader.once(2)
    await put(driver, group=1)
    assert len(await reader.once(2)) == 1


async def test_what_it_may_not_do_is_told_as_such(driver: Driver, real_server: Server) -> None:
    user = f"{driver.namespace}-reader"
    await driver.redis.execute_command("ACL", "SETUSER", user, "on", ">secret", "~*", "+@all", "-xreadgroup")
    url = real_server.admin_url.replace("redis://", f"redis://{user}:secret@")
    store = Store(Connector.of(url), namespace=driver.namespace, settings=SHORT)
    reader = reader_of(driver, store=store)
    with pytest.raises(StoreRefused):
        await reader.once(1)
    await reader.close()
    await store.aclose()
    await driver.redis.execute_command("ACL", "DELUSER", user)


async def test_a_queue_that_is_no_stream_is_an_error(driver: Driver, reader: TaskReader) -> None:
    await driver.redis.set(driver.keys.queue("workers"), "no stream")
    with pytest.raises(CorruptData):
        await reader.join()
    await reader.close()
    with pytest.raises(CorruptData):
        await reader.once(1)
    await driver.redis.delete(driver.keys.queue("workers"))
