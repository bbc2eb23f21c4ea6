"""A mutant: one file with one small change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

Name = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Mutant:
    """Its place, the old text and the new text."""

    path: str
    line: int
    where: str
    """The function it is in, with its class; in Lua the nearest function above."""
    change: str
    """``before -> after``, in one line."""
    text: str
    """The whole file with the change."""

    @property
    def name(self) -> Name:
        """The same, whatever lines move around it."""
        return self.path, self.where, self.change


def numbered(made: Sequence[Mutant]) -> list[Mutant]:
    """The same mutants, each with a name of its own: a repeated name gets a number."""
    seen = Counter[Name]()
    named: list[Mutant] = []
    for mutant in made:
        seen[mutant.name] += 1
        count = seen[mutant.name]
        named.append(mutant if count == 1 else replace(mutant, change=f"{mutant.change} ({count})"))
    return named


def in_one_line(text: str) -> str:
    return " ".join(text.split())
