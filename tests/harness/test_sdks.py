"""A machine that lacks what the SDKs need is told so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import sdks


@pytest.mark.parametrize(
    ("make", "way"), [(sdks.typescript, "apt-get install npm"), (sdks.python, "pyenv install 3.12, or apt-get install")]
)
def test_what_is_missing_is_named_with_the_way_to_get_it(
    make: Callable[[], object], way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sdks, "_FOLDER", tmp_path / ".sdks")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(sdks.Missing, match=way):
        make()


def test_an_interpreter_that_was_removed_is_looked_for_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / f"python-{sdks.PYTHON}"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(tmp_path / "removed")
    packages = sdks._python_packages(sdks.PYTHON)  # pyright: ignore[reportPrivateUsage]
    (folder / ".installed").write_text(json.dumps(packages))
    monkeypatch.setattr(sdks, "_FOLDER", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(sdks.Missing, match="pyenv install"):
        sdks.python()
