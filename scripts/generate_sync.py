"""Writes the sync client and its tests from the async ones: the same code without ``async`` and ``await``.

    scripts/generate_sync.py           writes the files; scripts/fix runs this
    scripts/generate_sync.py --check   names the files that are out of date; scripts/check runs this

Code that only asyncio can have is marked: ``# asyncio only`` behind the first line of a function leaves it out.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import libcst as cst

ROOT = Path(__file__).parents[1]
RUFF = Path(sys.executable).with_name("ruff")

TESTS = Path("tests", "client")
FILES = {
    Path("durasleep/client/client.py"): Path("durasleep/client/sync.py"),
    Path("durasleep/client/indexes.py"): Path("durasleep/client/sync_indexes.py"),
    Path("durasleep/client/limits.py"): Path("durasleep/client/sync_limits.py"),
    Path("durasleep/client/schedules.py"): Path("durasleep/client/sync_schedules.py"),
} | {source.relative_to(ROOT): TESTS / "sync" / source.name for source in sorted((ROOT / TESTS).glob("test_*.py"))}

ONLY_ASYNC = "# asyncio only"

NAMES = {
    "AsyncGenerator": "Generator",
    "Store": "SyncStore",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aclose": "close",
    "anext": "next",
}
MODULES = {
    "durasleep.transport.store": "durasleep.transport.sync_store",
    "durasleep.client.client": "durasleep.client.sync",
    "durasleep.client.indexes": "durasleep.client.sync_indexes",
    "durasleep.client.limits": "durasleep.client.sync_limits",
    "durasleep.client.schedules": "durasleep.client.sync_schedules",
    "durasleep.client.inbox": "durasleep.client.sync_waiting",
    "durasleep.client.waiting": "durasleep.client.sync_waiting",
    "tests.client.async_side": "tests.client.sync_side",
}
"""Modules that are written by hand for both, and the sync twin of each."""

PROSE = {
    r"\bapp\.(?=[\w.]+\()": "client.",
    r"\bawait ": "",
    r"all event loops, in any thread:": "all threads and forked children:",
    r"async for ": "for ",
    r"Close the connections of this event loop; its waits": "Close all connections; the waits of all threads",
}
"""What docstrings of the sync client say instead."""


class Sync(cst.CSTTransformer):
    """Removes ``async`` and ``await``, and replaces every name by that of its twin."""

    def on_leave(self, original_node: cst.CSTNode, updated_node: cst.CSTNode) -> cst.CSTNode | cst.RemovalSentinel:
        """The node that replaces this one, whose children are replaced already."""
        match updated_node:
            case cst.FunctionDef() if _is_only_async(original_node):
                return cst.RemoveFromParent()
            case cst.FunctionDef() | cst.With() | cst.For() | cst.CompFor():
                return updated_node.with_changes(asynchronous=None)
            case cst.Await():  # without the parentheses around it, which `await` needed
                return updated_node.expression
            case cst.Name():
                return updated_node.with_changes(value=NAMES.get(updated_node.value, updated_node.value))
            case cst.ImportFrom() if module := MODULES.get(_dotted(updated_node.module)):
                return updated_node.with_changes(module=cst.parse_expression(module))
            case cst.Expr(value=cst.SimpleString(value=docstring)):
                return updated_node.with_changes(value=cst.SimpleString(_reworded(docstring)))
            case _:
                return updated_node


def _is_only_async(function: cst.CSTNode) -> bool:
    body = function.body if isinstance(function, cst.FunctionDef) else None
    comment = body.header.comment if isinstance(body, cst.IndentedBlock) else None
    return comment is not None and comment.value == ONLY_ASYNC


def _reworded(docstring: str) -> str:
    for said, instead in PROSE.items():
        docstring = re.sub(said, instead, docstring)
    return docstring


def _dotted(module: cst.BaseExpression | None) -> str:
    return "" if module is None else cst.Module([]).code_for_node(module)


def sync_of(source: Path, target: Path) -> str:
    """The sync twin of a file, formatted."""
    module = cst.parse_module((ROOT / source).read_text(encoding="utf-8")).visit(Sync())
    code = f"# Written by scripts/generate_sync.py from {source.as_posix()}: change that one.\n{module.code}"
    # Imports that only the removed code needed are removed, too; the others are sorted again.
    code = _ruff(target, code, "check", "--fix-only", "--quiet", "--select", "F401,I001")
    return _ruff(target, code, "format", "--quiet")


def _ruff(target: Path, code: str, command: str, *options: str) -> str:
    call = [RUFF, command, *options, "--stdin-filename", target, "-"]
    return subprocess.run(call, input=code, cwd=ROOT, check=True, capture_output=True, encoding="utf-8").stdout


def main(options: list[str]) -> int:
    """The exit code: 1 if a file is out of date."""
    written = {target: (source, sync_of(source, target)) for source, target in FILES.items()}
    tests = [path.relative_to(ROOT) for path in sorted((ROOT / TESTS / "sync").glob("test_*.py"))]
    left = [path for path in tests if path not in written]
    changed = {target: made for target, made in written.items() if _text(target) != made[1]}
    if "--check" in options:
        for target, (source, _) in changed.items():
            print(f"{target} does not match {source}: run scripts/fix")
        for path in left:
            print(f"{path} has no source: run scripts/fix")
        return int(bool(changed or left))
    for target, (_, code) in changed.items():
        (ROOT / target).write_text(code, encoding="utf-8")
    for path in left:
        (ROOT / path).unlink()
    return 0


def _text(path: Path) -> str | None:
    return (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
