"""Which Redis and which application a command uses, among all places that may name one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from durasleep import Durasleep
from durasleep.address import find
from durasleep.cli import address
from durasleep.cli.app import app as command_line
from durasleep.devserver import DIRECTORY
from durasleep.errors import UsageError
from durasleep.sync import Client
from durasleep.transport.connector import Connector
from harness.servers import MakeServer
from tests.cli.conftest import Quick, forget_modules_in
from tests.cli.terminal import Terminal, lines

VARIABLES = ("DURASLEEP_REDIS_URL", "REDIS_URL", "DURASLEEP_APP", "DURASLEEP_NAMESPACE")


def commands_of(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All visible commands below one, each with the words that call it."""
    for name, below in getattr(command, "commands", {}).items():
        if not below.hidden:  # an old name, whose output has a warning
            yield from commands_of(below, *path, name)
    if not hasattr(command, "commands"):
        yield path, command


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory, an environment without names, and modules that are dropped afterwards."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield tmp_path
    forget_modules_in(tmp_path)


def test_programs_and_commands_take_the_first_that_names_one(
    here: Path, monkeypatch: pytest.MonkeyPatch, make_server: MakeServer
) -> None:
    def assert_used(url: str, why: str) -> None:
        program = Durasleep().address
        assert (program.url, address.find_url(None)) == (url, program)
        assert Durasleep().worker()._store.connector.address == Connector.of(url).address  # pyright: ignore[reportPrivateUsage]
        assert Client()._store().connector.address == Connector.of(url).address  # pyright: ignore[reportPrivateUsage]
        assert why in program.why

    assert_used("redis://localhost:6379/0", "default")
    server = make_server(directory=here / DIRECTORY, persist=False)
    assert_used(server.url, f"`durasleep dev` of {here}")
    (here / "pyproject.toml").write_text('[tool.durasleep]\nurl = "redis://pyproject"\nnamespace = "toml"\n')
    assert_used("redis://pyproject", f"[tool.durasleep] of {here / 'pyproject.toml'}")
    monkeypatch.setenv("REDIS_URL", "redis://environment")
    assert_used("redis://environment", "REDIS_URL")
    monkeypatch.setenv("DURASLEEP_REDIS_URL", "redis://ours")
    assert_used("redis://ours", "DURASLEEP_REDIS_URL")
    assert address.find_url("redis://option").url == "redis://option"
    assert Durasleep("redis://explicit").address.url == "redis://explicit"
    monkeypatch.setenv("DURASLEEP_REDIS_URL", "")
    assert_used("redis://environment", "REDIS_URL")


def test_a_worker_names_its_redis_and_why_before_all_else(here: Path, make_server: MakeServer) -> None:
    (here / "shop.py").write_text("from durasleep import Durasleep\napp = Durasleep()\n")
    url, log = make_server(persist=False).url, here / "log"
    for options in ((), ("--processes", "2")):
        with Terminal(here, REDIS_URL=url).running("worker", "shop", *options, until="is ready", keep=log):
            first, *others = log.read_text().splitlines()
        assert first.endswith(f" this worker uses {url} (REDIS_URL)")
        assert not [line for line in others if "uses" in line]


def test_the_doctor_names_its_redis_and_why(here: Path, quick: Quick, make_server: MakeServer) -> None:
    url = make_server().url
    said = quick(Terminal(here, REDIS_URL=url), "doctor")
    assert said.out.splitlines()[0] == f"good    address: {url} (REDIS_URL)"
    found = json.loads(quick(Terminal(here, REDIS_URL=url), "doctor", "--json").out)
    assert (found[0]["subject"], found[0]["text"]) == ("address", f"{url} (REDIS_URL)")
    in_vain = quick(Terminal(here, REDIS_URL="redis://:secret@127.0.0.1:1"), "doctor")
    assert (in_vain.code, in_vain.out) == (4, "good    address: redis://***@127.0.0.1:1 (REDIS_URL)\n")


def test_what_names_it_may_come_after_the_application_was_made(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Durasleep()
    monkeypatch.setenv("REDIS_URL", "redis://later")  # as python-dotenv does
    assert app.address.url == "redis://later"
    monkeypatch.setenv("REDIS_URL", "redis://too-late")
    assert app.address.url == "redis://later"


def test_all_is_found_from_a_directory_below(
    here: Path, monkeypatch: pytest.MonkeyPatch, make_server: MakeServer
) -> None:
    below = here / "src" / "shop"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    server = make_server(directory=here / DIRECTORY, persist=False)
    (here / "src" / "pyproject.toml").write_text("[tool.other]\n")
    (here / "pyproject.toml").write_text('[tool.durasleep]\napp = "topmost"\nnamespace = "toml"\n')
    (here / "topmost.py").write_text("from durasleep import Durasleep\napp = Durasleep(group='found')\n")
    assert find().url == server.url
    assert address.find_namespace(None) == "toml"
    assert address.load_app(address.find_app(None)).group == "found"
    nearer = make_server(directory=below / DIRECTORY, persist=False)
    assert find().url == nearer.url
    nearer.stop()
    assert find().url == server.url


def test_nothing_is_accepted_that_anybody_may_have_put_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = here / "below"
    below.mkdir()
    (here / "pyproject.toml").write_text('[tool.durasleep]\nurl = "redis://elsewhere"\n')
    monkeypatch.chdir(below)
    assert find().url == "redis://elsewhere"
    here.chmod(0o1777)
    assert find().url == "redis://localhost:6379/0"
    monkeypatch.chdir(here)  # somebody who works in this directory knows its files
    assert find().url == "redis://elsewhere"


def test_a_dev_server_that_has_gone_is_not_found(here: Path, make_server: MakeServer) -> None:
    make_server(directory=here / DIRECTORY, persist=False).kill()
    assert find().url == "redis://localhost:6379/0"


def test_a_wrong_url_is_said_at_once_where_it_is_explicit(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="not a Redis URL"):
        Durasleep("ftp://host")
    monkeypatch.setenv("REDIS_URL", "ftp://host")
    app = Durasleep()
    with pytest.raises(UsageError, match="not a Redis URL"):
        app.worker()


CONNECTING = {
    " ".join(path): command
    for path, command in commands_of(typer.main.get_command(command_line))
    if any(parameter.name == "url" for parameter in command.params)
}


@pytest.mark.long
@pytest.mark.parametrize("name", CONNECTING)
def test_every_command_that_connects_can_explain_where_to_and_connects_nowhere(
    here: Path, quick: Quick, name: str
) -> None:
    (here / "shop.py").write_text("from durasleep import Durasleep\napp = Durasleep()\n")
    (here / "pyproject.toml").write_text('[tool.durasleep]\nurl = "redis://me:secret@127.0.0.1:1"\napp = "shop"\n')
    terminal = Terminal(here, REDIS_URL="redis://127.0.0.1:2/0?password=secret")
    said = quick(terminal, *name.split(), "--explain-address")
    assert (said.code, said.err) == (0, "")
    shown = [(line.split(":")[0], line.partition(":")[2].strip()) for line in lines(said.out)]
    assert [name for name, _ in shown if name != "the application"] == [
        "--url",
        "DURASLEEP_REDIS_URL",
        "REDIS_URL",
        "pyproject.toml",
        "durasleep dev",
        "the default",
        "used",
    ]
    assert "secret" not in said.out
    assert dict(shown)["pyproject.toml"] == "redis://***@127.0.0.1:1"
    assert dict(shown)["used"] == "redis://127.0.0.1:2/0?password=*** (REDIS_URL)"
    other = quick(terminal, *name.split(), "--explain-address", "--url", "redis://127.0.0.1:3")
    assert other.out.endswith("used: redis://127.0.0.1:3 (--url)\n")


def test_what_an_application_names_itself_is_explained(here: Path, quick: Quick) -> None:
    (here / "shop.py").write_text("from durasleep import Durasleep\napp = Durasleep('redis://:secret@own')\n")
    said = quick(Terminal(here), "worker", "shop", "--explain-address")
    assert said.out.endswith("used: redis://***@own (the application names it)\n")
    assert "\nthe application:     redis://***@own\n" in said.out


def test_a_broken_pyproject_is_part_of_the_explanation(here: Path, quick: Quick) -> None:
    (here / "pyproject.toml").write_text("[tool.durasleep")
    explained = quick(Terminal(here), "ls", "--explain-address", "--url", "redis://host")
    assert (explained.code, explained.out.splitlines()[-1]) == (0, "used: redis://host (--url)")
    assert "cannot be read" in explained.out
    unknown = quick(Terminal(here), "ls", "--explain-address")
    assert unknown.code == 2
    assert "cannot be read" in unknown.err


def test_the_namespace_is_found_in_the_same_order(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert address.find_namespace(None) == "durasleep"
    (here / "pyproject.toml").write_text('[tool.durasleep]\nnamespace = "toml"\n')
    assert address.find_namespace(None) == "toml"
    monkeypatch.setenv("DURASLEEP_NAMESPACE", "ours")
    assert address.find_namespace(None) == "ours"
    assert address.find_namespace("option") == "option"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[tool.durasleep", "cannot be read"),
        ("tool = 1", "is not a table"),
        ("[tool]\ndurasleep = []", "is not a table"),
        ("[tool.durasleep]\napp = 5", "`app` under"),
        (b"\xff", "cannot be read"),
    ],
)
def test_a_pyproject_that_is_wrong_is_said_so(here: Path, content: str | bytes, says: str) -> None:
    (here / "pyproject.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=says):
        address.named_app(None)


def test_a_pyproject_without_a_word_of_us_names_nothing(here: Path) -> None:
    (here / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    assert address.named_app(None) is None
    assert find().url == "redis://localhost:6379/0"


def test_the_application_is_named_by_argument_environment_or_pyproject(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="no application is named"):
        address.find_app(None)
    (here / "pyproject.toml").write_text('[tool.durasleep]\napp = "toml:app"\n')
    assert address.find_app(None) == "toml:app"
    monkeypatch.setenv("DURASLEEP_APP", "env:app")
    assert address.find_app(None) == "env:app"
    assert address.find_app("arg") == "arg"


def test_an_application_is_its_app_or_the_only_one_of_its_module(here: Path) -> None:
    new = "from durasleep import Durasleep\n"
    (here / "conventional.py").write_text(new + "other = Durasleep()\napp = Durasleep(group='a')\n")
    (here / "only.py").write_text(new + "orders = shop = Durasleep(group='b')\n")
    (here / "inner").mkdir()
    (here / "inner" / "deep.py").write_text(new + "x = Durasleep(group='c')\ny = Durasleep('redis://own', group='d')\n")
    found = [address.load_app(name) for name in ("conventional", "only", "inner.deep:x", "inner.deep:y")]
    assert all(isinstance(app, Durasleep) for app in found)
    assert [app.group for app in found] == ["a", "b", "c", "d"]
    assert [app.is_addressed for app in found] == [False, False, False, True]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere", "there is no module 'nowhere' in "),
        ("broken", r"'broken' cannot be imported \(ZeroDivisionError"),
        ("needy", r"'needy' cannot be imported \(ModuleNotFoundError: No module named 'absent'\)"),
        ("leaving", r"'leaving' cannot be imported \(SystemExit"),
        ("unfinished", r"'unfinished' cannot be imported \(SyntaxError"),
        ("two", "there is two:a, two:b"),
        ("two:c", "there is no two:c; there is two:a, two:b"),
        ("two:Durasleep", "two:Durasleep is no Durasleep object"),
        ("none", r"write `app = Durasleep\(\)` in 'none'"),
        ("two.py", "is a file: give the name of its module, such as two"),
        ("./inner/two.py", "such as inner.two"),
        ("/abs/two.py", "is a file"),
        ("", "is not the name of a module"),
        ("..two", "is not the name of a module"),
        ("a b", "is not the name of a module"),
    ],
)
def test_an_application_that_cannot_be_loaded_is_explained(here: Path, name: str, says: str) -> None:
    (here / "broken.py").write_text("1 / 0\n")
    (here / "needy.py").write_text("import absent\n")
    (here / "leaving.py").write_text("raise SystemExit(3)\n")
    (here / "unfinished.py").write_text("def f(\n")
    (here / "none.py").write_text("x = 1\n")
    (here / "two.py").write_text("from durasleep import Durasleep\na = Durasleep()\nb = Durasleep()\n")
    with pytest.raises(UsageError, match=says):
        address.load_app(name)
