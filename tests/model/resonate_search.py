"""Every state that a scenario of Resonate's protocol can reach, breadth first; what is wrong, with the way to it."""

from __future__ import annotations

import gc
from collections import deque
from typing import NamedTuple

from tests.model import resonate_laws as laws
from tests.model.resonate import PENDING
from tests.model.resonate_world import IDLE, Move, Moves, Quick, Scenario, World, from_now

STUCK = "from here, it cannot end"


class Explored(NamedTuple):
    states: int
    law: str = ""
    wrong: str = ""
    way: tuple[str, ...] = ()
    unused: frozenset[str] = frozenset()
    """Faults that have never happened, though the scenario allows them."""
    is_whole: bool = True
    """Whether all states were seen, or only as many as allowed."""

    def __str__(self) -> str:
        steps = [f"{index:3}  {label}" for index, label in enumerate(self.way, 1)]
        return "\n".join([f"{self.states} states; {self.law or 'all laws hold'} {self.wrong}", *steps])


def explore(scenario: Scenario, rules: type[Quick] = Quick, *, states_max: int = 20_000) -> Explored:
    """Look at every state, until a law is violated or there are more than ``states_max``."""
    gc.disable()  # every state is kept, and a collection would look at all of them in vain
    try:
        return _explore(Moves(scenario, rules), states_max)
    finally:
        gc.enable()


def _explore(moves: Moves, states_max: int) -> Explored:
    first = from_now(moves.begin())
    came: dict[World, tuple[World | None, str]] = {first: (None, "")}
    fair_before: dict[World, list[World]] = {first: []}
    waiting = deque([first])
    while waiting and len(came) <= states_max:
        at = waiting.popleft()
        for move in moves.moves(at):
            after = from_now(move.after)
            if law_wrong := _broken(at, move, after, is_new=after not in came):
                return Explored(len(came), *law_wrong, (*_way(came, at), move.label))
            if after not in came:
                came[after] = (at, move.label)
                fair_before[after] = []
                waiting.append(after)
            if move.is_fair:
                fair_before[after].append(at)
    unused = set(first.left).intersection(*[at.left for at in came])
    is_whole = not waiting
    stuck = _stuck(fair_before) if is_whole else None
    if stuck:
        return Explored(len(came), STUCK, "", _way(came, stuck))
    return Explored(len(came), unused=frozenset([fault for fault, _ in unused]), is_whole=is_whole)


def _broken(at: World, move: Move, after: World, *, is_new: bool) -> tuple[str, str] | None:
    for law in laws.OF_MOVES:
        if wrong := law(at, move):
            return law.__name__, wrong
    for law in laws.OF_STATES if is_new else ():
        if wrong := law(after):
            return law.__name__, wrong
    wrong = laws.nothing_is_left(after) if is_new and _is_over(after) else ""
    return (laws.nothing_is_left.__name__, wrong) if wrong else None


def _stuck(fair_before: dict[World, list[World]]) -> World | None:
    can_end = {at for at in fair_before if _is_over(at)}
    ending = deque(can_end)
    while ending:
        for at in fair_before[ending.popleft()]:
            if at not in can_end:
                can_end.add(at)
                ending.append(at)
    return next((at for at in fair_before if at not in can_end), None)


def _is_over(at: World) -> bool:
    is_idle = all(hand == IDLE for hand in at.hands)
    return is_idle and not any(at.clients) and all(promise.state != PENDING for _, promise in at.redis.promises)


def _way(came: dict[World, tuple[World | None, str]], at: World | None) -> tuple[str, ...]:
    labels: list[str] = []
    while at is not None:
        at, label = came[at]
        labels.append(label)
    return tuple(reversed(labels[:-1]))
