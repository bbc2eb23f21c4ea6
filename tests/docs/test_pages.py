"""Each page of the documentation does what it shows: its code runs, its commands print what stands there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.servers import MakeServer
from tests.docs.forking import Forks
from tests.docs.pages import PAGES, ROOT, Wrong, parts
from tests.docs.running import Run

WITH_CODE = [page for page in PAGES if "```" in page.read_text()]


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with Forks(tmp_path_factory.mktemp("forks")) as forks:
        yield forks


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_does_what_it_shows(page: Path, make_server: MakeServer, forks: Forks, tmp_path: Path) -> None:
    wrong: Wrong | None = None
    try:
        with Run(page, tmp_path / page.stem, forks.bin, lambda: make_server(persist=False).url) as run:
            for part in parts(page.read_text()):
                run.do(part)
    except Wrong as found:
        wrong = found
    if wrong:  # here, so that it is told once
        pytest.fail(f"{page.relative_to(ROOT)}:{wrong.line}: {wrong.text}", pytrace=False)
