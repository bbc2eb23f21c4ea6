"""The gate of a limit: its numbers, who holds a slot, and who waits in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from durasleep.protocol.keys import LIMIT


class Numbers(NamedTuple):
    """What a limit counts; None for any number."""

    per_key: int | None = None
    total: int | None = None
    step_ms: int | None = None
    """Of a rate: the time between two that begin."""
    burst: int = 1
    is_for_life: bool = False
    parked_max: int = LIMIT["parked_max"]
    overflow: str = ""


class Parked(NamedTuple):
    """One that waits, in the order of its key."""

    level: int
    """0 if it wakes up, else its priority."""
    sequence: int
    id: str


class Turn(NamedTuple):
    """When it is the turn of a key. One that is blocked may not go, and comes behind all others."""

    is_blocked: bool
    at: float


class Limit(NamedTuple):
    """One limit, and its gate."""

    numbers: Numbers
    code: Numbers
    """Those of the code; a person may have set others by hand."""
    is_by_hand: bool = False
    is_paused: bool = False
    is_looked_through: bool = False
    """All keys are to be looked at."""
    turn: float = 0.0
    sequence: int = 0
    parked_count: int = 0
    held: tuple[tuple[str, str], ...] = ()
    """The executions that hold a slot, each with its key."""
    in_use: tuple[tuple[str, int], ...] = ()
    """Slots by key."""
    parked: tuple[tuple[str, tuple[Parked, ...]], ...] = ()
    waiting: tuple[tuple[str, Turn], ...] = ()
    used_up: tuple[tuple[str, int], ...] = ()
    """Until when the rate of a key is used up."""


@dataclass(slots=True)
class Gate:
    """A limit while a script runs."""

    numbers: Numbers
    code: Numbers
    is_by_hand: bool = False
    is_paused: bool = False
    is_looked_through: bool = False
    turn: float = 0.0
    sequence: int = 0
    parked_count: int = 0
    held: dict[str, str] = field(default_factory=dict[str, str])
    in_use: dict[str, int] = field(default_factory=dict[str, int])
    parked: dict[str, tuple[Parked, ...]] = field(default_factory=dict[str, tuple[Parked, ...]])
    waiting: dict[str, Turn] = field(default_factory=dict[str, Turn])
    used_up: dict[str, int] = field(default_factory=dict[str, int])

    @staticmethod
    def of(limit: Limit) -> Gate:
        return Gate(*limit[:8], *[dict(part) for part in limit[8:]])  # pyright: ignore[reportArgumentType, reportCallIssue, reportUnknownArgumentType]

    def limit(self) -> Limit:
        return Limit(
            self.numbers,
            self.code,
            self.is_by_hand,
            self.is_paused,
            self.is_looked_through,
            self.turn,
            self.sequence,
            self.parked_count,
            tuple(sorted(self.held.items())),
            tuple(sorted(self.in_use.items())),
            tuple(sorted(self.parked.items())),
            tuple(sorted(self.waiting.items())),
            tuple(sorted(self.used_up.items())),
        )


# -- the same gate at any time


def instants(limit: Limit, now: int) -> set[int]:
    return {at for _, at in limit.used_up if at > now}


def in_order(limit: Limit, now: int, ranks: Mapping[int, int]) -> Limit:
    """The same with sequences by their order, turns from the last one on, and without rates that are over."""
    sequences = sorted(one.sequence for _, parked in limit.parked for one in parked)
    places = {sequence: place for place, sequence in enumerate(sequences, 1)}
    return limit._replace(
        turn=0.0,
        sequence=len(places),
        parked=tuple(
            [
                (key, tuple([one._replace(sequence=places[one.sequence]) for one in parked]))
                for key, parked in limit.parked
            ]
        ),
        waiting=tuple([(key, turn._replace(at=max(turn.at - limit.turn, 0.0))) for key, turn in limit.waiting]),
        used_up=tuple([(key, ranks[at]) for key, at in limit.used_up if at > now]),
    )
