"""The sync client is the async one without ``async``: by its signatures, and by the script that writes it."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import durasleep
import durasleep.client.client as async_side
import durasleep.client.sync as sync_side
import durasleep.sync

ROOT = Path(__file__).parents[2]

RENAMED = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__"}
ONLY_ASYNC = {"__await__"}
OF_AN_APPLICATION = {
    "address",
    "connect",
    "cron",
    "group",
    "is_addressed",
    "lifespan",
    "middleware",
    "namespace",
    "resources",
    "serving",
    "sync",
    "task",
    "worker",
    "workflow",
}
"""Attributes of ``Durasleep`` that are not calls of a client."""

KINDS = ["Caller", "Client", "Handle", "Promises"]


def verbs(kind: type[Any]) -> dict[str, Callable[..., Any]]:
    """The functions of a class that its users call."""
    found = {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_") or name in RENAMED}
    return {name: value for name, value in found.items() if inspect.isfunction(value)}


def plain(signature: inspect.Signature) -> str:
    """A signature as the sync client writes it."""
    return re.sub(r"\bAsyncGenerator\b", "Generator", str(signature))


@pytest.mark.parametrize("kind", [*KINDS, "Indexes", "Limits"])
def test_every_verb_of_the_async_client_is_there_with_the_same_signature(kind: str) -> None:
    theirs = verbs(getattr(async_side, kind))
    ours = getattr(sync_side, kind)
    assert theirs
    for name, verb in theirs.items():
        twin = getattr(ours, RENAMED.get(name, name))
        assert plain(inspect.signature(verb)) == str(inspect.signature(twin)), name
        assert not inspect.iscoroutinefunction(twin), name
        assert not inspect.isasyncgenfunction(twin), name
    public = {name for name in dir(ours) if not name.startswith("_")}
    assert public == {RENAMED.get(name, name) for name in dir(getattr(async_side, kind)) if not name.startswith("_")}


def test_the_public_names_are_those_that_are_written() -> None:
    assert [getattr(durasleep.sync, kind) for kind in KINDS if kind != "Client"] == [
        getattr(sync_side, kind) for kind in KINDS if kind != "Client"
    ]
    assert issubclass(durasleep.sync.Client, sync_side.Client)


def test_what_an_application_has_beside_the_verbs_of_a_client_is_known() -> None:
    app = durasleep.Durasleep("redis://localhost")
    client = durasleep.sync.Client("redis://localhost")
    public = {RENAMED.get(name, name) for name in dir(app) if not name.startswith("_")}
    assert public - set(dir(client)) == OF_AN_APPLICATION


@pytest.mark.parametrize("name", ["namespace", "group", "codec", "settings"])
def test_both_are_made_with_the_same_arguments(name: str) -> None:
    theirs, ours = (inspect.signature(kind).parameters[name] for kind in (durasleep.Durasleep, durasleep.sync.Client))
    assert (theirs.kind, theirs.default, theirs.annotation) == (ours.kind, ours.default, ours.annotation)


# -- the script


CODE = """import asyncio
from collections.abc import AsyncGenerator


async def all_of(store: Store) -> AsyncGenerator[int]:  # one by one
    '''See ``app.gather(await app.start(fn))``.'''
    async with store as opened:
        async for page in opened.pages():
            # those of a page
            yield (await page.first()).number
    await store.aclose()


async def sleeping() -> None:  # asyncio only
    await asyncio.sleep(1)
"""
WRITTEN = """# Written by scripts/generate_sync.py from durasleep/client/client.py: change that one.
from collections.abc import Generator


def all_of(store: SyncStore) -> Generator[int]:  # one by one
    '''See ``client.gather(client.start(fn))``.'''
    with store as opened:
        for page in opened.pages():
            # those of a page
            yield page.first().number
    store.close()
"""


class Copy:
    """The script in a repository of its own, which has one client and one test."""

    def __init__(self, root: Path) -> None:
        self._root = root
        for path in ("pyproject.toml", "scripts/generate_sync.py"):
            self.write(path, (ROOT / path).read_text(encoding="utf-8"))
        self.write("durasleep/client/client.py", CODE)
        for name in ("indexes", "limits", "schedules"):
            self.write(f"durasleep/client/{name}.py", "")
            first = WRITTEN.splitlines()[0].replace("client.py", f"{name}.py")
            self.write(f"durasleep/client/sync_{name}.py", f"{first}\n")
        self.write("tests/client/test_it.py", "async def test_it() -> None: ...\n")
        (root / "tests/client/sync").mkdir()

    def write(self, path: str, text: str) -> None:
        (self._root / path).parent.mkdir(parents=True, exist_ok=True)
        (self._root / path).write_text(text, encoding="utf-8")

    def read(self, path: str) -> str:
        return (self._root / path).read_text(encoding="utf-8")

    def run(self, *options: str) -> tuple[int, list[str]]:
        """The exit code, and what it says."""
        command = [sys.executable, str(self._root / "scripts/generate_sync.py"), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not done.stderr
        return done.returncode, done.stdout.splitlines()


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    pytest.importorskip("libcst")
    return Copy(tmp_path)


def test_the_script_keeps_comments_and_docstrings_and_takes_what_is_async(copy: Copy) -> None:
    assert copy.run() == (0, [])
    assert copy.read("durasleep/client/sync.py").replace('"""', "'''") == WRITTEN
    assert copy.read("tests/client/sync/test_it.py").endswith("\ndef test_it() -> None: ...\n")
    assert copy.run("--check") == (0, [])


def test_the_check_names_what_is_not_as_it_would_be_written_and_writes_nothing(copy: Copy) -> None:
    copy.run()
    copy.write("durasleep/client/sync.py", "changed by hand\n")
    copy.write("tests/client/sync/test_gone.py", "")
    assert copy.run("--check") == (
        1,
        [
            "durasleep/client/sync.py does not match durasleep/client/client.py: run scripts/fix",
            "tests/client/sync/test_gone.py has no source: run scripts/fix",
        ],
    )
    assert copy.read("durasleep/client/sync.py") == "changed by hand\n"
    assert copy.run() == (0, [])
    assert copy.run("--check") == (0, [])


def test_what_is_written_says_so_in_its_first_line() -> None:
    tests = sorted((ROOT / "tests/client/sync").glob("test_*.py"))
    assert [test.name for test in tests] == sorted(path.name for path in (ROOT / "tests/client").glob("test_*.py"))
    for path in [Path(sync_side.__file__), *tests]:
        assert path.read_text(encoding="utf-8").startswith("# Written by scripts/generate_sync.py from "), path
