"""The recipes with messages, and what may come between: crashes, months, crowds, and people who click twice."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from durasleep import Delivery, Ended
from examples import approval, cart, chat_agent, counter_actor, progress, webhook
from harness.servers import MakeServer
from tests.cli.conftest import Connect, Kit
from tests.cli.terminal import ROOT, Terminal, wait_for
from tests.service.workers import PATIENCE_S, eventually, serving

# -- approval


async def test_an_approval_has_a_reminder_each_day_and_a_deadline(kit: Kit) -> None:
    mails: list[int] = []

    def write_mail(_id: str, _euros: int, day: int) -> None:
        mails.append(day)

    async with kit(approval.app) as env:
        env.mock(approval.write_mail, write_mail)
        given = await env.start(approval.approve_expense, 250, id="expense-7")
        await env.skip(days=2)
        assert mails == [0, 1, 2]
        assert (await env.app.view("expense-7")).status == "waiting for a decision about 250 EUR"
        await env.app.send("expense-7", approval.DECISION, approval.Decision("Ada", approved=False))
        assert await given == "250 EUR declined by Ada"
        late = await env.start(approval.approve_expense, 80, id="expense-8")
        await env.skip(days=4)
        assert await late == "80 EUR declined: nobody answered in time"
        with pytest.raises(Ended):
            await env.app.send("expense-8", approval.DECISION, approval.Decision("Ada", approved=True))


@contextmanager
def web_server(terminal: Terminal) -> Generator[str]:
    """The web application of the approval in a server of its own; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "examples.approval_web:web", "--port", str(port), "--log-level", "warning"],
        cwd=ROOT,
        env={**os.environ, **terminal.environment},
    )
    try:
        yield f"http://127.0.0.1:{port}/expenses"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def ask(method: str, url: str, body: Any = None) -> tuple[int, Any]:
    """A call of a browser: its status code, and its answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_an_approval_is_given_in_a_browser_and_a_second_click_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, make_server: MakeServer
) -> None:
    terminal = Terminal(tmp_path_factory.mktemp("web"), REDIS_URL=make_server().url)
    yes = {"by": "Ada", "approved": True}
    with (
        terminal.running("worker", "examples.approval:app", until="is ready"),
        web_server(terminal) as url,
    ):

        def is_up() -> bool:
            try:
                return ask("GET", f"{url}/nobody")[0] == 404
            except OSError:
                return False

        wait_for(is_up, "the web server")
        assert ask("POST", f"{url}/expense-7", {"euros": 250}) == (200, {"id": "expense-7", "found": "created"})
        wait_for(lambda: ask("GET", f"{url}/expense-7")[1]["status"] is not None, "its status")
        assert ask("GET", f"{url}/expense-7") == (
            200,
            {"state": "pending", "status": "waiting for a decision about 250 EUR"},
        )
        assert ask("POST", f"{url}/expense-7/decision", yes) in (
            (200, {"decision": "delivered"}),
            (200, {"decision": "stored"}),
        )
        wait_for(lambda: ask("GET", f"{url}/expense-7")[1]["state"] == "resolved", "its end")
        assert ask("POST", f"{url}/expense-7/decision", yes)[0] in (200, 409)
        assert ask("POST", f"{url}/expense-9/decision", yes)[0] == 404
        assert ask("POST", f"{url}/expense-7/decision", {"by": "Ada"})[0] == 422
    assert terminal.run("rpc", "expense-7", "approve_expense", "250").out == "250 EUR approved by Ada\n"


# -- a cart


async def test_a_cart_lives_for_months_and_loses_nothing(kit: Kit) -> None:
    reminders: list[dict[str, int]] = []

    def remind(_id: str, items: dict[str, int]) -> None:
        reminders.append(dict(items))

    async with kit(cart.app) as env:
        env.mock(cart.remind, remind)
        for sku in ("tea", "cup"):
            await env.app.send("cart-ada", cart.CHANGES, cart.Change(sku, 1), start=(cart.cart,))
        await env.skip(days=65)
        assert reminders == [{"tea": 1, "cup": 1}] * 2
        for _ in range(2 * cart.CHANGES_EACH):
            await env.app.send("cart-ada", cart.CHANGES, cart.Change("tea", 1), start=(cart.cart,))
        await env.app.send("cart-ada", cart.CHANGES, cart.Change("", 0))
        items = {"tea": 1 + 2 * cart.CHANGES_EACH, "cup": 1}
        assert await env.run(cart.cart, id="cart-ada") == items
        assert (await env.app.view("cart-ada")).values["items"] == items


async def test_the_first_changes_of_a_cart_at_the_same_time_make_one_cart(connect: Connect) -> None:
    app = connect(cart.app)
    changes = [cart.Change(f"sku-{n}", n) for n in range(1, 21)]
    await asyncio.gather(*(app.send("cart-bob", cart.CHANGES, change, start=(cart.cart,)) for change in changes))
    await app.send("cart-bob", cart.CHANGES, cart.Change("", 0))
    async with serving(app):
        handle = await app.rpc("cart-bob", cart.cart)
        assert await handle.result(PATIENCE_S) == {f"sku-{n}": n for n in range(1, 21)}


# -- an agent


async def test_an_agent_goes_on_where_it_was_when_its_worker_dies(connect: Connect) -> None:
    app = connect(chat_agent.app)
    thought: list[str] = []
    stands = asyncio.Event()

    async def think(history: list[str]) -> str:
        thought.append(history[-1])
        if len(thought) == 2:  # of the worker that dies: the tool has answered
            stands.set()
            await asyncio.Event().wait()
        return chat_agent.think(history)

    question = asyncio.ensure_future(
        app.ask("chat-ada", "question", "What is 6 times 7?", timeout="1m", start=(chat_agent.chat,))
    )
    async with serving(app, "w1", overrides={chat_agent.think: think}) as first:
        async with asyncio.timeout(PATIENCE_S):
            await stands.wait()
        first.crash()
        await eventually(lambda: not first.held(), "the first to be dead")
        async with serving(app, "w2", overrides={chat_agent.think: think}):
            assert await question == "That is 42."
            assert await app.ask("chat-ada", "question", "Who are you?", timeout="1m") == "I can only count."
            assert (await app.view("chat-ada")).values == {"status": "waiting", "questions": 2}
    assert thought[:3] == ["user: What is 6 times 7?", "tool: 42", "tool: 42"], "the first thought is not made again"


# -- an actor


async def test_an_actor_answers_a_crowd_one_by_one_over_several_runs(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counter_actor, "QUESTIONS_EACH", 30)
    app = connect(counter_actor.app)
    async with serving(app, "w1"), serving(app, "w2"):
        answers = await asyncio.gather(
            *(
                app.ask("counter", counter_actor.ADD, 1, timeout="1m", returns=int, start=(counter_actor.counter,))
                for _ in range(100)
            )
        )
        assert sorted(answers) == list(range(1, 101))
        assert await app.ask("counter", counter_actor.ADD, -100, timeout="1m") == 0


# -- a webhook


async def test_an_event_that_is_sent_twice_at_a_time_counts_once(connect: Connect) -> None:
    app = connect(webhook.app)
    handle = await app.rpc("order-7", webhook.order, 300)
    events = [webhook.Payment(f"evt-{n}", 100) for n in (1, 2)]
    sent = await asyncio.gather(
        *(app.send("order-7", webhook.PAYMENTS, event, key=event.event) for event in events * 3)
    )
    assert sent.count(Delivery.DUPLICATE) == 4
    async with serving(app):
        await eventually(lambda: status_is(app, "200 of 300 cents are paid"), "two payments")
        assert await webhook.on_event("order-7", webhook.Payment("evt-3", 100)) == 202
        assert await handle.result(PATIENCE_S) == "paid by evt-1, evt-2, evt-3"
        assert await webhook.on_event("order-7", webhook.Payment("evt-3", 100)) in (200, 202), "a late one does no harm"
        assert await webhook.on_event("order-7", webhook.Payment("evt-4", 100)) == 200


async def status_is(app: Any, status: str) -> bool:
    return (await app.view("order-7")).status == status


# -- progress


async def test_whoever_looks_sees_how_far_a_step_is(connect: Connect) -> None:
    app = connect(progress.app)
    async with serving(app):
        handle = await app.rpc("import-7", progress.import_rows, 300, 0.01)
        views = [view.progress async for view in app.watch("import-7", timeout="30s")]
        seen = [int(one.done) for one in views if one is not None]
        assert seen == sorted(seen)
        assert seen[-1] == 300
        assert len(set(seen)) >= 3, "it was seen while it ran"
        assert await handle == "297 rows imported, 3 had errors"
