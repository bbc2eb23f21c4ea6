"""Which tests run which lines of one file, and for how long: a mutant is tested only by those that run its line."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest


class Recorder:
    """A plugin of pytest: records for each test which lines of ``file`` it runs in this process."""

    def __init__(self, file: Path) -> None:
        self._file = str(file)
        self._lines: set[int] = set()
        self._of_test: dict[str, list[int]] = {}
        self._took_s: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._lines = set()
        began = time.monotonic()
        sys.settrace(self._enter)
        threading.settrace(self._enter)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type] - its stub does not allow None
            self._of_test[item.nodeid] = sorted(self._lines)
            self._took_s[item.nodeid] = time.monotonic() - began

    def write(self, to: Path) -> None:
        to.write_text(json.dumps([self._of_test, self._took_s]), encoding="utf-8")

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        return self._note if frame.f_code.co_filename == self._file else None

    def _note(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        self._lines.add(frame.f_lineno)
        return self._note


class Passing:
    """Reads the file of a recorder."""

    def __init__(self, written: Path) -> None:
        found: tuple[dict[str, list[int]], dict[str, float]] = json.loads(written.read_text(encoding="utf-8"))
        self._of_test, self._took_s = found

    def tests(self, line: int) -> list[str]:
        """The tests that run a line; first the one that runs the fewest lines."""
        found = [name for name, lines in self._of_test.items() if line in lines]
        return sorted(found, key=lambda name: len(self._of_test[name]))

    def took_s(self, tests: Sequence[str]) -> list[float]:
        """The duration of each of these tests."""
        return [self._took_s[name] for name in tests]
