"""The reference is complete: every public name, every command, every diagram; ``scripts/docs`` builds the site."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import durasleep
from durasleep import dashboard, errors, sync, testing
from harness import diagrams
from tests.cli.terminal import ROOT

API = ROOT / "docs" / "reference" / "api"


def documented() -> set[str]:
    """The names that the pages of the API show with their docstrings."""
    texts = [path.read_text() for path in API.glob("*.md")]
    return {name for text in texts for name in re.findall(r"^\.\. auto\w+:: ([\w.]+)$", text, re.MULTILINE)}


def test_every_public_name_has_its_place_in_the_api() -> None:
    shown = documented()
    for name in durasleep.__all__:
        is_error = getattr(errors, name, None) is getattr(durasleep, name)
        assert is_error or name == "__version__" or f"durasleep.{name}" in shown, name
    assert "durasleep.errors" in shown  # all of them
    for module in (sync, dashboard):
        assert {f"{module.__name__}.{name}" for name in module.__all__} <= shown
    for name in ("env", "sync_env", "Env", "SyncEnv", "SyncHandle"):
        assert hasattr(testing, name)
        assert f"durasleep.testing.{name}" in shown


def test_the_list_of_the_api_names_the_public_names() -> None:
    page = (API / "index.md").read_text()
    for name in durasleep.__all__:
        if getattr(errors, name, None) is not getattr(durasleep, name):
            assert f"`{name}`" in page or f"`durasleep.{name}`" in page, name


def test_the_commands_are_those_of_the_help() -> None:
    subprocess.run([sys.executable, "scripts/generate_cli_reference.py", "--check"], cwd=ROOT, check=True, timeout=60)


def test_every_diagram_has_its_picture_and_no_picture_is_left_over() -> None:
    wanted = diagrams.diagrams()
    assert {path.name for path in diagrams.FOLDER.glob("*.svg")} == set(wanted), "scripts/diagrams draws them"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_every_page_is_in_the_tree_of_the_site(page: Path) -> None:
    name = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
    trees = [(ROOT / "docs" / "index.md", ""), (API / "index.md", "reference/api/")]
    listed = {
        f"{folder}{line}"
        for tree, folder in trees
        for block in re.findall(r"(?ms)^```\{toctree\}\n(.*?)^```$", tree.read_text())
        for line in block.splitlines()
    }
    assert name == "index" or name in listed


def test_read_the_docs_builds_with_the_same_extras_and_warnings_are_errors() -> None:
    config = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text())
    assert config["sphinx"] == {"configuration": "docs/conf.py", "fail_on_warning": True}
    [install] = config["python"]["install"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(install["extra_requirements"]) <= set(extras)
    for extra in install["extra_requirements"]:
        assert extra in (ROOT / "scripts" / "docs").read_text()
