"""Which Redis and which application a command takes, of all that may name one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from durasleep import Durasleep
from durasleep.cli import address
from durasleep.devserver import DIRECTORY
from durasleep.errors import UsageError
from tests.cli.conftest import forget_modules_in
from tests.servers import MakeServer

VARIABLES = ("DURASLEEP_REDIS_URL", "REDIS_URL", "DURASLEEP_APP", "DURASLEEP_NAMESPACE")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory, an environment that names nothing, and modules that are forgotten afterwards."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield tmp_path
    forget_modules_in(tmp_path)


def test_the_first_of_option_environment_pyproject_and_dev_server_wins(
    here: Path, monkeypatch: pytest.MonkeyPatch, make_server: MakeServer
) -> None:
    assert address.find_url(None) == "redis://localhost:6379"
    server = make_server(directory=here / DIRECTORY, persist=False)
    assert address.find_url(None) == server.url
    (here / "pyproject.toml").write_text('[tool.durasleep]\nurl = "redis://pyproject"\nnamespace = "toml"\n')
    assert address.find_url(None) == "redis://pyproject"
    monkeypatch.setenv("REDIS_URL", "redis://environment")
    assert address.find_url(None) == "redis://environment"
    monkeypatch.setenv("DURASLEEP_REDIS_URL", "redis://ours")
    assert address.find_url(None) == "redis://ours"
    assert address.find_url("redis://option") == "redis://option"
    monkeypatch.setenv("DURASLEEP_REDIS_URL", "")
    assert address.find_url(None) == "redis://environment"


def test_a_dev_server_that_has_gone_is_not_found(here: Path, make_server: MakeServer) -> None:
    make_server(directory=here / DIRECTORY, persist=False).kill()
    assert address.named_url(None) is None


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
    assert address.named_url(None) is None


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
        ("two.py", "is a file: name the module it is, such as two"),
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
