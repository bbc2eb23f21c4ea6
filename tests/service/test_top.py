"""``durasleep top`` on a real server, with a real worker: what it shows, its keys, and an outage."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from durasleep import Context, Durasleep, Limit
from durasleep.cli.top import app as top_app
from durasleep.cli.top import looking
from durasleep.cli.top.app import Top
from durasleep.cli.top.pane import Pane
from durasleep.cli.top.screens import Execution, Help
from harness.servers import MakeServer, Server
from tests.service.fixtures import NewApp
from tests.service.functions import failing, passage, sleeping_workflow
from tests.service.workers import Effects, eventually, serving, until


async def limited_sleep(ctx: Context, seconds: float) -> str:
    return await sleeping_workflow(ctx, seconds)


WIDE, NARROW = (140, 40), (80, 24)
PEAR = "pear [red]x[/] 漢"
HOSTILE = "[bold red]x[/] \x1b[2J ä漢"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks more often than people could read."""
    monkeypatch.setattr(top_app, "LOOK_S", 0.1)


@asynccontextmanager
async def shown(app: Durasleep, size: tuple[int, int] = WIDE) -> AsyncGenerator[Pilot[None]]:
    top = Top(app, await looking.read(app), "the server of this test")
    async with top.run_test(size=size) as pilot:
        yield pilot


def text_of(pilot: Pilot[None], id: str) -> str:
    """What a widget that is no table shows."""
    return str(pilot.app.screen.query_one(f"#{id}", Static).content)


def rows_of(pilot: Pilot[None], id: str) -> list[list[str]]:
    """What a pane shows."""
    pane = pilot.app.query_one(f"#{id}", Pane)
    return [[str(cell) for cell in pane.get_row_at(index)] for index in range(pane.row_count)]


async def seen(pilot: Pilot[None], id: str, *words: str) -> None:
    """A pane or another widget shows these words."""

    async def look() -> bool:
        await pilot.pause()
        is_pane = isinstance(pilot.app.screen.query_one(f"#{id}"), Pane)
        text = "\n".join(" ".join(row) for row in rows_of(pilot, id)) if is_pane else text_of(pilot, id)
        return all(word in text for word in words)

    await eventually(look, f"{id} to show {words}")


async def test_it_shows_what_is_there_while_it_changes(app: Durasleep, effects: Effects) -> None:
    await app.options(target="nobody", priority=2).start("elsewhere", 1)
    async with serving(app, "ann", concurrency=4), shown(app) as pilot:
        await seen(pilot, "groups", "nobody", "P2 1", "none")
        assert rows_of(pilot, "halted") == []
        runs = await app.rpc("runs", passage, effects.path)
        await app.rpc("sleeps", sleeping_workflow, 3600)
        bad = await app.rpc("bad", failing, HOSTILE)
        with pytest.raises(ValueError, match="ä漢"):
            await bad.result(20)
        await app.rpc("stops", sleeping_workflow, 60)
        await until(app, "stops", "suspended")
        await app.halt("stops", "by hand")
        await seen(pilot, "workers", "ann", "1 of 4")
        await seen(pilot, "tiles", "1 queued", "1 running", "2 sleeping", "1 halted", "1 workers", "next due")
        await seen(pilot, "dues", "sleeps~1", "timer of sleeping_workflow", "in 59 min")
        await seen(pilot, "halted", "stops", "by hand")
        await seen(pilot, "failures", "bad", "failing", "ValueError: [bold red]x[/] \\x1b[2J ä漢")
        await seen(pilot, "chart", "1 an hour", "1 failed")
        effects.open("gate")
        await runs.result(20)
        await seen(pilot, "workers", "0 of 4")
        await app.resume("stops")
        await eventually(lambda: rows_of(pilot, "halted") == [], "the pane of the halted ones to be empty")


async def test_limits_show_who_is_parked(new_app: NewApp, effects: Effects) -> None:
    app = new_app()
    app.workflow(name="limited", limit=Limit("few", total=1, hold="life"))(limited_sleep)
    async with serving(app), shown(app, NARROW) as pilot:
        handles = [await app.rpc(f"l{n}", "limited", 3600) for n in range(3)]
        await seen(pilot, "limits", "few", "1 of 1", "2")
        for handle in handles:
            await handle.cancel(force=True)
        await seen(pilot, "limits", "0 of 1", "0")


async def test_its_keys(app: Durasleep) -> None:
    async with serving(app, "ann"):
        for name in ("apple", PEAR):
            await app.rpc(name, sleeping_workflow, 3600)
            await until(app, name, "suspended")
        async with shown(app, NARROW) as pilot:
            await pilot.press("tab", "right", "left")
            assert pilot.app.focused is pilot.app.query_one("#workers")
            while pilot.app.focused is not pilot.app.query_one("#dues"):
                await pilot.press("right")
            await pilot.press("down", "enter")
            assert isinstance(pilot.app.screen, Execution)
            await seen(pilot, "history", PEAR, "asleep until", "timer")
            await pilot.press("escape")
            await pilot.press("question_mark")
            assert isinstance(pilot.app.screen, Help)
            await pilot.press("q")
            await pilot.press("slash", *"APPLE")
            assert [row[1] for row in rows_of(pilot, "dues")] == ["apple~1"]
            await pilot.press("enter", "enter")
            assert isinstance(pilot.app.screen, Execution)
            await pilot.press("escape", "escape")
            assert len(rows_of(pilot, "dues")) == 2
            assert not pilot.app.query_one("#filter", Input).display
            await pilot.press("p")
            assert "paused" in text_of(pilot, "head")
            await app.cancel(PEAR, force=True)
            await pilot.pause(0.2)
            assert len(rows_of(pilot, "dues")) == 2
            await pilot.press("p")
            await eventually(lambda: len(rows_of(pilot, "dues")) == 1, "the screen to go on")
            await pilot.press("q")
        assert pilot.app.return_code == 0


async def test_the_cursor_stays_on_its_row(app: Durasleep) -> None:
    for n in range(3):
        await app.options(delay=3600 + n).rpc(f"d{n}", sleeping_workflow, 1)
    async with shown(app) as pilot:
        dues = pilot.app.query_one("#dues", Pane)
        dues.focus()
        await pilot.press("down")
        assert dues.opens == "d1"
        await app.options(delay=60).rpc("earlier", sleeping_workflow, 1)
        await seen(pilot, "dues", "earlier")
        assert dues.opens == "d1"


async def test_an_outage_is_said_and_overcome(
    make_server: MakeServer, real_server: Server, new_app: NewApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_app, "_SILENT_S", 0.2)
    server = make_server()
    app = new_app(server.url)
    await app.options(delay=3600).rpc("waits", sleeping_workflow, 1)
    async with shown(app, NARROW) as pilot:
        top = pilot.app
        assert isinstance(top, Top)
        server.kill()
        await eventually(lambda: top.problem != "", "the outage to be said")
        await seen(pilot, "problem", "No answer from the server of this test", "trying again")
        assert [row[1] for row in rows_of(pilot, "dues")] == ["waits"]
        server.start()
        await eventually(lambda: top.problem == "", "the answer")
        await app.options(delay=7200).rpc("later", sleeping_workflow, 1)
        await seen(pilot, "dues", "later")


async def test_the_chart_and_the_numbers_fit_any_width(app: Durasleep) -> None:
    for size in ((40, 10), NARROW, WIDE, (300, 60)):
        async with shown(app, size) as pilot:
            await pilot.pause()
            for line in (*text_of(pilot, "chart").splitlines(), text_of(pilot, "head")):
                assert len(line) <= size[0] - 2
