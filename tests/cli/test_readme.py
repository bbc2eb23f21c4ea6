"""The code and the commands in the README work."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

from durasleep import Canceled, Context, Durasleep, Retry, testing
from durasleep.cli.app import app
from durasleep.client.client import store_of
from durasleep.protocol.command import Command
from harness.servers import MakeServer
from tests.cli.conftest import Quick
from tests.cli.terminal import ROOT, Terminal, wait_for

GIVEN = (timedelta, Retry)  # what the code of the README has imported

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
        rpc = [*commands[0][:-1], "8"]  # longer than a command takes to find it asleep, on any machine
        assert terminal.run(*rpc, "--no-wait").code == 0
        wait_for(lambda: "asleep" in terminal.run(*commands[1]).out, "the sleep")
    with terminal.running("dev", "welcome", until="is ready"):
        assert terminal.run(*rpc).out == "ada@example.org was welcomed\n"


async def test_what_a_workflow_can_say_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    [code] = python_blocks("## What a workflow can say")
    done: list[str] = []

    class Payments:
        async def charge(self, order_id: str, cents: int) -> str:
            done.append(f"charge {order_id} {cents}")
            if len(done) == 1:
                raise ConnectionError
            return "payment-1"

    @asynccontextmanager
    async def connect_payments() -> AsyncGenerator[Payments]:
        yield Payments()

    def refund(payment: str) -> None:
        done.append(f"refund {payment}")

    async def send_survey(ctx: Context, order_id: str) -> None:
        await ctx.run(done.append, f"survey {order_id}")

    app = Durasleep()
    app.workflow(send_survey)
    names: dict[str, Any] = globals() | {"app": app, "refund": refund, "send_survey": send_survey}
    names["connect_payments"] = connect_payments
    exec(compile("from __future__ import annotations\n" + code, "README.md", "exec"), names)
    async with testing.env(app) as env:
        approved = await env.start(names["order"], 250, id="o-1")
        await env.skip(hours=1)
        await app.promises.resolve("o-1~2")
        assert await approved == "shipped as number 1"
        await env.run_until_idle()
        assert done == ["charge o-1 250", "charge o-1 250", "survey o-1"]
        assert await env.run(names["order"], 100, id="o-2") == "nobody approved"
        canceled = await env.start(names["order"], 50, id="o-3")
        await env.run_until_idle()
        await canceled.cancel()
        with pytest.raises(Canceled):
            await canceled
        assert done[3:] == ["charge o-2 100", "refund payment-1", "charge o-3 50", "refund payment-1"]
        store = await store_of(app)
        await store.call(Command([b"DEL", b"orders-shipped"], int))


def test_a_month_is_tested_as_shown(pytester: pytest.Pytester) -> None:
    [code] = python_blocks("## Test a month in a moment")
    welcome = block_after("`welcome.py`:")
    pytester.makepyfile(welcome=welcome)
    pytester.makepyfile(f"from unittest.mock import Mock\n\nfrom welcome import app, send, welcome\n\n\n{code}")
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def double(number: int) -> int:
    return 2 * number


async def test_a_worker_lives_in_a_web_application_as_shown(make_server: MakeServer) -> None:
    *_, code = python_blocks("## In an application that already has a Redis client")
    async with Durasleep(make_server().url) as app:
        app.task(double)
        names: dict[str, Any] = {"app": app, "asynccontextmanager": asynccontextmanager, "FastAPI": object}
        exec(compile(code, "README.md", "exec"), names)
        async with names["lifespan"](None):
            assert await (await app.rpc("a", double, 4)).result(timeout=20) == 8


def test_an_application_with_a_client_of_its_own_is_embedded_as_shown(make_server: MakeServer) -> None:
    url = make_server().url
    asynchronous, sync, _ = python_blocks("## In an application that already has a Redis client")
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
    print(receipt, len(receipts))
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
    assert done.stdout.splitlines() == ["tea sent 2", "Slept for 5 seconds"] * 2


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


GROUPS = {"promise", "namespace", "group", "schedule", "limit", "index"}
"""Commands with commands of their own."""


def test_every_command_it_shows_is_known_with_its_options(tmp_path: Path, quick: Quick) -> None:
    terminal = Terminal(tmp_path, COLUMNS="200")
    for line in block_after("## The command line").splitlines():
        words = line.split()[1:]
        commands = [[name] for name in words[0].split("|")]
        if words[0] in GROUPS:
            commands = [[words[0], name] for name in words[1].split("|")]
        helps = [quick(terminal, *command, "--help") for command in commands]
        assert all(help.code == 0 for help in helps)
        for option in re.findall(r"--[a-z-]+", line):
            assert any(option in help.out for help in helps), f"{commands} {option}"
    shown = {name for line in block_after("## The command line").splitlines() for name in line.split()[1].split("|")}
    assert shown == {command.name for command in app.registered_commands} | GROUPS


def test_its_scripts_exist_and_can_be_run() -> None:
    for name in ("demo", "test", "check", "fix", "bench"):
        assert f"scripts/{name}" in README
        assert (ROOT / "scripts" / name).stat().st_mode & 0o111
