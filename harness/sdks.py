"""Resonate's SDKs for Python and TypeScript, with what they run on; installed once, into ``.sdks`` of the clone.

``scripts/sdks`` installs them. A test that needs one calls ``typescript()`` or ``python(VERSION)``, and waits for the
installation if nobody has done it yet. What this machine lacks raises ``Missing``: such a test fails; it is not
skipped.
"""

from __future__ import annotations

import fcntl
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NODE = "22.23.3"
PYTHON, OLDER_PYTHON = "0.8.1", "0.7.4"

_ROOT = Path(__file__).parents[1]
_TYPESCRIPT = _ROOT / "examples" / "resonate" / "typescript" / "package.json"  # the version of that SDK
_FOLDER = _ROOT / ".sdks"
_PYTHONS = ("3.12", "3.13", "3.14")  # the Python SDKs need 3.12 or later
_PATIENCE_S = 500


class Missing(Exception):
    """Something that the SDKs need is not on this machine; says how to get it."""


@dataclass(frozen=True, slots=True)
class TypeScript:
    """The TypeScript SDK."""

    node: Path
    """A Node that runs TypeScript as it is."""
    modules: Path
    """The folder ``node_modules`` with the SDK and the client ``redis``."""

    @property
    def package(self) -> Path:
        """The folder of the SDK itself."""
        return self.modules / "@resonatehq" / "sdk"


def typescript() -> TypeScript:
    """The TypeScript SDK and its Node; installed now, if it is not yet."""
    node = Path("node_modules", _node_package(), "bin", "node")
    folder = _made("typescript", _typescript_packages(), _install_typescript, node)
    return TypeScript(folder / node, folder / "node_modules")


def python(version: str = PYTHON) -> Path:
    """An interpreter that has this version of the Python SDK; installed now, if it is not yet."""
    interpreter = Path("bin", "python")
    return _made(f"python-{version}", _python_packages(version), _install_python, interpreter) / interpreter


def _node_package() -> str:
    architecture = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return f"node-{sys.platform}-{architecture}"


def _typescript_packages() -> list[str]:
    packages: dict[str, str] = json.loads(_TYPESCRIPT.read_text(encoding="utf-8"))["dependencies"]
    return [f"{_node_package()}@{NODE}", *(f"{name}@{version}" for name, version in packages.items())]


def _python_packages(version: str) -> list[str]:
    return [f"resonate-sdk=={version}", "redis>=5.0.1"]  # the second is for examples/resonate, not for the SDK


def _made(name: str, packages: list[str], install: Callable[[Path, list[str]], None], program: Path) -> Path:
    """The folder of this name with these packages and this program, which may be a link to one that was removed since.
    Of several processes that need it, one installs.
    """
    folder, want = _FOLDER / name, json.dumps(packages)
    stamp = folder / ".installed"

    def is_made() -> bool:
        return _text(stamp) == want and (folder / program).exists()

    if is_made():
        return folder
    with _locked(_FOLDER / f"{name}.lock"):
        if not is_made():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            install(folder, packages)
            stamp.write_text(want)
    return folder


def _text(file: Path) -> str | None:
    try:
        return file.read_text()
    except FileNotFoundError:
        return None


@contextmanager
def _locked(file: Path) -> Generator[None]:
    file.parent.mkdir(exist_ok=True)
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install_typescript(folder: Path, packages: list[str]) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("The TypeScript SDK of Resonate needs npm: apt-get install npm; then scripts/sdks")
    _run([npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), *packages])


def _install_python(folder: Path, packages: list[str]) -> None:
    _run([str(_find_python()), "-m", "venv", str(folder)])
    _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])


def _find_python() -> Path:
    """The oldest Python that runs the SDKs, from PATH or from pyenv, whose commands on PATH need not run."""
    for version in _PYTHONS:
        for candidate in (shutil.which(f"python{version}"), _of_pyenv(version)):
            if candidate and _succeeds([candidate, "-c", "import ensurepip, venv"]):
                return Path(candidate)
    raise Missing(
        "The Python SDK of Resonate needs Python 3.12 or later, with venv, on PATH or in pyenv: "
        "pyenv install 3.12, or apt-get install python3.12-venv; then scripts/sdks"
    )


def _of_pyenv(version: str) -> str | None:
    pyenv = shutil.which("pyenv")
    if pyenv is None:
        return None
    latest = subprocess.run([pyenv, "latest", version], capture_output=True, text=True, check=False).stdout.strip()
    prefix = subprocess.run([pyenv, "prefix", latest], capture_output=True, text=True, check=False).stdout.strip()
    return f"{prefix}/bin/python" if latest and prefix else None


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise Missing(f"{' '.join(command)} has not ended in {_PATIENCE_S} s; try scripts/sdks again.") from None
    if done.returncode:
        raise Missing(f"{' '.join(command)} failed; try scripts/sdks again.\n{done.stderr[-2000:]}")


def main() -> int:
    """Install all of them, at the same time."""
    print(f"installing the SDKs of Resonate into {_FOLDER.name}/, unless they are there", file=sys.stderr)
    with ThreadPoolExecutor() as pool:
        made = [pool.submit(typescript), *(pool.submit(python, version) for version in (PYTHON, OLDER_PYTHON))]
    failures = {str(one.exception()) for one in made if one.exception()}
    print(*failures, sep="\n", end="", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
