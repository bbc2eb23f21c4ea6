"""Messages from the command line: ``durasleep send`` and ``ask``, and what other commands say of them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.cli.conftest import NewProject, Quick
from tests.cli.terminal import Terminal, lines, wait_for
from tests.cli.test_screen import OnScreen

APP = """
from durasleep import Context, Durasleep

app = Durasleep()

@app.workflow
async def order(ctx: Context, cents: int) -> str:
    payment = await ctx.receive("payment", timeout="30m")
    return f"{payment} of {cents}"

@app.workflow
async def quoting(ctx: Context) -> int:
    count = 0
    async for message in ctx.messages("quote"):
        count += 1
        match message.value:
            case "bad":
                await message.reply(error=LookupError("no such item"))
            case "quiet":
                pass
            case "end":
                break
            case value:
                await message.reply(value)
    return count
"""


@pytest.fixture
def here(new_project: NewProject) -> Terminal:
    return new_project(shop=APP)


@pytest.fixture
def worker(here: Terminal) -> Iterator[subprocess.Popen[bytes]]:
    with here.running("worker", "shop", "--name", "w1", until="worker w1 of group workers is ready") as process:
        yield process


def test_send_says_in_a_line_what_became_of_a_message(
    here: Terminal, worker: subprocess.Popen[bytes], quick: Quick
) -> None:
    first = quick(here, "send", "o", "note", "hello", "--start", "order", "5")
    assert (first.code, first.out, first.err) == (0, "o: stored until it asks for it\n", "")
    wait_for(lambda: json.loads(quick(here, "get", "o", "--json").out)["status"] == "suspended", "it to wait")
    shown = quick(here, "get", "o").out
    assert "pending, waiting for message 'payment', until " in shown
    assert "unread     1 message, 6 bytes: 'note' 1" in shown
    assert "for message 'payment', until " in quick(here, "ls").out
    assert re.search(r"o~1  receive 'payment'  for .*, until ", quick(here, "tree", "o").out)
    sent = quick(here, "send", "o", "payment", '{"cents": 5}', "--key", "k", "--by", "ada", "--json")
    assert json.loads(sent.out) == {"id": "o", "channel": "payment", "delivery": "delivered"}
    assert quick(here, "rpc", "o", "order", "5").out == "{'cents': 5} of 5\n"
    late = quick(here, "send", "o", "payment", "5")
    assert (late.code, late.out, late.err) == (1, "", "error: o has ended: resolved\n")
    by = json.loads(quick(here, "audit", "--json").out)
    assert ("ada", "send", "o", "delivered payment") in [(one["by"], one["verb"], one["id"], one["word"]) for one in by]


def test_a_key_is_sent_once(here: Terminal, quick: Quick) -> None:
    for said in ("stored until it asks for it", "not sent, because a message with this key was sent before"):
        sent = quick(here, "send", "o", "payment", "5", "--key", "k", "--start", "order", "--", "5")
        assert (sent.code, sent.out) == (0, f"o: {said}\n")
    [found] = json.loads(quick(here, "ls", "--json").out)["executions"]
    assert (found["id"], found["channels"]) == ("o", [])
    assert json.loads(quick(here, "get", "o", "--json").out)["unread"] == {
        "messages": 1,
        "bytes": 1,
        "channels": {"payment": 1},
    }


def test_ask_prints_the_answer_and_its_exit_code_says_how_it_went(
    here: Terminal, worker: subprocess.Popen[bytes], quick: Quick
) -> None:
    asked = quick(here, "ask", "q", "quote", "text", "--timeout", "20s", "--start", "quoting")
    assert (asked.code, asked.out, asked.err) == (0, "text\n", "")
    asked = quick(here, "ask", "q", "quote", '{"of": [1, null]}', "--timeout", "20s", "--json")
    answer = {"of": [1, None]}
    assert json.loads(asked.out) == {"id": "q", "channel": "quote", "answer": answer, "error": None}
    failed = quick(here, "ask", "q", "quote", "bad", "--timeout", "20s")
    assert (failed.code, failed.out) == (1, "")
    assert failed.err == "error: q has answered with an error: LookupError: no such item\n"
    failed = quick(here, "ask", "q", "quote", "bad", "--timeout", "20s", "--json")
    assert (failed.code, json.loads(failed.out)["error"]) == (1, "LookupError: no such item")
    late = quick(here, "ask", "q", "quote", "quiet", "--timeout", "200ms")
    assert (late.code, late.out) == (3, "")
    assert late.err == "error: q has not answered within 0.2 s; it has the message\n"
    gone = quick(here, "ask", "q", "quote", "end", "--timeout", "20s")
    assert (gone.code, gone.err) == (1, "error: q has ended without an answer: resolved\n")


def test_wrong_messages_are_one_sentence(here: Terminal, quick: Quick) -> None:
    assert quick(here, "promise", "create", "p").code == 0
    wrong = {
        ("send", "nobody", "x"): (1, "there is no execution nobody"),
        ("ask", "nobody", "x", "--timeout", "1s"): (1, "there is no execution nobody"),
        ("send", "p", "x"): (1, "p is a promise, which takes no messages"),
        ("send", "o"): (2, "'CHANNEL'; see `durasleep send --help`"),
        ("send", "o", ""): (2, "channel '': use 1 to 255 characters"),
        ("send", "o", "x" * 256): (2, "use 1 to 255 characters"),
        ("send", "o", "a\nb"): (2, "none of them a control character"),
        ("send", "o", "x", "1", "2"): (2, "'2' is a second one: quote it, or add --start FUNC"),
        ("send", "o", "x", "-5"): (2, "comes after --"),
        ("send", "o", "x", "1", "--key", ""): (2, "key '': use 1 to 255 characters"),
        ("send", "o", "x", "1", "--target", "gpu"): (2, "give start=, too"),
        ("send", "o", "x", "y" * 1_100_000): (2, "bytes"),
        ("send", "a~b", "x", "1", "--start", "order"): (2, "reserved"),
        ("ask", "o", "x"): (2, "'--timeout'"),
        ("ask", "o", "x", "--timeout", "soon"): (2, "not a duration"),
    }
    for args, (code, said) in wrong.items():
        done = quick(here, *args)
        assert (done.code, done.out) == (code, ""), (args, done)
        assert len(lines(done.err)) == 1, done.err
        assert said in done.err, (args, done.err)
        assert len(done.err) < 400


def test_a_full_mailbox_is_one_sentence_and_the_doctor_names_it(here: Terminal, quick: Quick) -> None:
    half = "x" * 500_000
    for _ in range(2):
        assert quick(here, "send", "o", "big", half, "--start", "order", "5").code == 0
    full = quick(here, "send", "o", "big", half)
    assert (full.code, full.out) == (1, "")
    assert full.err.startswith("error: o has 2 unread messages with 1000")
    assert len(lines(full.err)) == 1
    said = " ".join(quick(here, "doctor").out.split())
    assert "1 mailbox is nearly full, and then refuses messages: o has 2 unread ones" in said
    assert "durasleep get o says on which channels" in said
    assert "unread 2 messages, 976.6 KiB: 'big' 2" in " ".join(quick(here, "get", "o").out.split())


def test_a_terminal_shows_that_it_waits_for_an_answer(here: Terminal, worker: subprocess.Popen[bytes]) -> None:
    asking = OnScreen(here, "ask", "q", "quote", "quiet", "--timeout", "2s", "--start", "quoting")
    asking.wait_for("q: asked")
    code, out, _ = asking.end()
    assert (code, out) == (3, "")
