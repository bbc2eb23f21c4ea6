"""The build hook of hatchling: with DURASLEEP_ACCELERATE=1 a wheel also contains its hottest modules compiled.

Each is compiled from its unchanged .py, with the .pxd beside it. In the wheel it lies next to the .py, and Python
prefers it. Without the variable, and in an editable install, nothing is compiled, and everything works the same.
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
    "durasleep/runtime/journal.py",  # its objects are used at every await: fields of C instead of slots
    "durasleep/runtime/event_loop.py",  # each callback and future of a workflow is made and called here
    "durasleep/runtime/activation.py",  # every activation uses it once, and it mostly calls the other two
]
DIRECTIVES = {
    "annotation_typing": False,  # hints are for people: an int in them may have any size
    "binding": True,  # functions that can be inspected like all others
    "language_level": 3,
}


class AcceleratorHook(BuildHookInterface[Any]):
    """Compiles in a folder of its own: in a clone, Python would prefer the compiled modules to the .py files."""

    _folder: tempfile.TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        """The packages that the build needs beside hatchling; hatchling calls this before it builds."""
        if not _is_wanted():
            return []
        return [
            "cython>=3.1",  # the first that needs only a .pxd beside a .py, and marks coroutines as such
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
            env={**os.environ, "CFLAGS": f"{os.environ.get('CFLAGS', '')} -O2 -g0"},  # symbols: ten times as large
            check=True,
        )
        for module in MODULES:
            files = (root / module).parent.glob(f"{Path(module).stem}.*")
            [built] = [found for found in files if found.suffix in (".so", ".pyd")]
            build_data["force_include"][str(built)] = str(Path(module).with_name(built.name))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatchling's
        if self._folder is not None:
            self._folder.cleanup()


def _is_wanted() -> bool:
    return os.environ.get("DURASLEEP_ACCELERATE", "") not in ("", "0")
