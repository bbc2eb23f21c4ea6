"""docs/guarantees.md: each command that tests a promise finds tests, and each word about others has its source."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence

import pytest

from harness.servers import FAKE
from tests.cli.terminal import ROOT

PAGE = (ROOT / "docs" / "guarantees.md").read_text()
PEERS = ("Temporal", "DBOS", "Restate", "BullMQ", "Celery")


def tables() -> list[list[list[str]]]:
    """The tables of the page: rows of cells."""
    found = re.findall(r"(?m)(?:^\|.*\n)+", PAGE)
    return [
        [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines() if "---" not in line]
        for table in found
    ]


def selections() -> list[str]:
    """What comes after ``scripts/test``."""
    cells = [row[-1].strip("`") for table in tables() if table[0][-1] == "tests" for row in table[1:]]
    commands = re.findall(r"`?scripts/test ((?:tests/)[^`\n]*)", PAGE)
    return [cell for cell in cells if not cell.startswith("scripts/chaos")] + commands


def missing(names: Sequence[str]) -> list[str]:
    """The selections that find nothing among these tests; each word after ``-k`` must find one."""
    found: list[str] = []
    for selection in selections():
        words = shlex.split(selection)
        where = tuple(word for word in words if word.startswith("tests/"))
        wanted = words[words.index("-k") + 1].split(" or ") if "-k" in words else [""]
        there = [name for name in names if name.startswith(where)]
        found += [f"{selection}: {word}" for word in wanted if not any(word in name for name in there)]
    return found


def collect() -> list[str]:
    """The tests of these files, as pytest finds them."""
    files = sorted({word for one in selections() for word in shlex.split(one) if word.startswith("tests/")})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:randomly", f"--servers={FAKE}", *files]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False).stdout
    return re.findall(r"^tests/.*", listed, re.MULTILINE)


@pytest.mark.timeout(180)
def test_each_promise_names_tests_that_are_there(request: pytest.FixtureRequest) -> None:
    assert len(selections()) >= 40
    if missing([item.nodeid for item in request.session.items]):  # only if not all tests run
        assert missing(collect()) == []


def test_each_row_has_as_many_cells_as_its_table() -> None:
    for table in tables():
        assert {len(row) for row in table} == {len(table[0])}, table[0]
        assert all(row[-1] for row in table)


def test_what_others_promise_is_linked_or_not_said() -> None:
    [table] = [one for one in tables() if one[0][2:] == list(PEERS)]
    for _, _, *cells in table[1:]:
        for cell in cells:
            assert re.search(r"\]\(https://", cell) or cell.startswith("not said"), cell


def test_chaos_takes_the_options_of_the_page() -> None:
    options = set(re.findall(r"--[a-z-]+", " ".join(re.findall(r"scripts/chaos [^`\n]*", PAGE))))
    taken = re.findall(r'"(--[a-z-]+)"', (ROOT / "harness" / "chaos" / "__main__.py").read_text())
    assert options == {"--minutes", "--seed", "--fsync", "--cluster"}
    assert options <= set(taken)
