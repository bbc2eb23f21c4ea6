"""Which modules outside the package may import which; inside it, import-linter checks the layers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from durasleep.protocol import rights

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


@pytest.mark.parametrize(("package", "owner"), [("redis", "transport"), ("hiredis", "transport"), ("msgpack", "codec")])
def test_one_folder_alone_imports_a_library(package: str, owner: str) -> None:
    """Whoever exchanges it finds all of it there."""
    users = {
        file.relative_to(ROOT / "durasleep").parts[0]
        for file in (ROOT / "durasleep").rglob("*.py")
        for name in _imported(file)
        if name.partition(".")[0] == package
    }
    assert users <= {owner}


COMMANDS = {word for right in rights.RIGHTS for word in (right[0], " ".join(right[:2]))} | {"SCRIPT LOAD", "MULTI"}


def test_no_redis_command_is_spelt_outside_the_protocol() -> None:
    """A command is the first word of a sequence, or the first argument of a call."""
    found: list[str] = []
    for file in sorted((ROOT / "durasleep").rglob("*.py")):
        if "protocol" in file.relative_to(ROOT).parts:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case (
                    ast.Call(args=[ast.Constant(value=str() | bytes() as word), *_])
                    | ast.List(elts=[ast.Constant(value=str() | bytes() as word), *_])
                    | ast.Tuple(elts=[ast.Constant(value=str() | bytes() as word), *_])
                ):
                    if (word.decode() if isinstance(word, bytes) else word) in COMMANDS:
                        found.append(f"{file.relative_to(ROOT)}:{node.lineno}: {word!r}")
                case _:
                    pass
    assert found == []


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
