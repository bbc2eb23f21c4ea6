"""Which tests can notice a mutant: in stages, the quickest first. What survives one is tried on the next."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

Stages = tuple[tuple[str, ...], ...]

LUA = Path("durasleep/protocol/lua")
_INCLUDE = re.compile(r"^-- @include (\w+)", re.MULTILINE)

# What else has to do with one file of a worker, where its own file in tests/worker is not enough. Of the service only
# what a worker in the test's own process runs counts: processes of workers take long, and who comes by in them is not
# seen.
_OF_WORKER: dict[str, tuple[str, ...]] = {
    "executor": ("worker/test_tasks", "worker/test_workflows"),
    "tasks": ("worker/test_executor",),
    "workflows": ("worker/test_executor",),
    "function_runner": ("worker/test_tasks", "worker/test_workflows"),
    "held": ("worker/test_workflows", "worker/test_tasks"),
    "worker": ("service/test_serving", "service/test_in_hand", "service/test_bad_input"),
}
# Of a script whose tests have another name, or that others look at as well.
_OF_SCRIPT: dict[str, tuple[str, ...]] = {
    "fsck": ("test_fsck",),
    "commit": ("test_commit", "test_bounds", "test_families", "test_waiting", "test_snapshot"),
    "create": ("test_create", "test_batch"),
    "fire": ("test_fire", "test_families", "test_snapshot"),
    "join": ("test_bounds", "test_heartbeat"),
    "read_page": ("test_read_page", "test_snapshot", "test_bounds"),
    "control": ("test_control", "test_search"),
    "settle": ("test_settle", "test_waiting", "test_families"),
}
_MODEL = ("tests/model/test_scripts_follow_the_model.py",)


def stages(root: Path, path: str) -> Stages:
    """Of files that are there."""
    chosen = _of_script(root, Path(path)) if path.endswith(".lua") else _of_worker(path)
    return tuple(found for files in chosen if (found := tuple(file for file in files if (root / file).exists())))


def _of_worker(path: str) -> Stages:
    name = Path(path).stem
    return (f"tests/worker/test_{name}.py",), tuple(f"tests/{test}.py" for test in _OF_WORKER.get(name, ()))


def _of_script(root: Path, path: Path) -> Stages:
    if path.parent == LUA:
        scripts = [path.stem]
    else:
        scripts = [script.stem for script in sorted((root / LUA).glob("*.lua")) if path.stem in _included(script)]
    tests = [test for script in scripts for test in _OF_SCRIPT.get(script, (f"test_{script}",))]
    return tuple(f"tests/store/{test}.py" for test in dict.fromkeys(tests)), _MODEL


@cache
def _included(script: Path) -> frozenset[str]:
    """What a script includes, by itself or by what it includes."""
    names = set(_INCLUDE.findall(script.read_text(encoding="utf-8")))
    shared = (script.parent if script.parent.name == "shared" else script.parent / "shared") / "."
    for name in tuple(names):
        inner = shared / f"{name}.lua"
        if inner.exists():
            names |= _included(inner)
    return frozenset(names)
