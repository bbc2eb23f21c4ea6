"""Workers of another version of the package, beside workers of this one."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

_ROOT = Path(__file__).parents[1]

_RUN = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
import durasleep
del sys.path[0]
runpy.run_module("durasleep", run_name="__main__", alter_sys=True)
"""  # only the package comes from there: the application it serves is the same


def command(package: Path | None) -> list[str]:
    """The command that runs ``durasleep``: the installed one, or the one in a directory."""
    if package is None:
        return [sys.executable, "-m", "durasleep"]
    if not (package / "durasleep" / "__init__.py").is_file():
        raise FileNotFoundError(f"there is no package durasleep in {package}")
    return [sys.executable, "-c", _RUN, str(package.absolute())]


def of_commit(commit: str, directory: Path) -> Path | None:
    """The package as it was at a commit, in a directory; None where the history of the repository is not at hand."""
    archive = subprocess.run(["git", "archive", commit, "durasleep"], cwd=_ROOT, capture_output=True, check=False)
    if archive.returncode:
        return None
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(directory, filter="data")
    return directory
