"""The tables "How do I …" of the pages for people who know another system: what stands on our side runs in the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, parts

PAGES = sorted((ROOT / "docs/coming-from").glob("*.md"))
OF_A_TABLE = re.compile(r"^\| How do I")


def ours(text: str) -> Iterator[tuple[int, str]]:
    """The pieces of code in the last column of these tables, with their lines."""
    is_inside = False
    for number, line in enumerate(text.splitlines(), 1):
        is_inside = OF_A_TABLE.match(line) is not None or (is_inside and line.startswith("|"))
        if is_inside and not line.startswith(("| How do I", "| ---")):
            cells = re.split(r"(?<!\\)\|", line.strip("| "))
            assert len(cells) == 3, f"line {number}: {len(cells)} cells"
            yield from ((number, code) for code in re.findall(r"`([^`]+)`", cells[2]))


def squeezed(code: str) -> str:
    return re.sub(r"\s+", "", code.replace("\\|", "|"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_table_shows_of_durasleep_is_in_a_block_that_runs(page: Path) -> None:
    text = page.read_text()
    run = squeezed("\n".join(one.source for one in parts(text) if isinstance(one, Block) and one.language != "text"))
    missing = [f"{page.name}:{number}: {code}" for number, code in ours(text) if squeezed(code) not in run]
    assert not missing, "\n".join(missing)
