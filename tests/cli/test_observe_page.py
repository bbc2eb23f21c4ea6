"""The code and the commands of docs/operate/observe.md work, and show what is there."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from durasleep import Context, Durasleep, Retry
from durasleep.cli.output import chart
from harness.servers import MakeServer
from tests.cli.conftest import Quick
from tests.cli.terminal import ROOT, Terminal
from tests.service.workers import serving

PAGE = (ROOT / "docs" / "operate" / "observe.md").read_text()


def blocks(kind: str) -> list[str]:
    return [text for found, text in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", PAGE) if found == kind]


async def order(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What the page shows, with a worker; an execution waits for a group that nobody serves."""
    tries: list[str] = []

    async def ship() -> str:
        tries.append("")
        if len(tries) == 1:
            raise ConnectionError("the shop is down")
        return "shipped"

    async with Durasleep(url) as app:
        app.task(name="ship")(ship)

        @app.workflow
        async def checkout(ctx: Context, customer: str) -> str:
            await ctx.sleep(0.01)
            return await ctx.run(ship, retry=Retry(attempts=2, delay=0.01))

        @app.task
        async def refuse() -> None:
            raise LookupError("no such customer")

        async with serving(app, "ann", concurrency=3):
            bought = await app.options(labels={"customer": "ada"}).rpc("order-42", checkout, "ada")
            assert await bought.result(20) == "shipped"
            with pytest.raises(LookupError):
                await (await app.options(labels={"customer": "ada"}).rpc("order-43", refuse)).result(20)
            await app.options(target="nobody").rpc("order-44", "checkout", "bob")
            names: dict[str, Any] = {"app": app}
            for code in blocks("python"):
                body = code.replace("\n", "\n    ")
                exec(f"async def run():\n    {body}\n", names)
                await names["run"]()
            assert [worker.name for worker in (await app.overview()).workers] == ["ann"]
    said = capsys.readouterr().out.splitlines()
    assert "nobody 1 0" in said[0]
    assert "order-43 LookupError: no such customer" in said
    assert said[-1].startswith("step ship resolved")
    assert said[-1].endswith(" 2")


def test_its_code_and_its_commands_run(
    make_server: MakeServer, quick: Quick, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = make_server().url
    asyncio.run(order(url, capsys))
    terminal = Terminal(tmp_path, COLUMNS="200", DURASLEEP_REDIS_URL=url)
    lines = [line for block in blocks("console") for line in block.splitlines()]
    shown = {line: quick(terminal, *line.split()[1:]) for line in (one.removeprefix("$ ") for one in lines)}
    assert len(shown) == 7
    assert {ran.code for ran in shown.values()} == {0}
    assert re.search(r"nobody +1 +0 .* none", shown["durasleep groups"].out)
    assert "order-43" in shown["durasleep ls --status failed --since 1d --label customer=ada"].out
    assert "order-42" not in shown["durasleep ls --status failed --since 1d --label customer=ada"].out
    assert re.search(r"checkout +1 ", shown["durasleep stats"].out)
    assert re.search(r"refuse +1 +1 ", shown["durasleep stats"].out)
    calls_shown = shown["durasleep get order-42 --values"].out
    assert re.search(
        r'1 +timer +at once .* resolved\n2 +step ship +at once .* resolved +2 attempts, "shipped"', calls_shown
    )
    assert '"ada"' in calls_shown
    assert "labels" in calls_shown
    calls = json.loads(quick(terminal, "get", "order-42", "--json").out)["calls"]
    assert [(call["kind"], call["attempts"], call["value"]) for call in calls] == [
        ("timer", 1, None),
        ("step", 2, None),
    ]
    assert json.loads(quick(terminal, "groups", "--json").out)["groups"][0]["queued"] == 1
    assert json.loads(quick(terminal, "workers", "--json").out) == {"workers": [], "is_all": True}
    totals = json.loads(shown["durasleep stats --since 15m --json"].out)["total"]
    assert (totals["ended"], totals["failed"]) == (2, 1)


def test_top_says_what_it_needs(quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(tmp_path)
    ran = quick(terminal, "top")
    assert (ran.code, "needs a terminal" in ran.err) == (2, True)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    for name in [name for name in sys.modules if name.startswith(("textual", "durasleep.cli.top"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "textual", None)
    ran = quick(terminal, "top")
    assert (ran.code, "pip install 'durasleep[tui]'" in ran.err) == (2, True)


def test_bad_input_is_one_sentence(quick: Quick, tmp_path: Path) -> None:
    for words in (["stats", "--since", "soon"], ["stats", "--since", "2026-01-01"], ["workers", "--unknown", "x"]):
        ran = quick(Terminal(tmp_path), *words)
        assert ran.code == 2
        assert len(ran.err.splitlines()) == 1


def test_a_chart_has_a_column_for_each_part_and_the_last_ones_are_whole() -> None:
    assert chart.in_columns([1, 2, 3, 4, 5], 3) == [1, 5, 9]
    assert chart.in_columns([], 3) == []
    assert chart.line([0, 1, 4, 8]) == "·▁▄█"
    assert [chart.rate(one) for one in (0, 0.016, 2.5, 1234)] == ["0", "0.02", "2.5", "1,234"]
