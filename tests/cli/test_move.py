"""``durasleep move`` from the command line: what is shown before, and what is said at the end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis import Redis

from harness.servers import MakeServer
from tests.cli.conftest import NewProject, Quick
from tests.cli.terminal import Terminal, lines, wait_for

APP = """
from durasleep import Context, Durasleep

app = Durasleep()

@app.workflow
async def sleep(ctx: Context, seconds: float) -> str:
    await ctx.sleep(seconds)
    return "awake"
"""


@pytest.fixture
def here(new_project: NewProject) -> Terminal:
    """A sleeper whose worker has left, and an execution that waits for a worker."""
    terminal = new_project(shop=APP, persist=False)
    with terminal.running("worker", "shop", "--name", "w1", until="is ready"):
        terminal.run("rpc", "a", "sleep", "600", "--no-wait")
        wait_for(lambda: json.loads(terminal.run("get", "a", "--json").out)["status"] == "suspended", "it to sleep")
    terminal.run("rpc", "b", "sleep", "0", "--no-wait")
    return terminal


def test_a_namespace_is_shown_and_moved(here: Terminal, quick: Quick, make_server: MakeServer) -> None:
    new = make_server(persist=False).url
    asked = quick(here, "move", "--to", new, "--partitions", "16")
    assert (asked.code, asked.out) == (2, "")
    shown = lines(asked.err)
    assert shown[0].startswith("Move namespace 'durasleep' of 127.0.0.1:")
    assert shown[0].endswith(", with 16 partitions:")
    assert [line.split(maxsplit=1)[0] for line in shown[1:7]] == ["2", "0", "0", "1", "1", "0"]
    assert shown[7:] == ["error: nothing was moved; to move it, add --yes"]
    moved = quick(here, "move", "--to", new, "--partitions", "16", "--yes")
    assert (moved.code, lines(moved.err)[-1]) == (0, "Moved 2 executions and promises, and 0 schedules.")
    refused = quick(here, "get", "a")
    assert refused.code == 4
    assert "was moved: use namespace 'durasleep' of 127.0.0.1:" in refused.err
    assert quick(here, "get", "a", "--url", new).code == 0
    assert quick(here, "fsck", "--url", new).code == 0
    again = quick(here, "move", "--to", new, "--partitions", "16", "--yes")
    assert (again.code, lines(again.err)[-1]) == (0, "Moved 0 executions and promises, and 0 schedules.")


def test_what_is_left_behind_is_named(here: Terminal, quick: Quick) -> None:
    url = here.environment["DURASLEEP_REDIS_URL"]
    redis: Any = Redis.from_url(url)
    redis.hset("{durasleep:0}:promise:b", "1", "nonsense")
    same = quick(here, "move", "--to", url, "--partitions", "4", "--yes")
    assert (same.code, len(lines(same.err))) == (2, 1)
    assert "is in use, and a move makes a new one: give it a name with --to-namespace" in same.err
    moved = quick(here, "move", "--to", url, "--partitions", "4", "--yes", "--to-namespace", "wide")
    assert moved.code == 1
    assert lines(moved.err)[-2:] == [
        "Moved 1 executions and promises, and 0 schedules.",
        "error: promise:b is left behind: journal entry b~1 is not one of ours",
    ]
