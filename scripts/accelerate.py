"""The build hook of hatchling: with DURASLEEP_ACCELERATE=1 a wheel has its hottest modules compiled, too.

Each is compiled from its .py as it is, with the .pxd beside it, and lies next to it in the wheel, where Python prefers
it. Without the variable, and in an editable install, nothing is compiled, and all works the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULES = [
    # Together they save a sixth of what a worker computes for a workflow that sleeps. Nearly all other code reads
    # records of msgspec, which is as quick uncompiled: nine modules more, the whole way of a commit, save 2 to 5 %.
    "durasleep/runtime/journal.py",  # what is counted, asked and fed at every await: fields of C instead of slots
    "durasleep/runtime/event_loop.py",  # each callback and future of a workflow is made and called here
    "durasleep/runtime/activation.py",  # what every activation does once, of the other two mostly
]
DIRECTIVES = {
    "annotation_typing": False,  # hints are for people: what is an int there may be as large as it likes
    "binding": True,  # functions that can be inspected like any other
    "language_level": 3,
}


class AcceleratorHook(BuildHookInterface[Any]):
    """Compiles in a folder of its own, so that a clone never holds what its own Python would then prefer."""

    _folder: tempfile.TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        """What the build needs beside hatchling; asked for before anything is built."""
        if not _is_wanted():
            return []
        return [
            "cython>=3.1",  # from here on a .pxd beside a .py is all it takes, and its coroutines are known as such
            "setuptools>=68",  # finds the compiler of this Python, and how to call it
        ]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or not _is_wanted():
            return
        self._folder = tempfile.TemporaryDirectory(prefix="durasleep-build-")
        root = Path(self._folder.name)
        shutil.copytree(Path(self.root, "durasleep"), root / "durasleep")
        options = [part for name, value in DIRECTIVES.items() for part in ("-X", f"{name}={value}")]
        subprocess.run(
            [sys.executable, "-m", "Cython.Build.Cythonize", "--inplace", "--parallel", "2", *options, *MODULES],
            cwd=root,
            env={**os.environ, "CFLAGS": f"{os.environ.get('CFLAGS', '')} -O2 -g0"},  # symbols are ten times the code
            check=True,
        )
        for module in MODULES:
            beside = (root / module).parent.glob(f"{Path(module).stem}.*")
            [built] = [found for found in beside if found.suffix in (".so", ".pyd")]
            build_data["force_include"][str(built)] = str(Path(module).with_name(built.name))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatchling's
        if self._folder is not None:
            self._folder.cleanup()


def _is_wanted() -> bool:
    return os.environ.get("DURASLEEP_ACCELERATE", "") not in ("", "0")
