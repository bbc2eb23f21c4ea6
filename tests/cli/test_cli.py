"""The command line, run as its users run it."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.terminal import ROOT, Terminal, lines, wait_for
from tests.servers import MakeServer

APP = """
import datetime
from dataclasses import dataclass

from durasleep import Context, Durasleep

app = Durasleep()

@dataclass
class Receipt:
    id: str
    cents: int

@app.workflow
async def greet(ctx: Context, name: str, times: int = 1) -> str:
    return "\\n".join([f"hello {name}"] * times)

@app.workflow
async def receipt(ctx: Context, cents: int) -> Receipt:
    return Receipt(ctx.info.id, cents)

@app.workflow
async def fail(ctx: Context) -> None:
    raise LookupError("no such order")

@app.workflow
async def sleep(ctx: Context, seconds: float) -> str:
    await ctx.sleep(seconds, name="nap")
    return f"slept {seconds}"

@app.task
def noon(day: datetime.date) -> bytes:
    return day.isoformat().encode()
"""


@pytest.fixture
def here(tmp_path: Path, make_server: MakeServer) -> Terminal:
    """A directory with an application, and a Redis its environment names."""
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "shop.py").write_text(APP)
    return Terminal(directory, DURASLEEP_REDIS_URL=make_server().url)


@pytest.fixture
def worker(here: Terminal) -> Iterator[subprocess.Popen[bytes]]:
    with here.running("worker", "shop", "--name", "w1", until="worker w1 of group workers is ready") as process:
        yield process


def test_the_three_terminal_story(make_server: MakeServer) -> None:
    clone = Terminal(ROOT, REDIS_URL=make_server().url)
    with clone.running("worker", until="is ready"):
        first = clone.run("rpc", "sleep-workflow-1", "sleeping_workflow", "5")
        assert (first.code, first.out, first.err) == (0, "Slept for 5 seconds\n", "")
        again = clone.run("rpc", "sleep-workflow-1", "sleeping_workflow", "5")
        assert (again.code, again.out) == (0, "Slept for 5 seconds\n")
    for log in ROOT.glob("log-*"):
        log.unlink()


def test_a_result_stands_alone_on_stdout_text_raw_and_anything_else_as_json(
    here: Terminal, worker: subprocess.Popen[bytes]
) -> None:
    assert here.run("rpc", "g", "greet", "Ada", "2").out == "hello Ada\nhello Ada\n"
    assert json.loads(here.run("rpc", "r", "receipt", "5").out) == {"id": "r", "cents": 5}
    assert json.loads(here.run("rpc", "n", "noon", "2026-11-23").out) == base64.b64encode(b"2026-11-23").decode()
    found = json.loads(here.run("rpc", "g", "greet", "Ada", "--json").out)
    assert (found["id"], found["disposition"], found["state"]) == ("g", "finished", "resolved")
    assert (found["value"], found["error"]) == ("hello Ada\nhello Ada", None)


def test_exit_codes_say_how_it_went(here: Terminal, worker: subprocess.Popen[bytes]) -> None:
    failed = here.run("rpc", "f", "fail")
    assert (failed.code, failed.out) == (1, "")
    assert "LookupError: no such order" in failed.err
    waited = here.run("rpc", "s", "sleep", "600", "--timeout", "200ms")
    assert (waited.code, waited.out) == (3, "")
    assert "it goes on" in waited.err
    unreachable = here.run("rpc", "s", "sleep", "600", "--url", "redis://127.0.0.1:1")
    assert unreachable.code == 4
    assert len(lines(unreachable.err)) == 1
    assert "cannot be reached" in unreachable.err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["rpc", "a~b", "greet"], "reserved"),
        (["rpc", "", "greet"], "1 to 512 bytes"),
        (["rpc", "x" * 513, "greet"], "1 to 512 bytes"),
        (["rpc", "a\nb", "greet"], "control characters"),
        (["rpc", "a", "greet", "--timeout", "soon"], "not a duration"),
        (["rpc", "a", "greet", "--target", "poll://all@x"], "poll://any@"),
        (["rpc", "a"], "FUNC"),
        (["rpc", "a", "greet", "--nope"], "--nope"),
        (["worker"], "no application is named"),
        (["worker", "nowhere"], "there is no module"),
        (["worker", "shop:Receipt"], "is no Durasleep object"),
        (["worker", "shop", "--group", "{x}"], "group name"),
        (["worker", "shop", "--url", "ftp://x"], "Redis URL"),
        (["promise", "create", "t", "--timer"], "needs a timeout"),
        (["nope"], "nope"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_2(here: Terminal, args: list[str], says: str) -> None:
    done = here.run(*args)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert len(lines(done.err)) == 1, done.err


def test_no_wait_prints_the_id_and_get_shows_what_it_waits_for(here: Terminal, worker: subprocess.Popen[bytes]) -> None:
    assert here.run("rpc", "s-1", "sleep", "600", "--no-wait").out == "s-1\n"
    wait_for(lambda: json.loads(here.run("get", "s-1", "--json").out)["status"] == "suspended", "the sleep")
    found = json.loads(here.run("get", "s-1", "--json").out)
    assert {"id", "state", "func", "group", "created_at_ms", "timeout_at_ms", "settled_at_ms"} <= found.keys()
    assert {"value", "error", "status", "waiting_on"} <= found.keys()
    assert (found["state"], found["func"], found["group"], found["value"]) == ("pending", "sleep", "workers", None)
    [timer] = found["waiting_on"]
    assert (timer["id"], timer["kind"], timer["name"]) == ("s-1~1", "timer", "nap")
    assert abs(timer["due_ms"] - found["created_at_ms"] - 600_000) < 60_000
    shown = here.run("get", "s-1").out
    assert "asleep" in shown
    assert "s-1~1" in shown
    assert json.loads(here.run("get", "s-1~1", "--json").out)["kind"] == "timer"
    assert here.run("get", "nobody").code == 1


def test_a_group_without_workers_is_named_while_it_waits(here: Terminal) -> None:
    done = here.run("rpc", "lonely", "greet", "Ada", "--target", "gpu", "--timeout", "1s")
    assert done.code == 3
    assert "group 'gpu' has no worker alive" in done.err


def test_promises_are_settled_once_from_the_command_line(here: Terminal) -> None:
    assert here.run("promise", "create", "p", "--timeout", "1h").out == "p\n"
    assert here.run("promise", "resolve", "p", "--value", '{"by": "Ada"}').out == "resolved\n"
    late = here.run("promise", "reject", "p", "--value", "too late", "--json")
    assert json.loads(late.out) == {"id": "p", "state": "resolved", "settled_by_this": False}
    assert json.loads(here.run("get", "p", "--json").out)["value"] == {"by": "Ada"}
    here.run("promise", "create", "q")
    assert here.run("promise", "cancel", "q").out == "canceled\n"
    assert here.run("promise", "resolve", "nobody").code == 1


def test_sigterm_ends_a_worker_in_order(here: Terminal, worker: subprocess.Popen[bytes]) -> None:
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0


def test_a_dev_server_keeps_sleepers_and_is_found_by_other_commands(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    terminal = Terminal(tmp_path)
    with terminal.running("dev", "shop", until="is ready") as dev:
        assert terminal.run("rpc", "s-1", "sleep", "2", "--no-wait").code == 0
        wait_for(lambda: '"suspended"' in terminal.run("get", "s-1", "--json").out, "the sleep")
        second = terminal.run("dev", "shop")
        assert second.code != 0
        assert len(lines(second.err)) == 1
        dev.send_signal(signal.SIGTERM)
        assert dev.wait(20) == 0
    assert (tmp_path / ".durasleep").is_dir()
    with terminal.running("dev", "shop", until="is ready"):
        assert terminal.run("rpc", "s-1", "sleep", "2").out == "slept 2.0\n"


def test_the_demo_tells_its_story_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = Terminal(tmp_path).run("demo")
    assert done.code == 0, done.out + done.err
    assert "kill -9" in done.out
    assert "'Slept for 5 seconds'" in done.out
    assert "after its timer was due" in done.out
    assert not list(tmp_path.iterdir())


def test_a_reader_that_has_enough_is_no_error(here: Terminal, worker: subprocess.Popen[bytes]) -> None:
    here.run("rpc", "big", "greet", "x" * 1000, "500", "--no-wait")
    done = subprocess.run(
        f"{sys.executable} -m durasleep rpc big greet 1 2>&1 | head -c 5; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=here.directory,
        env=here.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.startswith("hello")
    assert "Traceback" not in done.stdout
    assert os.linesep in done.stdout
