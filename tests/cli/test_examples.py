"""Each example, run by a real worker through the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.cli.terminal import ROOT, Terminal, wait_for
from tests.servers import MakeServer


@pytest.fixture
def terminal(tmp_path_factory: pytest.TempPathFactory, make_server: MakeServer) -> Terminal:
    return Terminal(tmp_path_factory.mktemp("examples"), REDIS_URL=make_server().url)


def waits_for(terminal: Terminal, id: str) -> list[dict[str, object]]:
    return json.loads(terminal.run("get", id, "--json").out)["waiting_on"]


def test_durable_sleep_is_worker_and_client(make_server: MakeServer, terminal: Terminal) -> None:
    with terminal.running("worker", "examples.durable_sleep:app", until="is ready"):
        assert terminal.run("rpc", "short", "sleeping_workflow", "1").out == "Slept for 1 seconds\n"
    # The file itself names no Redis: run as a program it uses the default one, which a test must not touch.
    done = subprocess.run(
        [sys.executable, "-c", "import examples.durable_sleep as e; print(e.app.registry.names())"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "sleeping_workflow" in done.stdout


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
