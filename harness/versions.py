"""Workers of another version of the package, beside workers of this one."""

from __future__ import annotations

import sys
from pathlib import Path

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
