"""A function fits a screen: a longer one mostly does several things, and nobody sees all of it at once."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import durasleep

PACKAGE = Path(durasleep.__file__).parent
PYTHON_MAX = 60
LUA_MAX = 65  # a further function in the scripts costs time at every call

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_LUA_BEGIN = re.compile(r"( *)(?:local )?(?:function ([\w.]+)|(\w+) = function)\(")


def is_code(line: str, comment: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith(comment)


def python_functions(source: str) -> Iterator[tuple[str, set[int]]]:
    """Each function, and the numbers of its lines; its docstring is none of them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _Function):
            lines = set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            if ast.get_docstring(node) is not None:
                lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
            yield node.name, lines


def lua_functions(source: str) -> Iterator[tuple[str, set[int]]]:
    """Each function with a name: it goes to the first ``end`` that is indented like its beginning, as StyLua has it."""
    lines = source.splitlines()
    for number, line in enumerate(lines, 1):
        if (begin := _LUA_BEGIN.match(line)) and not line.endswith("end"):
            end = lines.index(f"{begin[1]}end", number) + 1
            yield begin[2] or begin[3], set(range(number, end + 1))


def lengths(path: Path) -> dict[str, int]:
    """How many lines of code the functions of a file have; functions inside of them count for themselves."""
    source, is_lua = path.read_text(), path.suffix == ".lua"
    functions = list(lua_functions(source) if is_lua else python_functions(source))
    code = {at for at, line in enumerate(source.splitlines(), 1) if is_code(line, "--" if is_lua else "#")}
    found: dict[str, int] = {}
    for name, lines in functions:
        inner = [other for _, other in functions if other < lines]
        found[name] = max(found.get(name, 0), len((lines & code).difference(*inner)))
    return found


@pytest.mark.parametrize(("pattern", "most"), [("*.py", PYTHON_MAX), ("*.lua", LUA_MAX)])
def test_a_function_fits_a_screen(pattern: str, most: int) -> None:
    found = {
        f"{path.relative_to(PACKAGE)} {name}": length
        for path in PACKAGE.rglob(pattern)
        for name, length in lengths(path).items()
    }

    assert len(found) > 100  # the search finds functions at all
    assert {name: length for name, length in found.items() if length > most} == {}


def test_what_is_counted(tmp_path: Path) -> None:
    python, lua = tmp_path / "a.py", tmp_path / "a.lua"
    python.write_text('def outer():\n    """Said."""\n    # why\n    one = 1\n\n    def inner():\n        return one\n')
    lua.write_text(
        "-- why\nlocal function outer(t)\n  -- why\n  function t.inner()\n    return 1\n  end\n\n  return t\nend\n"
    )

    assert lengths(python) == {"outer": 2, "inner": 2}
    assert lengths(lua) == {"outer": 3, "t.inner": 3}
