"""Each example, run by a real worker through the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from durasleep import testing
from examples import reminders
from tests.cli.terminal import ROOT, Terminal, wait_for
from tests.servers import MakeServer


@pytest.fixture
def terminal(tmp_path_factory: pytest.TempPathFactory, make_server: MakeServer) -> Terminal:
    return Terminal(tmp_path_factory.mktemp("examples"), REDIS_URL=make_server().url)


def waits_for(terminal: Terminal, id: str) -> list[dict[str, object]]:
    return json.loads(terminal.run("get", id, "--json").out)["waiting_on"]


def test_durable_sleep_is_worker_and_client(terminal: Terminal) -> None:
    with terminal.running("worker", "examples.durable_sleep:app", until="is ready"):
        # As a program it takes the Redis on the default port, which may be somebody else's.
        client = "import asyncio, examples.durable_sleep as e; e.app.connect({!r}); asyncio.run(e.main())"
        done = subprocess.run(
            [sys.executable, "-c", client.format(terminal.environment["REDIS_URL"])],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, "Slept for 5 seconds\n"), done.stderr


def test_an_approval_is_given_through_the_command_line(terminal: Terminal) -> None:
    with terminal.running("worker", "examples.approval:app", until="is ready"):
        assert terminal.run("rpc", "expense-7", "approve_expense", "250", "--no-wait").code == 0
        wait_for(lambda: [one["id"] for one in waits_for(terminal, "expense-7")] == ["expense-7~1"], "the promise")
        assert terminal.run("promise", "resolve", "expense-7~1", "--value", '"Ada"').out == "resolved\n"
        done = terminal.run("rpc", "expense-7", "approve_expense", "250")
    assert done.out == "250 EUR approved by Ada\n"


def test_an_approval_nobody_gives_is_a_no(terminal: Terminal) -> None:
    with terminal.running("worker", "examples.approval:app", until="is ready"):
        done = terminal.run("rpc", "expense-8", "approve_expense", "250", "0.5")
    assert done.out == "250 EUR declined: nobody answered in time\n"


def test_steps_charge_wait_and_ship(terminal: Terminal) -> None:
    with terminal.running("worker", "examples.steps:app", until="is ready"):
        done = terminal.run("rpc", "order-42", "fulfil_order", '{"sku": "tea", "cents": 1250}', "0.5")
    assert json.loads(done.out) == {"payment": "payment-of-order-42", "parcel": "parcel-with-tea"}


async def test_a_month_of_reminders_passes_in_a_moment() -> None:
    mails: list[str] = []

    def send(email: str, text: str) -> None:
        mails.append(text)

    async with testing.env(reminders.app) as env:
        env.mock(reminders.send, send)
        handle = await env.start(reminders.collect, "ada@example.org", id="invoice-7")
        await env.skip(days=7)
        await reminders.app.promises.resolve("invoice-7~1")
        assert await handle == "paid after 2 reminders"
        assert mails == ["Please pay by resolving invoice-7~1", "Reminder 1", "Reminder 2"]
        assert await env.run(reminders.collect, "bob@example.org") == "given to a lawyer"
        assert len(mails) == 3 + 11
