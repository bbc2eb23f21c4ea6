"""Which modules outside the package may import which; inside it, import-linter checks the layers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("folder", "strangers"),
    [
        ("durasleep", {"harness", "tests", "scripts", "examples"}),
        ("harness", {"tests", "scripts", "examples"}),
        ("tests", {"scripts"}),
        ("scripts", {"tests"}),
    ],
)
def test_tests_and_scripts_meet_in_the_harness_and_import_nothing_from_one_another(
    folder: str, strangers: set[str]
) -> None:
    """import-linter reads only packages, and the folders of tests and scripts are not packages."""
    files = list((ROOT / folder).rglob("*.py"))
    assert files or folder == "durasleep"  # the compiled package is tested without its source
    found = {f"{file.relative_to(ROOT)}: {name}" for file in files for name in _imported(file)}
    assert [one for one in sorted(found) if one.partition(": ")[2].partition(".")[0] in strangers] == []


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
