"""Which tests can notice a mutant of a worker: in stages, the quickest first; the next is for what survives one."""

from __future__ import annotations

from pathlib import Path

Stages = tuple[tuple[str, ...], ...]

# What else has to do with one file of a worker, where its own file in tests/worker is not enough. Of the service only
# what a worker in the test's own process runs counts: processes of workers take long, and who comes by in them is not
# seen.
_OF_WORKER: dict[str, tuple[str, ...]] = {
    "executor": ("worker/test_tasks", "worker/test_workflows"),
    "tasks": ("worker/test_executor",),
    "workflows": ("worker/test_executor",),
    "loop_threads": ("worker/test_threads",),
    "function_runner": ("worker/test_tasks", "worker/test_workflows"),
    "held": ("worker/test_workflows", "worker/test_tasks"),
    "worker": ("service/test_serving", "service/test_between_commits", "service/test_bad_input"),
}


def stages(root: Path, path: str) -> Stages:
    """Of files that are there."""
    return tuple(
        found for files in _of_worker(path) if (found := tuple(file for file in files if (root / file).exists()))
    )


def _of_worker(path: str) -> Stages:
    name = Path(path).stem
    return (f"tests/worker/test_{name}.py",), tuple(f"tests/{test}.py" for test in _OF_WORKER.get(name, ()))
