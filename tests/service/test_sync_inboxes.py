"""How a thread waits: with its own inbox, which it reads while it waits, and asks again if a hint may be lost."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from durasleep import ClientClosed, WaitTimeout
from durasleep.client.sync import attach, inbox_of, store_of
from durasleep.protocol.keys import LIMIT
from durasleep.settings import DEFAULTS
from durasleep.sync import Client
from harness.servers import Server
from tests.client.sync_side import eventually
from tests.service.functions import double
from tests.service.workers import Workers

T = TypeVar("T")

THREADS = 8
EACH = 100


LONG_S = 20.0  # of a read: a hint that comes only after one is too late
SOON_S = 10.0


@pytest.fixture
def client(real_server: Server, namespace: str) -> Iterator[Client]:
    with Client(real_server.url, namespace=namespace, settings=replace(DEFAULTS, read_block_s=LONG_S)) as made:
        yield made


@pytest.fixture
def other(real_server: Server, namespace: str) -> Iterator[Client]:
    """Settles the promises that the client waits for; it looks every half second."""
    with Client(real_server.url, namespace=namespace, settings=replace(DEFAULTS, read_block_s=0.5)) as made:
        yield made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(THREADS) as pool:
        yield pool


def promises(client: Client, count: int) -> list[str]:
    names = [f"p-{n}" for n in range(count)]
    for name in names:
        client.promises.create(name)
    return names


def in_thread(pool: ThreadPoolExecutor, work: Callable[[], T], server: Server) -> Any:
    """Run ``work`` in a thread, when that reads its inbox."""
    running = pool.submit(work)
    redis: Any = server.sync_client()
    eventually(
        lambda: any(one["cmd"] == "xread" and "b" in one["flags"] for one in redis.client_list()), "the thread to read"
    )
    return running


def soon(work: Callable[[], T]) -> T:
    """The answer of ``work``, well before the end of a read without an answer."""
    began = time.monotonic()
    answer = work()
    assert time.monotonic() - began < SOON_S
    return answer


def test_each_thread_gathers_what_it_asks_for(client: Client, workers: Workers) -> None:
    workers.begin("w1")
    begin = threading.Barrier(THREADS)

    def work(thread: int) -> list[Any]:
        begin.wait(10)
        numbers = range(thread * EACH, (thread + 1) * EACH)
        handles = client.rpc_many(double, [(f"double-{number}", number) for number in numbers])
        return client.gather(handles)

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(work, range(THREADS)))
    assert answers == [[2 * n for n in range(thread * EACH, (thread + 1) * EACH)] for thread in range(THREADS)]


def test_a_handle_that_one_thread_has_asked_for_is_gathered_by_another(
    client: Client, other: Client, pool: ThreadPoolExecutor, real_server: Server
) -> None:
    handles = [client.get(name) for name in promises(client, 10)]
    attach(handles)  # to the inbox of this thread
    gathering = in_thread(pool, lambda: client.gather(handles), real_server)
    for n, handle in enumerate(handles):
        other.promises.resolve(handle.id, n)
    assert gathering.result(SOON_S) == list(range(10))


def test_a_handle_that_one_thread_has_asked_for_is_awaited_by_another(
    client: Client, other: Client, pool: ThreadPoolExecutor, real_server: Server
) -> None:
    [handle] = [client.get(name) for name in promises(client, 1)]
    attach([handle])
    waiting = in_thread(pool, handle.result, real_server)
    other.promises.resolve(handle.id, 7)
    assert waiting.result(SOON_S) == 7


def test_results_are_told_by_the_inbox_and_not_asked_one_by_one(
    client: Client, other: Client, pool: ThreadPoolExecutor, real_server: Server, exchanges_of: Callable[[Client], int]
) -> None:
    names = promises(client, EACH)
    gathering = in_thread(pool, lambda: client.gather([client.get(name) for name in names]), real_server)
    asked = exchanges_of(client)
    for n, name in enumerate(names):
        other.promises.resolve(name, n)
    assert gathering.result(SOON_S) == list(range(EACH))
    assert exchanges_of(client) - asked < EACH / 4


@pytest.fixture
def exchanges_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Client], int]:
    """How many calls a client has made so far, without blocking ones."""
    counted: dict[int, int] = {}

    def count(client: Client) -> int:
        link: Any = client._waiter.store._link(None)  # pyright: ignore[reportPrivateUsage]
        if id(link) not in counted:
            counted[id(link)] = 0
            exchange = link.exchange

            def counting(commands: Any) -> Any:
                counted[id(link)] += 1
                return exchange(commands)

            monkeypatch.setattr(link, "exchange", counting)
        return counted[id(link)]

    return count


@pytest.mark.usefixtures("in_one_partition")
def test_an_inbox_that_is_lost_while_it_is_read_loses_no_result(
    client: Client, other: Client, pool: ThreadPoolExecutor, real_server: Server, namespace: str
) -> None:
    redis: Any = real_server.sync_client()
    names = promises(client, 10)
    gathering = in_thread(pool, lambda: other.gather([other.get(name) for name in names]), real_server)
    [key] = redis.scan_iter(f"{{{namespace}:*}}:inbox:*")
    for n, name in enumerate(names):
        redis.delete(key)
        client.promises.resolve(name, n)
    assert gathering.result(SOON_S) == list(range(10))


@pytest.mark.usefixtures("in_one_partition")
def test_who_waits_again_after_its_inbox_was_lost_hears_at_once(
    client: Client, other: Client, pool: ThreadPoolExecutor, real_server: Server
) -> None:
    """Its stream was ahead of the clock, and begins again at a lower entry."""
    redis: Any = real_server.sync_client()
    [first, second] = promises(client, 2)
    handles = [client.get(first), client.get(second)]
    attach(handles)
    key = store_of(client).keyspaces[-1].inbox(inbox_of(client).name)
    redis.xadd(key, {"o": ""}, id=f"{time.time_ns() // 1_000_000 + 3_600_000}-0")
    other.promises.resolve(first, 1)
    assert soon(handles[0].result) == 1
    redis.delete(key)
    settling = threading.Timer(0.2, other.promises.resolve, (second, 2))
    settling.start()
    assert soon(client.get(second).result) == 2
    settling.join()


def test_who_waits_again_after_a_close_hears_at_once(client: Client, other: Client) -> None:
    handles = [client.get(name) for name in promises(client, 3)]
    attach(handles)
    client.close()
    for n, handle in enumerate(handles):
        other.promises.resolve(handle.id, n)
    assert soon(lambda: [handle.result() for handle in handles]) == [0, 1, 2]


def test_a_reader_that_fell_behind_the_cap_of_its_inbox_asks_for_all_again(client: Client, other: Client) -> None:
    handles = [client.get(name) for name in promises(client, LIMIT["inbox_entries_max"] + 300)]
    attach(handles)
    for n, handle in enumerate(handles):
        other.promises.resolve(handle.id, n)
    assert soon(lambda: client.gather(handles)) == list(range(len(handles)))


@pytest.mark.usefixtures("in_one_partition")
def test_an_entry_told_in_another_way_is_heard_and_one_without_a_value_is_looked_up(
    client: Client, other: Client, real_server: Server
) -> None:
    """One entry may report several results; an odd one does not affect the others."""
    redis: Any = real_server.sync_client()
    names = promises(client, 4)
    handles = [client.get(name) for name in names]
    attach(handles)
    one, two = client.codec.encode(1, "one"), client.codec.encode(2, "two")
    fields = [b"i", b"p-0", b"b", b"5", b"s", b"r", b"v", one, b"i", b"p-1", b"s", b"r", b"v", two]
    odd = [b"i", b"p-2", b"s", b"r", b"i", b"\xff", b"s", b"r", b"v", one, b"i", b"p-3", b"s", b"?", b"v", one]
    redis.execute_command("XADD", store_of(client).keyspaces[-1].inbox(inbox_of(client).name), "*", *fields, *odd)
    other.promises.resolve("p-2", 3)
    other.promises.resolve("p-3", 4)
    # The first two have not settled: the values are those of the hints.
    assert client.gather(handles) == [1, 2, 3, 4]
    for name in names[:2]:
        client.promises.cancel(name)


def test_a_signal_handler_may_wait_while_its_thread_gathers(client: Client, other: Client) -> None:
    names = promises(client, 20)
    seen: list[int] = []

    def settle_and_wait(*_: object) -> None:
        name = names[len(seen)]
        other.promises.resolve(name, len(seen))
        seen.append(client.get(name, int).result(timeout=10))
        if len(seen) < len(names):
            signal.setitimer(signal.ITIMER_REAL, 0.05)  # not before this handler has ended its wait

    before = signal.signal(signal.SIGALRM, settle_and_wait)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        assert client.gather([client.get(name) for name in names]) == list(range(20))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert seen == list(range(20))


def test_who_gathers_when_the_client_is_closed_hears_that_it_was(
    client: Client, other: Client, pool: ThreadPoolExecutor, real_server: Server
) -> None:
    names = promises(client, 3)
    gathering = in_thread(pool, lambda: client.gather([client.get(name) for name in names]), real_server)
    client.close()
    with pytest.raises(ClientClosed, match="goes on"):
        gathering.result(SOON_S)
    gathering = in_thread(
        pool, lambda: client.gather([client.get(name) for name in names], return_exceptions=True), real_server
    )
    client.close()
    assert [type(found) for found in gathering.result(SOON_S)] == [ClientClosed] * 3
    for name in names:
        other.promises.cancel(name)


def test_a_wait_that_gives_up_leaves_a_gather_of_the_same_as_it_is(client: Client, other: Client) -> None:
    """It removes the inbox from the waiters; calls that still wait in this thread ask again."""
    [name] = promises(client, 1)
    handle = client.get(name)
    attach([handle])
    with pytest.raises(WaitTimeout):
        client.get(name).result(timeout=0.05)
    other.promises.resolve(name, 7)
    assert soon(handle.result) == 7
