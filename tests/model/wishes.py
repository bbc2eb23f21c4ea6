"""What a program is shown of its journal, and what it wishes next."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from durasleep.model import CommitAction, Op
from tests.model.state import Entry


class Wish(NamedTuple):
    """The next commit, as far as the code decides it."""

    outcome: CommitAction
    ops: tuple[Op, ...] = ()
    payload: bytes = b""
    due: str = ""


class View:
    """A delivered journal: entries by number, and the settled ones in the order of their stamps."""

    def __init__(self, known: tuple[tuple[str, Entry], ...], base: int) -> None:
        self.entries = dict(known)
        self.base = base
        self.fed = fed(known)

    def first(self, *numbers: int) -> str:
        """Which of these has settled first; "" for none yet."""
        named = {str(number) for number in numbers}
        return next((number for number in self.fed if number in named), "")

    def missing(self, *ops: Op) -> tuple[Op, ...]:
        """Those of ``ops`` that have not been carried out."""
        return tuple([op for op in ops if op.number not in self.entries])


def fed(known: tuple[tuple[str, Entry], ...]) -> list[str]:
    return [number for _, number in sorted([(entry.stamp, number) for number, entry in known if entry.stamp])]


Program = Callable[[View], Wish]
