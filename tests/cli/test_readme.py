"""The README is a promise: what it shows runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from textwrap import indent

from tests.cli.conftest import Quick
from tests.cli.terminal import ROOT, Terminal, wait_for
from tests.servers import MakeServer

README = (ROOT / "README.md").read_text()


def block_after(text: str) -> str:
    """The first code block after a text."""
    found = re.search(r"```\w*\n(.*?)```", README[README.index(text) :], re.DOTALL)
    assert found is not None
    return found[1]


def test_the_first_workflow_runs_as_shown_and_outlives_its_server(tmp_path: Path) -> None:
    (tmp_path / "welcome.py").write_text(block_after("`welcome.py`:"))
    commands = [line.split()[1:] for line in block_after("`durasleep dev welcome` starts").splitlines()]
    assert [command[0] for command in commands] == ["rpc", "get"]
    terminal = Terminal(tmp_path)
    with terminal.running("dev", "welcome", until="is ready"):
        rpc = [*commands[0][:-1], "2"]
        assert terminal.run(*rpc, "--no-wait").code == 0
        wait_for(lambda: "asleep" in terminal.run(*commands[1]).out, "the sleep")
    with terminal.running("dev", "welcome", until="is ready"):
        assert terminal.run(*rpc).out == "ada@example.org was welcomed\n"


def test_an_application_with_a_client_of_its_own_is_embedded_as_shown(make_server: MakeServer) -> None:
    url = make_server().url
    asynchronous, sync = python_blocks("## In an application that already has a Redis client")
    given = """
import asyncio
from dataclasses import dataclass
from datetime import timedelta

import redis
import redis.asyncio

from durasleep import Context, Durasleep
"""
    program = f"""{given}
@dataclass
class Order:
    sku: str

async def fulfil_order(ctx: Context, order: Order) -> str:
    return f"{{order.sku}} sent"

async def sleeping_workflow(ctx: Context, secs: int) -> str:
    await ctx.sleep(secs / 100)
    return f"Slept for {{secs}} seconds"

async def main(existing_client, order):
{indent(asynchronous.replace("handle = await", REGISTER + "handle = await"), "    ")}
    print(receipt)
    await asyncio.to_thread(blocking)
    worker.stop()
    await serving

def blocking():
{indent(sync.replace("redis.Redis()", f"redis.Redis.from_url({url!r})"), "    ")}

for client in (redis.asyncio.Redis.from_url({url!r}), redis.Redis.from_url({url!r}, decode_responses=True)):
    asyncio.run(main(client, Order("tea")))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["tea sent", "Slept for 5 seconds"] * 2


REGISTER = """
app.workflow(fulfil_order)
app.workflow(sleeping_workflow)
worker = app.worker(concurrency=100)
serving = asyncio.create_task(worker.run())
await worker.ready.wait()
"""


def python_blocks(heading: str) -> list[str]:
    """The Python of one section."""
    section = README[README.index(heading) + len(heading) :].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def test_every_command_it_shows_is_known_with_its_options(tmp_path: Path, quick: Quick) -> None:
    terminal = Terminal(tmp_path, COLUMNS="200")
    for line in block_after("## The command line").splitlines():
        words = line.split()[1:]
        commands = [[words[0], sub] for sub in words[1].split("|")] if "|" in line else [[words[0]]]
        helps = [quick(terminal, *command, "--help") for command in commands]
        assert all(help.code == 0 for help in helps)
        for option in re.findall(r"--[a-z-]+", line):
            assert any(option in help.out for help in helps), f"{commands} {option}"


def test_every_file_it_links_to_exists() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).exists(), link


def test_its_scripts_exist_and_can_be_run() -> None:
    for name in ("demo", "test", "check", "fix", "bench"):
        assert f"scripts/{name}" in README
        assert (ROOT / "scripts" / name).stat().st_mode & 0o111
