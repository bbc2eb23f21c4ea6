"""``durasleep view``, and where else people see what executions publish."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.cli.conftest import NewProject, Quick
from tests.cli.terminal import COMMAND, PATIENCE_S, Terminal, wait_for
from tests.cli.test_screen import ESCAPES, OnScreen

APP = """
import asyncio
from pathlib import Path

import durasleep
from durasleep import Context, Durasleep

app = Durasleep()

async def copy(files: int) -> None:
    durasleep.publish(file="a\\x1b[2J")
    durasleep.progress(1, files, "copying")
    while not Path("go").exists():
        await asyncio.sleep(0.02)
    durasleep.progress(files, files)

@app.workflow
async def order(ctx: Context, files: int) -> str:
    ctx.publish(status="importing", cents=4200)
    await ctx.run(copy, files)
    ctx.publish(status="imported")
    return "done"

@app.workflow
async def quiet(ctx: Context) -> None:
    await ctx.promise()
"""


@pytest.fixture
def here(new_project: NewProject) -> Iterator[Terminal]:
    """An application and a worker of it."""
    terminal = new_project(shop=APP)
    with terminal.running("worker", "shop", until="is ready"):
        yield terminal


def go(here: Terminal) -> None:
    (here.directory / "go").touch()


def test_it_is_shown_now_and_after_the_end(here: Terminal, quick: Quick) -> None:
    quick(here, "rpc", "a", "order", "4", "--no-wait")
    wait_for(lambda: '"copying' in quick(here, "view", "a", "--json").out, "its progress")
    found = json.loads(quick(here, "view", "a", "--json").out)
    at_ms = found["steps"]["1"].pop("at_ms")
    assert at_ms > 0
    progress = {"done": 1, "total": 4, "text": "copying", "fraction": 0.25}
    assert found == {
        "id": "a",
        "state": "pending",
        "status": "importing",
        "values": {"status": "importing", "cents": 4200},
        "progress": progress,
        "steps": {"1": {"values": {"file": "a\x1b[2J"}, "progress": progress}},
    }
    shown = quick(here, "view", "a").out
    assert re.sub(r" +", " ", shown).splitlines() == [
        "id a",
        "state pending",
        "progress 1 of 4 (25 %), copying",
        "status importing",
        "cents 4200",
        'step 1 1 of 4 (25 %), copying; file="a\\u001b[2J"',
    ]
    assert re.search(r"^says +importing; 1 of 4 \(25 %\), copying", quick(here, "get", "a").out, re.MULTILINE)
    assert re.search(r"^a +order .*importing; 1 of 4 \(25 %\)", quick(here, "tree", "a").out, re.MULTILINE)
    go(here)
    wait_for(lambda: "imported" in quick(here, "view", "a").out, "its last word")
    assert quick(here, "rpc", "a", "order", "4").out == "done\n"
    assert "step copy  resolved" in quick(here, "tree", "a").out
    assert "4 of 4 (100 %)" in quick(here, "tree", "a").out
    assert quick(here, "view", "nobody").code == 1
    quick(here, "rpc", "q", "quiet", "--no-wait")
    assert "says" not in quick(here, "get", "q").out
    assert quick(here, "view", "q").out.split() == ["id", "q", "state", "pending"]


def test_each_change_is_one_line_for_a_program(here: Terminal, quick: Quick) -> None:
    quick(here, "rpc", "a", "order", "4", "--no-wait")
    following = subprocess.Popen(
        [*COMMAND, "view", "a", "--follow", "--json"],
        cwd=here.directory,
        env=here.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    first = json.loads(following.stdout.readline())
    assert first["state"] == "pending"
    go(here)
    out, _ = following.communicate(timeout=PATIENCE_S)
    seen = [json.loads(line) for line in out.splitlines()]
    assert seen[-1]["state"] == "resolved"
    assert seen[-1]["status"] == "imported"
    assert following.returncode == 0


def test_changes_for_a_person_stand_below_each_other(here: Terminal, quick: Quick) -> None:
    quick(here, "rpc", "a", "order", "4", "--no-wait")
    go(here)
    done = here.run("view", "a", "--follow")
    assert done.code == 0
    *_, last = done.out.split("\n\n")
    assert re.sub(r" +", " ", last).splitlines()[:3] == ["id a", "state resolved", "progress 4 of 4 (100 %)"]


def test_a_terminal_shows_a_bar_and_the_data_is_left_alone(here: Terminal, quick: Quick) -> None:
    waiting = OnScreen(here, "rpc", "a", "order", "4")
    waiting.wait_for("25 % a: 1 of 4 (25 %), copying")
    assert "━━━" in waiting.raw
    go(here)
    code, out, screen = waiting.end()
    assert (code, out) == (0, "done\n")
    assert "Traceback" not in screen
    following = OnScreen(here, "view", "a", "--follow")
    code, out, screen = following.end()
    assert code == 0
    assert "imported" in out


def test_a_person_who_has_seen_enough_stops_it(here: Terminal, quick: Quick) -> None:
    quick(here, "rpc", "q", "quiet", "--no-wait")
    following = subprocess.Popen(
        [*COMMAND, "view", "q", "--follow"], cwd=here.directory, env=here.environment, stdout=subprocess.PIPE, text=True
    )
    assert following.stdout is not None
    assert following.stdout.readline().split() == ["id", "q"]
    following.send_signal(signal.SIGINT)
    following.communicate(timeout=PATIENCE_S)
    assert following.returncode == 130
    assert "Everything is well." in ESCAPES.sub("", here.run("fsck").err + here.run("fsck").out)
