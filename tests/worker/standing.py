"""A sync function that stands in its thread until a test lets it go."""

from __future__ import annotations

import threading
from typing import Any

from tests.service.workers import eventually

_LONG_S = 20.0  # for a test that fails: nobody lets it go then


class Standing:
    """Takes any arguments, and returns its name once it was let go."""

    def __init__(self, name: str = "standing") -> None:
        self.name = name
        self.has_begun = threading.Event()
        self._may_end = threading.Event()

    def __call__(self, *_: object) -> Any:
        self.has_begun.set()
        self._may_end.wait(_LONG_S)
        return self.name

    async def begun(self) -> None:
        await eventually(self.has_begun.is_set, f"{self.name} to begin")

    def let_go(self) -> None:
        self._may_end.set()
