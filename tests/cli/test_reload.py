"""``durasleep dev --reload``: changed code is run; if it is broken, the worker waits for the next change."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from harness.servers import MakeServer
from tests.cli.conftest import Quick
from tests.cli.terminal import PATIENCE_S, Terminal, wait_for

APP = """
from durasleep import Durasleep
app = Durasleep()

@app.task
def answer() -> str:
    return "{answer}"
"""


def test_the_worker_runs_the_code_as_it_is_now(tmp_path: Path, quick: Quick) -> None:
    pytest.importorskip("watchfiles")
    code, log = tmp_path / "shop.py", tmp_path / "log"
    code.write_text(APP.format(answer="first"))
    terminal = Terminal(tmp_path)
    with terminal.running("dev", "shop", "--reload", until="is ready", keep=log) as dev:
        assert quick(terminal, "rpc", "a", "answer").out == "first\n"
        code.write_text(APP.format(answer="second"))
        wait_for(lambda: log.read_text().count("is ready") == 2, "the worker with the new code")
        assert "shop.py changed" in log.read_text()
        assert quick(terminal, "rpc", "b", "answer").out == "second\n"
        code.write_text("def broken(\n")
        wait_for(lambda: "the worker has ended" in log.read_text(), "the end of the worker")
        assert "SyntaxError" in log.read_text()
        (tmp_path / "notes.txt").write_text("no code")
        code.write_text(APP.format(answer="third"))
        assert quick(terminal, "rpc", "c", "answer").out == "third\n"
        dev.send_signal(signal.SIGINT)
        assert dev.wait(PATIENCE_S) == 0
    assert log.read_text().count("has left") == 3
    assert not (tmp_path / ".durasleep" / "server.json").exists()


def test_a_worker_for_a_redis_of_yours_is_started_again_too(
    tmp_path: Path, make_server: MakeServer, quick: Quick
) -> None:
    pytest.importorskip("watchfiles")
    code, log = tmp_path / "shop.py", tmp_path / "log"
    code.write_text(APP.format(answer="first"))
    terminal = Terminal(tmp_path, DURASLEEP_REDIS_URL=make_server().url)
    with terminal.running("worker", "shop", "--reload", "--name", "w1", until="is ready", keep=log) as worker:
        code.write_text(APP.format(answer="second"))
        wait_for(
            lambda: log.read_text().count("worker w1 of group workers is ready") == 2, "the worker with the new code"
        )
        assert quick(terminal, "rpc", "a", "answer").out == "second\n"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_S) == 0
    several = quick(terminal, "worker", "shop", "--reload", "--processes", "2")
    assert (several.code, several.err.startswith("error: --reload and --processes")) == (2, True)


def test_without_the_library_it_says_what_to_install(
    tmp_path: Path, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text(APP)
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    said = quick(Terminal(tmp_path), "dev", "shop", "--reload")
    assert said.code == 2
    assert said.err == 'error: --reload needs watchfiles: pip install "durasleep[reload]"\n'
    assert not (tmp_path / ".durasleep").exists()
