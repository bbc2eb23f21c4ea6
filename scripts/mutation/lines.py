"""Which tests run through which lines of one file: a mutant is shown to those alone that come by."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest


class Recorder:
    """A plugin of pytest: notes for each test that it runs in this process what it comes by in ``file``."""

    def __init__(self, file: Path) -> None:
        self._file = str(file)
        self._lines: set[int] = set()
        self._of_test: dict[str, list[int]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._lines = set()
        sys.settrace(self._enter)
        threading.settrace(self._enter)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type] - its stub knows of no end
            self._of_test[item.nodeid] = sorted(self._lines)

    def write(self, to: Path) -> None:
        to.write_text(json.dumps(self._of_test), encoding="utf-8")

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        return self._note if frame.f_code.co_filename == self._file else None

    def _note(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        self._lines.add(frame.f_lineno)
        return self._note


class Passing:
    """What a recorder has written."""

    def __init__(self, written: Path) -> None:
        self._of_test: dict[str, list[int]] = json.loads(written.read_text(encoding="utf-8"))

    def tests(self, line: int) -> list[str]:
        """Those that come by a line, who comes by the fewest others first."""
        found = [name for name, lines in self._of_test.items() if line in lines]
        return sorted(found, key=lambda name: len(self._of_test[name]))
