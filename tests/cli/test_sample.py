"""``durasleep worker`` in an empty folder serves a sample, and never hides that an application was meant."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from durasleep.cli import address
from harness.servers import MakeServer
from tests.cli.conftest import Quick
from tests.cli.terminal import Terminal, lines

APP = "from durasleep import Durasleep\napp = Durasleep()\n"


def test_the_three_terminal_story_runs_from_an_empty_folder(
    tmp_path: Path, make_server: MakeServer, quick: Quick
) -> None:
    folder, log = tmp_path / "empty", tmp_path / "log"
    (folder / ".git").mkdir(parents=True)
    (folder / "notes.txt").write_text("nothing that runs")
    here = Terminal(folder, DURASLEEP_REDIS_URL=make_server(persist=False).url)
    with here.running("worker", "--processes", "2", until="is ready", keep=log):
        said = log.read_text()
        assert said.count("serves the sample, durasleep.sample") == 1
        assert "sleeping_workflow, bill_after_a_month, pack, send_bill" in said
        shown = re.search(r"in another terminal: durasleep (rpc .*)", said)
        assert shown is not None
        done = quick(here, *shlex.split(shown[1]))
        assert (done.code, done.out, done.err) == (0, "Slept for 5 seconds\n", "")


def test_without_a_redis_the_sample_ends_and_says_what_starts_one(tmp_path: Path, quick: Quick) -> None:
    done = quick(Terminal(tmp_path), "worker", "--url", "redis://127.0.0.1:1")
    assert (done.code, done.out) == (4, "")
    assert lines(done.err)[-1].endswith("Start one with `durasleep dev`, or say where it is with --url.")


@pytest.mark.parametrize(
    ("files", "environment", "hint"),
    [
        ({"shop.py": APP}, {}, "; shop.py may have one: durasleep worker shop"),
        ({"src/company/shop/app.py": APP}, {}, "serves the built-in sample"),
        ({"pyproject.toml": "[tool.durasleep]\naap = 'shop:app'\n"}, {}, "serves the built-in sample"),
        ({"pyproject.toml": "[tool.durasleap]\napp = 'shop:app'\n"}, {}, "serves the built-in sample"),
        ({}, {"DURASLEP_APP": "shop:app"}, "; DURASLEP_APP is set, but is not its name"),
        ({}, {"DURASLEEP_APP": ""}, "; DURASLEEP_APP is empty"),
    ],
)
def test_where_an_application_may_be_meant_there_is_no_sample(
    files: dict[str, str], environment: dict[str, str], hint: str, tmp_path: Path, quick: Quick
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    done = quick(Terminal(tmp_path, **environment), "worker")
    assert (done.code, done.out) == (2, "")
    assert len(lines(done.err)) == 1
    assert done.err.startswith("error: no application is named: give MODULE[:ATTR]")
    assert hint in done.err


def test_what_is_installed_or_hidden_is_no_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".venv/pyvenv.cfg", ".venv/lib/shop.py", "env/pyvenv.cfg", "env/lib/shop.py", ".cache/shop.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert address.sample_app() == address.SAMPLE
    monkeypatch.setattr(address, "_LOOKED_AT_MAX", 0)  # as in a folder with very many files
    assert address.sample_app() is None
