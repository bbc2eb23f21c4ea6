"""One client for all threads, forked children and event loops of a program; and what a close tells the waiters."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import pytest

from durasleep import ClientClosed, Durasleep, Settings, WaitTimeout
from durasleep.client.client import inbox_of, store_of
from durasleep.model import PromiseId
from durasleep.protocol.keys import W
from durasleep.query.status import PromiseStatus
from durasleep.sync import Client as SyncClient
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import double, make_app, sleeping_workflow, waiting
from tests.service.workers import Workers, eventually, serving, until
from tests.side_by_side import THREADS, in_forked_child, in_threads

T = TypeVar("T")

CALLS_EACH = 25


@pytest.fixture
def client(real_server: Server, namespace: str) -> Iterator[SyncClient]:
    with SyncClient(real_server.url, namespace=namespace) as made:
        yield made


@pytest.fixture
def shared(real_server: Server, namespace: str) -> Durasleep:
    """Made outside any loop, as in the module of an application."""
    return make_app(real_server.url, namespace)


def expected_of(numbers: range) -> list[int]:
    return [2 * number for number in numbers]


def test_one_sync_client_serves_many_threads(client: SyncClient, workers: Workers) -> None:
    """Each thread starts, awaits and describes its own executions, and gets their results."""
    workers.begin("w1")

    def work(thread: int) -> list[Any]:
        numbers = range(thread * 1000, thread * 1000 + CALLS_EACH)
        handles = [client.rpc(f"double-{number}", double, number) for number in numbers]
        assert [client.describe(handle.id).id for handle in handles] == [handle.id for handle in handles]
        return [handle.result(timeout=30) for handle in handles]

    answers = in_threads(work)
    assert answers == [expected_of(range(at * 1000, at * 1000 + CALLS_EACH)) for at in range(THREADS)]


def test_one_sync_client_serves_a_parent_and_its_forked_children(client: SyncClient, workers: Workers) -> None:
    """The connections are made before the fork, and used by all of them at once after it."""
    workers.begin("w1")
    assert client.rpc("before", double, 1).result(timeout=30) == 2

    def work(first: int) -> None:
        numbers = range(first, first + CALLS_EACH)
        handles = [client.rpc(f"double-{number}", double, number) for number in numbers]
        assert [handle.result(timeout=30) for handle in handles] == expected_of(numbers)

    codes = [in_forked_child(partial(work, first)) for first in (1000, 2000, 3000)]
    work(0)
    assert [code() for code in codes] == [0, 0, 0]
    assert client.rpc("after", double, 2).result(timeout=30) == 4


def test_the_end_of_a_child_does_not_end_the_connection_of_its_parent(client: SyncClient, workers: Workers) -> None:
    """A child that closes the client, or ends without using it, leaves its parent's connections alone."""
    workers.begin("w1")
    assert client.rpc("before", double, 1).result(timeout=30) == 2
    assert in_forked_child(client.close)() == 0
    assert in_forked_child(lambda: None)() == 0
    with ThreadPoolExecutor(1) as pool:  # this thread waits while others come and go
        waits = pool.submit(client.rpc("sleep", sleeping_workflow, 0.3).result, 30)
        assert in_forked_child(client.close)() == 0
        assert waits.result() == "Slept for 0.3 seconds"


def test_a_signal_handler_may_call_while_a_call_is_under_way(client: SyncClient, workers: Workers) -> None:
    workers.begin("w1")
    seen: list[str] = []
    handle = client.rpc("sleep", sleeping_workflow, 1)

    def look(*_: object) -> None:
        seen.append(client.describe("sleep").id)

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        assert handle.result(timeout=30) == "Slept for 1 seconds"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert set(seen) == {"sleep"}


# A socket that redis-py was about to connect when the handler raised is closed with a warning.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_handler_that_raises_leaves_no_answer_for_the_next_call(client: SyncClient, workers: Workers) -> None:
    class Enough(Exception):
        pass

    def enough(*_: object) -> None:
        raise Enough

    workers.begin("w1")
    handles = [client.rpc(f"double-{number}", double, number) for number in range(20)]
    for handle in handles:
        handle.result(timeout=30)
    before = signal.signal(signal.SIGALRM, enough)
    try:
        interrupted = 0
        for _ in range(200):
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.002))
                for handle in handles:
                    assert client.describe(handle.id).id == handle.id
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Enough:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted
    assert [client.describe(handle.id).id for handle in handles] == [handle.id for handle in handles]


def test_the_same_seed_gives_no_two_calls_one_name(real_server: Server, namespace: str) -> None:
    """Two programs with the same random seed would both get ``created`` for one id."""
    found = []
    for _ in range(2):
        random.seed(42)
        with SyncClient(real_server.url, namespace=namespace) as client:
            found.append(client.rpc("one", double, 1).disposition)
    assert found == ["created", "attached"]


def test_a_parent_and_its_child_give_no_two_calls_one_name(client: SyncClient) -> None:
    assert client.rpc("before", double, 1).disposition == "created"
    child = in_forked_child(lambda: client.rpc("one", double, 1))
    assert child() == 0
    assert client.rpc("one", double, 1).disposition == "attached"


def test_one_application_serves_one_event_loop_after_another(shared: Durasleep, workers: Workers) -> None:
    workers.begin("w1")

    async def once(number: int) -> int:
        handle = await shared.rpc(f"double-{number}", double, number)
        return await handle.result(timeout=30)

    assert [asyncio.run(once(number)) for number in range(5)] == expected_of(range(5))


def test_one_application_serves_the_event_loops_of_many_threads(shared: Durasleep, workers: Workers) -> None:
    workers.begin("w1")

    async def work(thread: int) -> list[int]:
        numbers = range(thread * 1000, thread * 1000 + CALLS_EACH)
        handles = await shared.rpc_many(double, [(f"double-{number}", number) for number in numbers])
        first = await handles[0].result(timeout=30)
        return [first, *(await shared.gather(handles))[1:]]

    answers = in_threads(lambda thread: asyncio.run(work(thread)))
    assert answers == [expected_of(range(at * 1000, at * 1000 + CALLS_EACH)) for at in range(THREADS)]


def test_a_handle_of_one_loop_may_be_awaited_in_another(shared: Durasleep, workers: Workers) -> None:
    """Results of ``rpc_many`` come to the inbox of their own loop, which is gone by then."""

    async def begin() -> list[Any]:
        handles = await shared.rpc_many(sleeping_workflow, [(f"sleep-{number}", 0.1) for number in range(3)])
        with pytest.raises(WaitTimeout):
            await handles[0].result(timeout=0.01)
        return [*handles, *await shared.rpc_many(double, [("one", 1), ("two", 2)])]

    handles = asyncio.run(begin())
    workers.begin("w1")

    async def end() -> list[Any]:
        first = await handles[-1].result(timeout=30)
        return [*(await shared.gather(handles))[:-1], first]

    assert asyncio.run(end()) == [*["Slept for 0.1 seconds"] * 3, 2, 4]


@contextmanager
def loop_in_a_thread() -> Generator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def test_a_close_in_one_loop_leaves_the_others_as_they_are(new_app: NewApp) -> None:
    app = new_app()

    async def in_both(work: Callable[[], Coroutine[Any, Any, T]], loop: asyncio.AbstractEventLoop) -> tuple[T, T]:
        there = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), loop))
        return await work(), await there

    async with serving(new_app()):
        handle = await app.rpc("wait", waiting)
        with loop_in_a_thread() as loop:
            there = asyncio.run_coroutine_threadsafe(app.get("wait").result(), loop)
            assert await in_both(handle.done, loop) == (False, False)
            await app.aclose()
            await app.promises.resolve("wait~1", 7)
            assert await asyncio.wrap_future(there) == 7
            asyncio.run_coroutine_threadsafe(app.aclose(), loop).result(10)


@pytest.mark.usefixtures("in_one_partition")
async def test_who_waits_when_the_client_is_closed_hears_that_it_was(new_app: NewApp) -> None:
    """Not a cancel: that would end a TaskGroup as if all were well."""
    app, other = new_app(), new_app()
    handles = await app.rpc_many(waiting, [(f"wait-{number}",) for number in range(3)])
    waiters = [
        asyncio.create_task(handles[0].result()),
        asyncio.create_task(handles[0].result(timeout=60)),
        asyncio.create_task(app.gather(handles)),
        asyncio.create_task(app.get("wait-2").result()),
    ]
    gathering = asyncio.create_task(app.gather(handles, return_exceptions=True))

    def waiters_of(id: str) -> int:
        latest, count = inbox_of(app).stream("any")._waiting.get(id), 0  # pyright: ignore[reportPrivateUsage]
        while latest:
            latest, count = latest.before, count + 1
        return count

    await eventually(lambda: waiters_of("wait-0") == 4 and waiters_of("wait-2"), "all five to wait")
    await app.aclose()
    for waiter in waiters:
        with pytest.raises(ClientClosed, match="goes on"):
            await waiter
    assert [type(found) for found in await gathering] == [ClientClosed] * 3
    assert (await other.describe("wait-0")).status == "queued"
    assert (await app.describe("wait-0")).status == "queued"  # another call connects again


async def connecting(_: Durasleep) -> None:
    """It has begun to."""
    await asyncio.sleep(0)


async def asking(app: Durasleep) -> None:
    """How the execution stands; the answer comes when the inbox is closed already."""
    await store_of(app)
    while not inbox_of(app).stream("any").is_subscribed(PromiseId("wait")):  # noqa: ASYNC110 - turn by turn: no answer comes meanwhile
        await asyncio.sleep(0)


async def told_to_look(app: Durasleep) -> None:
    """It waits, and will ask again."""
    await store_of(app)
    inbox: Any = inbox_of(app).stream("any")
    await eventually(lambda: inbox.is_subscribed("wait") and inbox._waiting["wait"]._future is not None, "it to wait")
    inbox._notify_to_look()


async def polling(app: Durasleep) -> None:
    """An entry of a journal, which tells no inbox."""
    looks = Counter[str]()
    waiter = app._waiter  # pyright: ignore[reportPrivateUsage]
    status = waiter.status

    async def look(id: PromiseId) -> PromiseStatus:
        try:
            return await status(id)
        finally:
            looks[id] += 1

    waiter.status = look
    await eventually(lambda: looks["wait~1"], "it to have looked")


@pytest.mark.usefixtures("in_one_partition")
@pytest.mark.parametrize(
    ("id", "moment"),
    [("wait", connecting), ("wait", asking), ("wait", told_to_look), ("wait~1", connecting), ("wait~1", polling)],
)
async def test_who_waits_hears_of_a_close_at_whichever_moment_it_comes(
    app: Durasleep, new_app: NewApp, id: str, moment: Callable[[Durasleep], Coroutine[Any, Any, None]]
) -> None:
    async with serving(app):
        await app.rpc("wait", waiting, 3600)
        await until(app, "wait", "suspended")
        closed = new_app()
        waiter = asyncio.create_task(closed.get(id).result())
        await moment(closed)
        await closed.aclose()
        with pytest.raises(ClientClosed, match="goes on"):
            await asyncio.wait_for(waiter, 10)
        await app.cancel("wait", force=True)


@pytest.mark.parametrize("id", ["wait", "gate", "journal~1"])
async def test_who_waits_in_a_thread_when_the_client_is_closed_in_another_hears_that_it_was(
    app: Durasleep, real_server: Server, namespace: str, id: str
) -> None:
    """Long before its read would have ended: for an execution, a promise, and a polled entry of a journal."""
    server: Any = real_server.sync_client()
    client = SyncClient(real_server.url, namespace=namespace, settings=Settings(read_block_s=60))
    waits = client._waiter.inboxes  # pyright: ignore[reportPrivateUsage]
    async with serving(app):
        await app.rpc("wait", waiting)
        await app.promises.create("gate")
        await app.rpc("journal", sleeping_workflow, 3600)
        for one in ("wait", "journal"):
            await until(app, one, "suspended")

        def in_read() -> bool:
            reads = [one for one in server.client_list() if "/client" in one["name"] and one["cmd"] == "xread"]
            return id == "journal~1" or len(reads) >= 2

        for looks in (in_read, lambda: True):  # another call connects again, wherever in it they are
            waiters = [asyncio.to_thread(client.get(id).result, timeout) for timeout in (None, 90)]
            waiters = [asyncio.create_task(waiter) for waiter in waiters]
            await eventually(lambda: sum(one.waits for one in waits.all()) == 2, "both to wait")
            await eventually(looks, "both to read")
            await asyncio.to_thread(client.close)
            for waiter in waiters:
                with pytest.raises(ClientClosed, match="goes on"):
                    await asyncio.wait_for(waiter, 30)
        await app.promises.resolve("gate")
        await app.promises.resolve("wait~1", 7)
        assert await asyncio.to_thread(client.get("wait").result, 30) == 7
        await app.cancel("journal", force=True)
    await asyncio.to_thread(client.close)


async def test_a_call_that_is_under_way_when_the_client_is_closed_says_so(new_app: NewApp, real_server: Server) -> None:
    app = new_app()
    await store_of(app)
    real_server.sync_client().execute_command("CLIENT", "PAUSE", "1500", "ALL")
    calling = asyncio.create_task(app.rpc("one", double, 1))
    await asyncio.sleep(0)  # it asks
    await asyncio.sleep(0)
    await app.aclose()
    with pytest.raises(ClientClosed):
        await calling


async def test_all_beats_of_a_worker_come_over_the_one_connection_it_names(
    new_app: NewApp, real_server: Server
) -> None:
    """If its connection is gone, others declare a worker dead after one missed heartbeat."""
    client: Any = real_server.sync_client()
    app = new_app(settings=Settings(heartbeat_s=0.05))
    keys = (await store_of(app)).keyspaces[0]
    async with serving(app) as worker:

        def beats() -> tuple[bytes, bytes]:
            return client.zscore(keys.workers, worker.consumer), client.hget(keys.worker(worker.consumer), W["client"])

        first, id = beats()
        for _ in range(3):
            await eventually(lambda seen=first: beats()[0] != seen, "another beat")
            first, same = beats()
            assert same == id
        client.client_kill_filter(_id=id.decode())
        await eventually(lambda: beats()[1] != id, "a beat over another connection, as that one is gone")
