"""Which faults happen, and when: made from the seed alone, so that the same seed gives the same faults."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

FAULTS = (
    "kill-worker",
    "pause-worker",
    "kill-redis",
    "failover",
    "cut",
    "stall",
    "black-hole",
    "delay",
    "flush-scripts",
    "kill-clients",
    "block-redis",
)
"""In the order of ``faults.py``."""

AROUND = ("full-redis", "begin-while-full", "begin-while-read-only")
"""The faults of ``around.py``."""

OF_NODES = ("kill-master", "pause-node", "hand-over", "move-slot", "kill-clients")
CLUSTER = (
    *("kill-worker", "pause-worker"),
    *OF_NODES,
    *("cut", "cut-off", "stall", "black-hole", "delay", "flush-scripts"),
)
"""The faults of ``cluster.py``; those of its nodes are done one at a time."""

_BETWEEN_S = (0.3, 2.5)
_LASTS_S = {
    "pause-worker": (0.5, 6.0),
    "stall": (0.2, 3.0),
    "delay": (1.0, 4.0),
    "block-redis": (0.2, 2.0),
    "kill-master": (0.2, 6.0),
    "pause-node": (0.2, 8.0),
    "move-slot": (0.0, 2.0),
    "cut-off": (0.5, 5.0),
} | dict.fromkeys(AROUND, (0.5, 4.0))


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault."""

    at_s: float
    name: str
    which: int
    """The worker or the node, if the fault is for one."""
    lasts_s: float


def plan(seed: int, seconds: float, names: Sequence[str], targets: int) -> list[Fault]:
    """Faults one after the other, until ``seconds`` are over."""
    chance = random.Random(seed)
    faults: list[Fault] = []
    at_s = chance.uniform(*_BETWEEN_S)
    while at_s < seconds:
        name = chance.choice(names)
        lasts_s = chance.uniform(*_LASTS_S.get(name, (0.0, 0.0)))
        faults.append(Fault(round(at_s, 3), name, chance.randrange(targets), round(lasts_s, 3)))
        at_s += chance.uniform(*_BETWEEN_S)
    return faults
