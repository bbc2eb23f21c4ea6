"""Each example, run by a real worker through the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from cryptography.fernet import Fernet

from durasleep import testing
from examples import reminders
from harness.servers import MakeServer
from tests.cli.conftest import Quick
from tests.cli.terminal import Terminal, run_as_program


@pytest.fixture
def terminal(tmp_path_factory: pytest.TempPathFactory, make_server: MakeServer) -> Terminal:
    return Terminal(tmp_path_factory.mktemp("examples"), REDIS_URL=make_server().url)


def waits_for(quick: Quick, terminal: Terminal, id: str) -> list[dict[str, object]]:
    return json.loads(quick(terminal, "get", id, "--json").out)["waiting_on"]


def test_durable_sleep_is_worker_and_client(terminal: Terminal) -> None:
    with terminal.running("worker", "examples.durable_sleep:app", until="is ready"):
        # As a program, it uses the Redis on the default port, which may belong to somebody else.
        done = run_as_program("durable_sleep", terminal)
    assert (done.returncode, done.stdout) == (0, "Slept for 5 seconds\n"), done.stderr


def test_what_is_encrypted_is_plain_text_nowhere_in_redis(terminal: Terminal) -> None:
    terminal.environment["PAYLOAD_KEY"] = Fernet.generate_key().decode()
    with terminal.running("worker", "examples.encrypted:app", until="is ready"):
        done = run_as_program("encrypted", terminal)
    assert (done.returncode, done.stdout) == (0, "Ada Lovelace: 12 letters and in good health\n"), done.stderr
    client: Any = redis.Redis.from_url(terminal.environment["REDIS_URL"])
    with client:
        dumps = [client.dump(key) for key in client.scan_iter("*")]
        fields = client.hgetall("{durasleep:0}:promise:diagnosis-1")
    assert b"diagnose" in fields.values()
    assert fields[b"1"].startswith(b"sr")  # the step is there
    for plain in (b"Ada", b"Lovelace", b"letters"):
        assert not any(plain in dump for dump in (*dumps, *fields.values()))
    without_key = terminal.run("rpc", "diagnosis-1", "diagnose", "Ada Lovelace")
    assert without_key.code != 0
    assert "Traceback" not in without_key.err
    assert len(without_key.err.splitlines()) == 1


def test_steps_charge_wait_and_ship(terminal: Terminal, quick: Quick) -> None:
    with terminal.running("worker", "examples.steps:app", until="is ready"):
        done = quick(terminal, "rpc", "order-42", "fulfil_order", '{"sku": "tea", "cents": 1250}', "0.5")
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
