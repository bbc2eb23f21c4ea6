"""Log lines of a worker: which execution each belongs to, and that each event is one line, once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import NewProject, Quick
from tests.cli.terminal import COMMAND, PATIENCE_S, Terminal, wait_for

APP = """
import asyncio, logging, sys, threading, warnings

from durasleep import Context, Durasleep, Settings

app = Durasleep(settings=Settings(log_lines_max=5))
log = logging.getLogger("shop")

warnings.simplefilter("always")

class Unshowable:
    def __str__(self):
        raise RuntimeError
    __repr__ = __str__

HOSTILE = "two\\nlines \\x00 \\x1b[31mred \\ud800 \\u2028 \\x85 é"

@app.task
def charge(amount: int) -> int:
    log.warning("charging %d in %s", amount, threading.current_thread().name, extra={"amount": amount})
    if amount < 0:
        raise LookupError("no such card")
    return amount

@app.workflow
async def order(ctx: Context) -> None:
    log.warning("begins")
    await ctx.run(charge, 42)
    await asyncio.gather(ctx.sleep(0.01), ctx.rpc(charge, 43))
    ctx.logger.warning("sleeps", extra={"hours": 8})
    await ctx.sleep(0.01)
    log.warning("ends")

@app.task
async def hostile() -> None:
    log.warning(HOSTILE, extra={"name of it": HOSTILE, "number": float("nan"), "what": Unshowable()})
    log.warning("%d", "no number")
    log.warning("%s", Unshowable())
    log.warning("large %s", "x" * 1_000_000)
    around = {}
    around["around"] = around
    log.warning("around", extra={"more": around})
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("failed")
    warnings.warn("this is old", DeprecationWarning)
    thread = threading.Thread(target=lambda: 1 / 0, name="own")
    thread.start()
    thread.join()

@app.task
def talk(name: str) -> None:
    for number in range(100):
        log.warning("line %d of %s %s", number, name, "x" * (number % 3 * 30_000))

@app.task
def quiet(number: int) -> None:
    log.info("not very important")
"""

TALK = 100
"""Lines of one ``talk``."""


@pytest.fixture
def here(new_project: NewProject) -> Terminal:
    return new_project(shop=APP)


def parsed(log: Path) -> list[dict[str, Any]]:
    """The lines of a log, each of which is an object of JSON."""
    raw = log.read_bytes()
    assert raw.endswith(b"\n")
    return [json.loads(line) for line in raw.decode().splitlines()]


def messages(lines: Iterable[dict[str, Any]], logger: str) -> list[str]:
    return [line["message"] for line in lines if line["logger"] == logger]


def test_each_event_is_one_line_of_json_that_names_its_execution(here: Terminal, quick: Quick, tmp_path: Path) -> None:
    here.environment["DURASLEEP_ALWAYS_SUSPEND"] = "1"  # the workflow is replayed at each of its waits
    log = tmp_path / "log"
    with here.running(
        "worker", "shop", "--name", "w1", "--log-format", "json", "--log-level", "info", until="is ready", keep=log
    ) as worker:
        assert quick(here, "rpc", "o", "order").code == 0
        assert quick(here, "rpc", "h", "hostile").code == 0
        assert quick(here, "rpc", "broken", "charge", "--", "-1").code == 1
        for number in range(20):
            quick(here, "rpc", f"q{number}", "quiet", str(number), "--no-wait")
        wait_for(lambda: log.read_text().count("not very important") == 20, "all of them to run")
        worker.send_signal(signal.SIGTERM)
        worker.wait(PATIENCE_S)
    lines = parsed(log)
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", line["timestamp"])
        assert {"level", "logger", "message"} <= line.keys()
    of_order = [line for line in lines if line.get("execution") == "o" and line["logger"] != "durasleep"]
    assert [(line["logger"], line["message"].split(" in ")[0], line["function"]) for line in of_order] == [
        ("shop", "begins", "order"),
        ("shop", "charging 42", "charge"),
        ("durasleep.workflow", "o: sleeps", "order"),
        ("shop", "ends", "order"),
    ]
    assert "durasleep-step" in of_order[1]["message"]
    assert (of_order[1]["step"], of_order[1]["attempt"], of_order[1]["amount"]) == ("1", 1, 42)
    assert of_order[2]["hours"] == 8
    assert {(line["worker"], line["group"]) for line in of_order} == {("w1", "workers")}
    [child] = [line for line in lines if line["message"].startswith("charging 43")]
    assert child["execution"].startswith("o~")
    [failed] = [line for line in lines if line["message"].startswith("broken rejected after")]
    assert (failed["execution"], failed["function"], failed["attempt"]) == ("broken", "charge", 1)
    assert (failed["error_type"], failed["error_message"]) == ("LookupError", "no such card")
    assert 'raise LookupError("no such card")' in failed["exception"]
    of_hostile = [line for line in lines if line.get("execution") == "h" and line["logger"] == "shop"]
    assert len(of_hostile) == 6
    assert of_hostile[0]["message"] == of_hostile[0]["name of it"] == "two\nlines \x00 \x1b[31mred \ud800 \u2028 \x85 é"
    assert of_hostile[0]["number"] == "nan"
    assert len(of_hostile[3]["message"]) < 100_000
    assert of_hostile[5]["exception"].count("Traceback") == 1
    [warned] = [line for line in lines if line["logger"] == "py.warnings"]
    assert warned["message"].endswith("DeprecationWarning: this is old")
    [ended] = [line for line in lines if line["logger"] == "py.threading"]
    assert (ended["message"], ended["error_type"]) == ("thread own has failed", "ZeroDivisionError")
    counted = Counter[str]()
    for line in messages(lines, "durasleep"):
        if line.startswith("q") and " resolved after" in line:
            counted["resolved"] += 1
        elif found := re.search(r"in the same second: .*?(\d+) resolved", line):
            counted["resolved"] += int(found[1])
    assert counted["resolved"] >= 20, "a line that is left out is counted"


def test_lines_of_several_processes_are_whole_and_none_is_lost(here: Terminal, quick: Quick, tmp_path: Path) -> None:
    """On one pipe with a slow reader: a write of more than 4 KiB is not whole there. Each runs one task at a time."""
    log = tmp_path / "log"
    reading, writing = os.pipe()

    def read() -> None:
        with log.open("wb", buffering=0) as out:
            while some := os.read(reading, 3_000):
                out.write(some)

    reader = threading.Thread(target=read)
    reader.start()
    command = ("worker", "shop", "--processes", "2", "--concurrency", "1", "--log-format", "json")
    with subprocess.Popen([*COMMAND, *command], cwd=here.directory, env=here.environment, stderr=writing) as parent:
        os.close(writing)
        try:
            wait_for(lambda: log.read_text().count("is ready") == 2, "both workers")
            for name in ("a", "b"):
                quick(here, "rpc", name, "talk", name, "--no-wait")
            for name in (b"a", b"b"):  # a worker that is told to end takes no new work
                wait_for(lambda first=b"line 0 of " + name: first in log.read_bytes(), "a line of each")
        finally:
            parent.send_signal(signal.SIGTERM)
            parent.wait(PATIENCE_S)
            reader.join(PATIENCE_S)
            os.close(reading)
    lines = parsed(log)
    said = Counter(line["execution"] for line in lines if line["message"].startswith("line "))
    assert said == {"a": TALK, "b": TALK}
    assert len({line["worker"] for line in lines if line["message"].startswith("line ")}) == 2
    assert len([line for line in messages(lines, "durasleep") if line.startswith("this worker uses")]) == 1
    assert len([line for line in messages(lines, "durasleep") if "has left" in line]) == 2


def test_no_text_can_look_like_another_event(here: Terminal, quick: Quick, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with here.running("worker", "shop", until="is ready", keep=log):
        quick(here, "rpc", "h", "hostile")
        quick(here, "rpc", "q", "quiet", "1")
    lines = log.read_text().split("\n")[:-1]
    events = [line for line in lines if re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ ", line)]
    assert all(line.startswith("    ") for line in lines if line not in events)
    assert [line for line in events if "WARNING h shop: two" in line]
    assert "lines \\x00 \\x1b[31mred \\ud800" in log.read_text()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", log.read_text())
    assert not [line for line in events if "not very important" in line], "Python shows warnings, unless told otherwise"


def test_the_handlers_of_an_application_get_every_line_once_and_its_ids(
    new_project: NewProject, quick: Quick, tmp_path: Path
) -> None:
    own = "logging.basicConfig(level='INFO', stream=sys.stdout, format='MINE %(execution)s|%(function)s|%(message)s')"
    here = new_project(shop=APP + own)
    log = tmp_path / "log"
    with here.running("worker", "shop", "--log-format", "json", until="is ready", keep=log):
        quick(here, "rpc", "q", "quiet", "1")
        quick(here, "rpc", "broken", "charge", "--", "-1")
    said = log.read_text().splitlines()
    assert [line for line in said if not line.startswith("MINE ")] == []
    assert said.count("MINE q|quiet|not very important") == 1
    assert len([line for line in said if line.startswith("MINE broken|charge|broken rejected after")]) == 1
    assert len([line for line in said if "--log-format json has no effect" in line]) == 1
