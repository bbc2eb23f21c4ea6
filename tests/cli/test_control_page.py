"""The code and the commands of docs/control.md work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import durasleep
from durasleep import Context, Durasleep, Retry
from harness.servers import MakeServer
from tests.cli.conftest import Quick
from tests.cli.terminal import ROOT, Terminal
from tests.service.workers import serving, until

PAGE = (ROOT / "docs" / "control.md").read_text()


def blocks(kind: str) -> list[str]:
    return [text for found, text in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", PAGE) if found == kind]


async def run(code: str, names: dict[str, Any]) -> None:
    """Run code with `await` in it."""
    body = code.replace("\n", "\n    ")
    exec(f"async def run():\n    global app\n    {body}\n", names)
    await names["run"]()


async def test_its_code_runs_as_shown(make_server: MakeServer, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("DURASLEEP_REDIS_URL", make_server().url)
    fork, pause, checkpoint, publishing, reading, audit = blocks("python")
    uploaded: list[str] = []
    async with Durasleep() as app:
        names: dict[str, Any] = {
            "app": app,
            "Context": Context,
            "Durasleep": Durasleep,
            "Retry": Retry,
            "durasleep": durasleep,
            "import_one": len,
        }

        async def upload(file: str) -> None:
            uploaded.append(file)
            if len(uploaded) == 2:
                raise ConnectionError

        names["upload"] = upload
        exec(checkpoint, names)

        async def ship() -> str:
            return "shipped"

        @app.workflow
        async def order(ctx: Context) -> str:
            return await ctx.run(ship)

        async with serving(app):
            assert await (await app.rpc("u", names["upload_all"], ["a", "b", "c"])).result(20) == 3
            assert uploaded == ["a", "b", "b", "c"]
            await (await app.rpc("order-42", order)).result(20)
            await run(fork, names)
            await run(pause, names)
        assert capsys.readouterr().out.splitlines()[:1] == ["shipped"]
        async with Durasleep(namespace="publishing") as names["app"]:
            exec(publishing, names)
            async with serving(names["app"]):
                await names["app"].rpc("order-42", names["order"], ["a.txt", "b"])
                await until(names["app"], "order-42", "suspended")
                await names["app"].promises.resolve("order-42~2")
                await names["app"].get("order-42").result(20)
                await run(reading, names)
        assert capsys.readouterr().out.startswith(
            "waiting for approval 2 1.0\nwaiting for approval StepProgress(done=2"
        )
        names["app"] = app
        await app.rpc("order-42", order)
        await app.options(delay="1h").rpc("order-43", order)
        await run(audit.replace("order-42", "order-43"), names)
        await until(app, "order-43", "done")
        await names["app"].aclose()
    assert capsys.readouterr().out == "support desk cancel order-43\n"


def test_its_commands_are_known_with_their_options(tmp_path: Path, quick: Quick) -> None:
    terminal = Terminal(tmp_path, COLUMNS="200")
    lines = [line for block in blocks("") for line in block.splitlines()]
    assert len(lines) > 6
    for line in lines:
        words = line.split()
        assert words[0] == "durasleep"
        help = quick(terminal, *words[1 : 3 if words[1] == "group" else 2], "--help")
        assert help.code == 0, line
        assert all(option in help.out for option in re.findall(r"--[a-z-]+", line)), line
