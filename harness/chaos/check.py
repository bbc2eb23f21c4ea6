"""What must be true after the chaos: each broken promise is one line."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from harness.chaos.work import ALONE, COUNTED, NAP_S, effects_of, result_of

EARLY_S = 0.002  # two clocks of one machine, and a file between them


def read_effects(path: Path) -> dict[str, list[float]]:
    """When each effect outside Redis happened."""
    found: dict[str, list[float]] = defaultdict(list)
    for line in path.read_text().splitlines():
        label, _, at = line.partition("\t")
        found[label].append(float(at))
    return found


def violations(
    shapes: Mapping[str, int],
    results: Mapping[str, list[str]],
    effects: Mapping[str, list[float]],
    counters: Mapping[str, int],
    repeats_max: int,
) -> list[str]:
    """``results`` has each result of each execution; an effect may be repeated at most this often."""
    found: list[str] = []
    for id, shape in shapes.items():
        told = results.get(id, [])
        if not told:
            found.append(f"{id} was lost: nobody knows how it ended")
        found += [f"{id} ended with {one!r}" for one in set(told) if one != result_of(shape, id)]
        for label, least in effects_of(shape, id).items():
            times = len(effects.get(label, []))
            if times < least:
                found.append(f"{label}: {times} times, at least {least} it must have been")
            if times > least + repeats_max:
                found.append(f"{label}: {times} times, with {repeats_max} faults that repeat a step")
        if shape == 0 and f"{id} gets up" in effects and f"{id} lies down" in effects:
            slept_s = min(effects[f"{id} gets up"]) - min(effects[f"{id} lies down"])
            if slept_s < NAP_S - EARLY_S:
                found.append(f"{id} slept {slept_s:.3f} s, too short by {NAP_S - slept_s:.3f}")
        if shape == 2 and counters.get(id) != COUNTED:
            found.append(f"the counter of {id} shows {counters.get(id)}, not {COUNTED}")
    return found


def overlaps(effects: Mapping[str, list[float]]) -> list[str]:
    """The executions of the schedule that began before the one before them was over."""
    found: list[str] = []
    begun = {label.split()[0]: min(times) for label, times in effects.items() if is_begin(label)}
    before = ""
    for id in sorted(begun, key=begun.__getitem__):
        over = min(effects.get(f"{before} is over", [math.inf])) if before else 0.0
        if over > begun[id] + EARLY_S:
            found.append(f"{id} began {begun[id]:.3f}, before {before} was over at {over:.3f}")
        before = id
    return found


def is_begin(label: str) -> bool:
    """Whether this is the first effect of an execution of the schedule."""
    return label.startswith(f"{ALONE}@") and label.endswith(" begins")
