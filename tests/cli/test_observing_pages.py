"""The code of docs/how-to/traces.md and docs/operate/logs.md shows what the pages say."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from durasleep.observe.logs import IDS
from tests.cli.conftest import NewProject
from tests.cli.terminal import ROOT, Terminal, wait_for

TRACES, LOGS = ((ROOT / "docs" / name).read_text() for name in ("how-to/traces.md", "operate/logs.md"))
RUN = """
import asyncio, durasleep.testing

async def main():
    async with durasleep.testing.env(app) as env:
        print(await env.run(order))

asyncio.run(main())
"""


def blocks(page: str, kind: str) -> list[str]:
    return [text for found, text in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", page) if found == kind]


def ran(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)


def test_the_code_of_the_page_on_traces_makes_the_spans_it_shows() -> None:
    said = ran("".join((*blocks(TRACES, "python"), RUN, "provider.shutdown()"))).stdout
    made = re.findall(r'^    "name": "(.*)"', said, re.MULTILINE)
    [shown] = blocks(TRACES, "text")
    named = re.findall(r"^ *(\w+(?: \w+)?)(?: {2}|$)", shown, re.MULTILINE)
    assert sorted(made) == sorted(named)


def test_the_code_of_the_page_on_logs_gives_each_line_its_ids() -> None:
    app = "".join((*blocks(LOGS, "python"), *blocks(TRACES, "python")[1:]))
    said = ran(
        "from opentelemetry import trace\n" + app.replace("        return cents", LOG + "        return cents") + RUN
    ).stderr
    assert re.search(r"^WARNING \[test-1 charge\] paid$", said, re.MULTILINE), said
    [shown] = blocks(LOGS, "json")
    assert set(json.loads(shown.replace("\n", " "))) - {"timestamp", "level", "logger", "message"} >= {*IDS} - {"step"}


LOG = "        logging.getLogger('shop').warning('paid')\n"


def test_the_commands_of_the_page_on_logs_run(new_project: NewProject) -> None:
    here: Terminal = new_project(shop="from durasleep import Durasleep\napp = Durasleep()\n@app.task\ndef f(): ...\n")
    [commands] = blocks(LOGS, "sh")
    for line in commands.splitlines()[1:]:
        words = line.partition("#")[0].split()
        with here.running(*words[1:], until="is ready") as worker:
            wait_for(lambda: worker.poll() is None, "the worker")
