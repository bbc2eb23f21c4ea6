"""What has failed: listed with its error, shown with its traceback and what it was called with, and tried again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from durasleep import Context, Durasleep, NotFound, TimedOut, sync
from durasleep.errors import NotAllowed
from durasleep.query.describe import Description
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.workers import eventually, serving, until


def charge(order: str, flag: str, *, amount: int) -> str:
    if not Path(flag).exists():
        raise ValueError(f"the card of {order} was refused")
    return f"{order} has paid {amount}"


async def order(ctx: Context, number: str, flag: str, *, amount: int = 5) -> str:
    paid = await ctx.rpc(charge, number, flag, amount=amount)
    await ctx.sleep(0.01)
    return paid


async def endless(ctx: Context) -> None:
    await ctx.sleep(3600)


@pytest.fixture
def shop(new_app: NewApp) -> Durasleep:
    app = new_app()
    app.task(charge)
    app.workflow(order)
    app.workflow(endless)
    return app


async def test_a_failure_is_shown_with_all_there_is_to_know_and_tried_again(shop: Durasleep, tmp_path: Path) -> None:
    flag = str(tmp_path / "solvent")
    async with serving(shop):
        with pytest.raises(ValueError, match="refused"):
            await (await shop.rpc("order-1", order, "o1", flag, amount=7))
        [found] = [one for one in await shop.search(status="failed") if one.id == "order-1"]
        assert found.error == "ValueError: the card of o1 was refused"
        described = await shop.describe("order-1")
        assert (described.args, described.kwargs) == (["o1", flag], {"amount": 7})
        assert described.traceback is not None
        assert "in charge" in described.traceback
        assert described.since_ms == described.settled_at_ms
        (tmp_path / "solvent").touch()
        assert (await shop.retry("order-1")).word == "retrying"
        assert await shop.get("order-1", str) == "o1 has paid 7"
        assert await shop.search(status="failed") == []
        with pytest.raises(NotAllowed, match="it has resolved"):
            await shop.retry("order-1")
        with pytest.raises(NotFound):
            await shop.retry("order-2")
    assert (await shop.fsck()).is_clean


async def test_what_was_canceled_or_timed_out_has_as_much_time_again(
    shop: Durasleep, real_server: Server, namespace: str
) -> None:
    async with serving(shop):
        late = await shop.rpc("late", endless, timeout=0.3)
        with pytest.raises(TimedOut):
            await late
        before = await shop.describe("late")
        assert [one.id for one in await shop.search(status="timedout")] == ["late"]
        client = sync.Client(real_server.url, namespace=namespace)
        assert (await asyncio.to_thread(client.retry, "late")).word == "retrying"
        again = await until(shop, "late", "suspended")
        assert again.timeout_at_ms is not None
        assert again.timeout_at_ms - again.created_at_ms == (before.timeout_at_ms or 0) - before.created_at_ms
        with pytest.raises(TimedOut):
            await shop.get("late")
        client.close()
        await shop.rpc("stopped", endless)
        await until(shop, "stopped", "suspended")
        await shop.cancel("stopped", force=True)
        assert [one.id for one in await shop.search(status="canceled")] == ["stopped"]
        assert (await shop.retry("stopped")).word == "retrying"
        assert (await shop.retry("stopped")).word == "running"
        waiting = (await until(shop, "stopped", "suspended")).waiting_on
        assert [one.since_ms for one in waiting] == [(await shop.describe("stopped")).created_at_ms]
        await shop.cancel("stopped", force=True)


async def naps_twice(ctx: Context) -> None:
    await ctx.sleep(1.2)
    await ctx.sleep(3600, name="second")


async def test_what_is_waited_for_tells_since_when(new_app: NewApp) -> None:
    app = new_app()
    app.workflow(naps_twice)
    async with serving(app):
        await app.rpc("naps", naps_twice)

        async def naps_again() -> Description | None:
            described = await app.describe("naps")
            return described if [one.name for one in described.waiting_on] == ["second"] else None

        described = await eventually(naps_again, "the second nap")
        [pending] = described.waiting_on
        assert 1200 <= pending.since_ms - described.created_at_ms < 30_000
        assert pending.since_ms <= described.since_ms
        await app.cancel("naps", force=True)
