"""What type checkers say of calls: pyright in strict mode and mypy --strict agree on what is accepted and refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path("tests", "types")
NAMES = ["accepted.py", "refused.py"]
PATIENCE_S = 300  # mypy reads everything again


def find(program: str) -> str:
    """The checker next to this Python, or the one on PATH."""
    found = shutil.which(program, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def pyright(tmp_path: Path) -> dict[str, dict[int, str]]:
    for name in NAMES:
        shutil.copy(ROOT / HERE / name, tmp_path)  # in its usual place, these refused calls are left out of checks
    settings = {"include": NAMES, "typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    told = json.loads(run(find("pyright"), "--pythonpath", sys.executable, "--outputjson", "--project", str(tmp_path)))
    assert told["summary"]["filesAnalyzed"] == len(NAMES)
    found: dict[str, dict[int, str]] = {name: {} for name in NAMES}
    for one in told["generalDiagnostics"]:
        found[Path(one["file"]).name][one["range"]["start"]["line"] + 1] = one["message"]
    return found


def mypy(tmp_path: Path) -> dict[str, dict[int, str]]:
    options = ["--strict", "--follow-imports=silent", "--python-executable", sys.executable]
    told = run(find("mypy"), *options, "--cache-dir", str(tmp_path), *[str(HERE / name) for name in NAMES])
    assert f"checked {len(NAMES)} source files" in told, told
    return {name: {int(line): text for line, text in re.findall(rf"{name}:(\d+): error: (.*)", told)} for name in NAMES}


Check = Callable[[Path], dict[str, dict[int, str]]]


@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize("check", [pyright, mypy], ids=["pyright", "mypy"])
def test_types_are_those_of_the_function_and_a_call_it_would_not_take_is_refused_line_by_line(
    check: Check, tmp_path: Path
) -> None:
    lines = (ROOT / HERE / "refused.py").read_text().splitlines()
    refused = {number for number, line in enumerate(lines, 1) if line.endswith("# refused")}
    assert len(refused) > 30
    found = check(tmp_path)  # of both at once: most of the time is for what they import
    assert found["accepted.py"] == {}
    assert set(found["refused.py"]) == refused, found
