"""A deployment: workers of this version and of a later one share a group, and take over from one another."""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import durasleep
from durasleep import Context, Durasleep
from durasleep.client.client import store_of
from durasleep.model import PromiseId
from harness.servers import MakeServer, Server, limit
from tests.service.fixtures import NewApp
from tests.service.functions import QUICK, gathering, nap, passage, stand_at
from tests.service.workers import Effects, Workers, eventually, serving, until

pytestmark = pytest.mark.long

PACKAGE = Path(durasleep.__file__).parent
EACH = 8


def a_later_version(directory: Path) -> Path:
    """A possible later version of the same schema: its scripts differ, and its hashes and entries have more fields."""
    shutil.copytree(PACKAGE, directory / "durasleep", ignore=shutil.ignore_patterns("__pycache__"))
    lua = directory / "durasleep" / "protocol" / "lua"
    for script in lua.glob("*.lua"):
        script.write_text(script.read_text() + "\n-- of a later version\n")
    for name, old, new in (
        (
            "make",
            "    if what.queue ~= DEFAULT.queue",
            "    put(record, 'later', 'x')\n    if what.queue ~= DEFAULT.queue",
        ),
        ("dispatch", "'e', epoch, 'x', snapshot)", "'e', epoch, 'x', snapshot, 'later', 'x')"),
    ):
        path = lua / "shared" / f"{name}.lua"
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
    return directory


@pytest.mark.one_partition("it counts the timers of both versions in one key")
async def test_workers_of_two_versions_take_over_from_one_another(
    app: Durasleep, real_server: Server, workers: Workers, effects: Effects, tmp_path: Path
) -> None:
    client: Any = real_server.sync_client()
    later = a_later_version(tmp_path / "later")
    keys = (await store_of(app)).keyspaces[0]
    for round, (first, second) in enumerate(((None, later), (later, None))):
        names = [f"{round}-{number}" for number in range(EACH)]
        gate = f"gate-{round}"
        dying = await workers.begin(f"first-{round}", package=first).ready()
        passages = [await app.rpc(f"passage-{name}", passage, effects.path, gate) for name in names]
        naps = [await app.rpc(f"nap-{name}", nap, effects.path, 1) for name in names]
        await effects.standing(gate, times=EACH)
        for handle in naps:
            await until(app, handle.id, "suspended")
        family = await app.rpc(f"family-{round}", gathering, 3)
        assert await family.result(timeout=30) == [0, 2, 4]
        made_by_first = client.hgetall(keys.promise(f"family-{round}~1"))
        assert (b"later" in made_by_first) == (first is later)
        await dying.kill()
        heir = await workers.begin(f"second-{round}", package=second).ready()
        effects.open(gate)
        for handle in passages:
            assert await handle.result(timeout=30) == f"through {gate}"
            assert effects.count(f"{handle.id} comes") == effects.count(f"{handle.id} goes") == 1
        for handle in naps:
            assert await handle.result(timeout=30) == f"{handle.id} slept for 1 seconds"
        await heir.kill()
    assert (await app.fsck()).is_clean


async def doubled(number: int) -> int:
    return 2 * number


async def woken(ctx: Context, number: int) -> int:
    await ctx.sleep(0.001)
    return await ctx.rpc(doubled, number)


@pytest.mark.parametrize("lacking", [1, 2], ids=["two lack it alike", "two lack it, each in its own way"])
async def test_what_one_of_three_workers_knows_goes_straight_to_it(
    new_app: NewApp, caplog: pytest.LogCaptureFixture, lacking: int
) -> None:
    """Whichever worker reads it first, at its start and after each sleep."""
    knowing, *others = new_app(), new_app(), new_app()
    knowing.workflow(woken)
    knowing.task(doubled)
    if lacking == 2:
        others[0].task(stand_at)
    async with AsyncExitStack() as stack:
        for number, app in enumerate((*others, knowing)):
            await stack.enter_async_context(serving(app, f"w{number}", concurrency=10))
        for number in range(40):
            assert await (await knowing.rpc(f"one-{number}", woken, number)).result(timeout=20) == 2 * number
        handles = await knowing.rpc_many(woken, [(f"many-{number}", number) for number in range(100)])
        assert await knowing.gather(handles) == [2 * number for number in range(100)]
    assert "next try" not in caplog.text
    store = await store_of(knowing)
    loaded = await store.load(PromiseId("one-0"))
    assert loaded is not None
    assert loaded.record.epoch <= 3, "it was dispatched only where it had something to go on with"


@pytest.mark.usefixtures("in_one_partition")
async def test_what_only_a_busy_worker_knows_waits_there_and_others_that_come_and_know_it_have_it(
    new_app: NewApp, real_server: Server, effects: Effects
) -> None:
    knowing, other, coming = (new_app(settings=QUICK) for _ in range(3))
    for app in (knowing, coming):
        app.task(stand_at)
    client: Any = real_server.sync_client()
    keys = (await store_of(knowing)).keyspaces[-1]

    def held() -> dict[str, int]:
        pending = client.xpending(keys.queue("workers"), "workers")["consumers"]
        return {one["name"].decode().partition("/")[0]: one["pending"] for one in pending}

    async with serving(knowing, "w1", concurrency=1), serving(other, "w2"):
        await knowing.rpc_many(stand_at, [(f"a-{number}", effects.path, "gate") for number in range(5)])
        await effects.standing("gate")
        await eventually(lambda: held() == {"w1": 5}, "all to wait for the only one that knows it")
        beats = {client.zscore(keys.workers, name) for name, _ in client.zscan_iter(keys.workers, "w1*")}

        def beaten() -> bool:
            beats.update(client.zscore(keys.workers, name) for name, _ in client.zscan_iter(keys.workers, "w1*"))
            return len(beats) >= 4

        await eventually(beaten, "four beats")
        assert held() == {"w1": 5}, "it has let go of nothing"
        async with serving(coming, "w3", concurrency=10):
            await effects.standing("gate", times=5)
            effects.open("gate")
            for number in range(5):
                await knowing.get(f"a-{number}").result(timeout=20)


async def test_what_no_worker_knows_waits_for_one_that_comes(new_app: NewApp) -> None:
    first, second, knowing = new_app(), new_app(), new_app()
    second.task(stand_at)
    knowing.task(doubled)
    async with serving(first, "w1"), serving(second, "w2"):
        handle = await knowing.rpc("a", doubled, 21)
        assert (await until(knowing, "a", "delayed")).reason == "no worker here knows the function 'doubled'"
        async with serving(knowing, "w3"):
            assert await handle.result(timeout=20) == 42


async def test_where_nothing_may_be_offered_what_is_not_known_waits_for_its_timer(
    new_app: NewApp, make_server: MakeServer, effects: Effects, namespace: str
) -> None:
    """For a Redis user with rights from before there were offers."""
    url = limit(make_server().url, namespace, "-xclaim")
    knowing, other = new_app(url), new_app(url)
    knowing.task(stand_at)
    knowing.task(doubled)
    async with serving(knowing, "w1", concurrency=1):
        first = await knowing.rpc("first", stand_at, effects.path, "gate")
        await effects.standing("gate")
        async with serving(other, "w2"):
            handle = await knowing.rpc("a", doubled, 21)
            assert (await until(knowing, "a", "delayed")).reason == "no worker here knows the function 'doubled'"
        effects.open("gate")
        assert await first == "through gate"
        assert await handle.result(timeout=20) == 42
