"""The code and the commands of docs/messages.md work, and the code of the pages for those who come from elsewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from durasleep import Durasleep
from harness.servers import MakeServer
from tests.cli.conftest import Quick
from tests.cli.terminal import ROOT, Terminal
from tests.service.workers import serving

PAGE = (ROOT / "docs" / "messages.md").read_text()


def blocks(kind: str, page: str = PAGE) -> list[str]:
    return [text for found, text in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", page) if found == kind]


async def test_its_code_runs(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DURASLEEP_REDIS_URL", make_server().url)
    names: dict[str, Any] = {}
    for code in blocks("python"):
        exec(code, names)
    app: Durasleep = names["app"]
    async with app, serving(app):
        await names["pay"]()
        assert capsys.readouterr().out.strip() in ("delivered", "stored")
        assert await app.get("order-42").result(30) == "paid 4200 of 4200"
        await names["pay_early"]()
        assert await app.get("order-43").result(30) == "paid 100 of 100"
        await names["on_webhook"]("evt-9", 7)
        assert await app.get("order-44").result(30) == "paid 7 of 7"
        assert [await names["add"](amount) for amount in (1, 2, 3)] == [1, 3, 6]
        await app.promises.create("approval")
        assert await (await app.rpc("till", names["till"], "counter", "approval")).result(30) is True
        assert await names["add"](0) == 11
        assert await app.get("approval").result(30) == {"ok": True}


def test_its_commands_run(make_server: MakeServer, tmp_path: Path, quick: Quick) -> None:
    url = make_server().url
    (tmp_path / "shop.py").write_text("\n".join(blocks("python")))
    terminal = Terminal(tmp_path, DURASLEEP_REDIS_URL=url)
    [commands] = blocks("")
    send, ask, get = commands.splitlines()
    with terminal.running("worker", "shop", until="is ready"):
        assert quick(terminal, "send", "counter", "add", "1", "--start", "counter").code == 0
        assert quick(terminal, *shlex.split(send)[1:]).out == "order-45: stored until it asks for it\n"
        assert quick(terminal, *shlex.split(ask)[1:]).out == "8\n"
        assert "counter" in quick(terminal, *shlex.split(get)[1:]).out


@pytest.mark.parametrize(
    ("page", "main", "said"),
    [
        ("from-temporal", "play", "7 {'total': 7}"),
        ("from-dbos", "shop", "4200 cents: paid"),
    ],
)
async def test_whoever_comes_from_elsewhere_finds_a_program_that_runs(
    make_server: MakeServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    page: str,
    main: str,
    said: str,
) -> None:
    monkeypatch.setenv("DURASLEEP_REDIS_URL", make_server().url)
    [code] = blocks("python", (ROOT / "docs" / f"{page}.md").read_text())
    names: dict[str, Any] = {}
    exec(code, names)
    app: Durasleep = names["app"]
    async with app, serving(app):
        await names[main]()
    assert capsys.readouterr().out.strip() == said
