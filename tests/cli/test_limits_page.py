"""The code and the commands of docs/limits.md work."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from durasleep import Durasleep
from harness.servers import MakeServer
from tests.cli.conftest import Quick
from tests.cli.terminal import ROOT, Terminal
from tests.service.workers import serving

PAGE = (ROOT / "docs" / "limits.md").read_text()


def blocks(kind: str) -> list[str]:
    return [text for found, text in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", PAGE) if found == kind]


async def charge(names: dict[str, Any]) -> None:
    """What the page shows, with a worker."""
    app: Durasleep = names["app"]
    async with app, serving(app):
        await names["remind"]()
        await names["start"]()
        assert [await app.get(id).result(30) for id in ("charge-7", "charge-8")] == ["ada paid 500"] * 2
        [limit] = await app.limits.ls()
        assert (limit.name, limit.per_key, limit.total, limit.rate) == ("per-customer", 2, 50, "10/s")


def test_its_code_and_its_commands_run(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick: Quick
) -> None:
    url = make_server().url
    monkeypatch.setenv("DURASLEEP_REDIS_URL", url)
    names: dict[str, Any] = {}
    for code in blocks("python"):
        exec(code, names)
    asyncio.run(charge(names))
    terminal = Terminal(tmp_path, COLUMNS="200")
    lines = [line for block in blocks("") for line in block.splitlines()]
    assert len(lines) == 9
    for line in lines:
        ran = quick(terminal, *line.partition("#")[0].split()[1:], "--url", url)
        assert ran.code == 0, (line, ran.err)
    found = quick(terminal, "ls", "--status", "done", "--label", "customer=ada", "--url", url)
    assert "charge-8" in found.out
    assert "charge-7" not in found.out
