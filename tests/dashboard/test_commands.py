"""`durasleep ui`, `dev --ui` and `demo --ui`, and the examples that mount the dashboard: real processes, real HTTP."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from durasleep import sync
from harness.servers import MakeServer, free_port
from tests.cli.terminal import COMMAND, PATIENCE_S, ROOT, Terminal, wait_for


def read_line(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """The first line of its output that matches."""
    assert process.stdout is not None
    for line in process.stdout:
        if match := re.search(pattern, line):
            return match
    raise AssertionError(f"no line has {pattern}; it ended with {process.wait(PATIENCE_S)}")


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a command in a directory of its own."""

    def run(*command: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**Terminal(tmp_path).environment, "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run


def test_ui_ends_at_once_though_a_page_is_open(
    start: Callable[..., subprocess.Popen[str]], make_server: MakeServer
) -> None:
    process = start(*COMMAND, "ui", "--listen", "127.0.0.1:0", "--url", make_server().url)
    url = read_line(process, r"http://127\.0\.0\.1:\d+/")[0]
    assert "Needs attention" not in httpx.get(url).text
    with httpx.stream("GET", f"{url}live/", timeout=PATIENCE_S) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: message"
        process.send_signal(signal.SIGTERM)
        for _ in lines:
            pass
    out, _ = process.communicate(timeout=5)
    assert (process.returncode, out) == (0, "")


@pytest.mark.parametrize("module", ["dashboard_fastapi:web", "dashboard_django:application"])
def test_an_example_mounts_it(
    start: Callable[..., subprocess.Popen[str]], make_server: MakeServer, module: str
) -> None:
    port = str(free_port())
    command = (sys.executable, "-m", "uvicorn", f"examples.{module}", "--app-dir", str(ROOT), "--port", port)
    process = start(*command, DURASLEEP_REDIS_URL=make_server().url)
    read_line(process, "Uvicorn running on")
    base = f"http://127.0.0.1:{port}"
    if "fastapi" in module:
        made = httpx.post(f"{base}/reminders/ada").json()
        assert "remind" in httpx.get(base + made["see"]).text
    else:
        assert "/durasleep/" in httpx.get(base).text
    page = httpx.get(f"{base}/durasleep/executions").text
    assert 'href="/durasleep/groups"' in page
    with httpx.stream("GET", f"{base}/durasleep/live/executions", timeout=PATIENCE_S) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: message"
        process.send_signal(signal.SIGTERM)
        for _ in lines:
            pass
    out, _ = process.communicate(timeout=5)
    assert "ERROR" not in out


def test_dev_serves_it_beside_the_worker(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start(*COMMAND, "dev", "examples.durable_sleep:app", "--ui")
    url = read_line(process, r"the dashboard is at (http\S+)")[1]
    wait_for(lambda: _page(url) and "of 100" in _page(f"{url}groups"), "the worker to be shown")
    assert "--writable" not in _page(url)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in out
    assert psutil.wait_procs(children, timeout=PATIENCE_S)[1] == []


def test_a_sleep_of_the_demo_outlives_its_worker_and_ends_when_it_is_woken(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    process = start(*COMMAND, "demo", "--ui")
    redis_url = read_line(process, r"up at (redis://\S+)")[1]
    url = read_line(process, r"for thirty days: (http\S+)")[1]
    pid = int(read_line(process, r"kill -9 (\d+)")[1])
    wait_for(lambda: "29 d 23 h left" in _page(url), "the countdown")
    os.kill(pid, signal.SIGKILL)
    read_line(process, f"worker {pid} is gone")
    assert "29 d 23 h left" in _page(url)
    assert 'formaction="/executions/bill-42/wake"' in _page(url)
    read_line(process, "starts, and knows nothing")
    with sync.Client(redis_url) as client:
        client.wake("bill-42")
    read_line(process, "the bill of the order is sent")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, "Traceback" in out) == (0, False)


def _page(url: str) -> str:
    try:
        return httpx.get(url).text
    except httpx.TransportError:  # it is not up yet
        return ""
