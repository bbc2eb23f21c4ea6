"""README.md is short, and true: its commands run, and its links lead to what is here. index.md has its one line."""

from __future__ import annotations

import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durasleep import Durasleep, testing
from tests.cli.terminal import ROOT, Terminal, wait_for
from tests.docs.pages import Block, parts

README = (ROOT / "README.md").read_text()
SOURCE = "https://github.com/durasleep/durasleep"
RAW = "https://raw.githubusercontent.com/durasleep/durasleep/main/"
SITE = "https://durasleep.readthedocs.io/"
WORDS_MAX = 900


def test_it_is_short() -> None:
    assert len(README.split()) <= WORDS_MAX


def test_its_links_are_absolute_and_lead_to_files_that_are_here() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("#")]
    assert len(links) > 20
    for link in links:
        assert target(link).exists(), link


def target(link: str) -> Path:
    """The file of the repository to which an address leads."""
    if link.startswith(f"{SITE}en/latest/"):
        page = link.removeprefix(f"{SITE}en/latest/").partition("#")[0].removesuffix(".html")
        return ROOT / "docs" / f"{page}.md"
    if link.startswith(RAW):
        return ROOT / link.removeprefix(RAW)
    found = re.fullmatch(rf"{re.escape(SOURCE)}/(?:tree|blob)/main/([^#]+)", link)
    assert found, link
    return ROOT / found[1]


def test_these_addresses_are_those_of_the_package_and_of_the_site() -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("urls", {})
    for url in urls.values():
        assert url.startswith((SITE, SOURCE))
        assert not url.startswith(f"{SITE}en/latest/") or target(url).exists(), url
    assert f'SOURCE = "{SOURCE}"' in (ROOT / "docs" / "conf.py").read_text()


def test_its_first_workflow_outlives_its_server(tmp_path: Path) -> None:
    """The page itself runs as every page does; here the server is stopped while the workflow sleeps."""
    [code] = [part.source for part in parts(README) if isinstance(part, Block) and part.file == "welcome.py"]
    (tmp_path / "welcome.py").write_text(code)
    terminal = Terminal(tmp_path)
    rpc = ("rpc", "welcome-ada", "welcome", "ada@example.org", "8")  # longer than a command takes to find it asleep
    assert " ".join(rpc[:-1]) in README
    with terminal.running("dev", "welcome", until="is ready"):
        assert terminal.run(*rpc, "--no-wait").code == 0
        wait_for(lambda: "asleep" in terminal.run("get", "welcome-ada").out, "the sleep")
    with terminal.running("dev", "welcome", until="is ready"):
        assert terminal.run(*rpc).out == "ada@example.org was welcomed\n"


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
async def test_its_one_line_lets_thirty_days_pass(page: str) -> None:
    blocks = [part for part in parts((ROOT / page).read_text()) if isinstance(part, Block)]
    [line] = [block.source for block in blocks if block.said("tested by")]
    app = Durasleep()
    names: dict[str, Any] = {"app": app, "timedelta": timedelta}
    exec(f"@app.workflow\nasync def wait(ctx):\n    {line}    return 'done'\n", names)
    async with testing.env(app) as env:
        handle = await env.start(names["wait"])
        await env.skip(days=29)
        assert [one.id for one in await env.timers()]
        await env.skip(days=1)
        assert await handle == "done"


def test_its_scripts_exist_and_can_be_run() -> None:
    """CI runs these of them: check and test."""
    for name in ("demo", "test", "check", "fix", "bench", "docs"):
        assert f"scripts/{name}" in README
        assert (ROOT / "scripts" / name).stat().st_mode & 0o111
