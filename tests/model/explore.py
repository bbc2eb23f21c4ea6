"""Every state that a scenario can reach, breadth first; a violated law is shown by a shortest way to it."""

from __future__ import annotations

import gc
from collections import deque
from dataclasses import dataclass, field

from tests.model import laws
from tests.model.channels import Send
from tests.model.gate import Limit, Numbers
from tests.model.moves import Create, Scripts
from tests.model.state import Declared
from tests.model.workers import Service, Step, Transitions, by_order


@dataclass(frozen=True, slots=True)
class Scenario:
    """The created executions, the slots of workers by consumer, and how often each fault may happen."""

    roots: tuple[Create, ...]
    hands: tuple[str, ...] = ("w1", "w2")
    budget: dict[str, int] = field(default_factory=dict[str, int])
    is_batched: bool = False
    """Commits of one worker are sent together, and all due timers fire at once, too."""
    limits: tuple[tuple[str, Limit], ...] = ()
    declared: tuple[tuple[str, Declared], ...] = ()
    changes: tuple[Numbers, ...] = ()
    """Numbers that a person may give a limit."""
    letters: tuple[tuple[Send, ...], ...] = ()
    """The messages of each client."""


@dataclass(slots=True)
class Report:
    """The result: the violated law, how, and the way to it."""

    states: int = 0
    is_whole: bool = True
    """Whether all states were seen, or only as many as allowed."""
    law: str = ""
    wrong: str = ""
    trace: tuple[str, ...] = ()
    unused: frozenset[str] = frozenset()
    """Faults that have never happened, though the scenario allows them."""

    def __str__(self) -> str:
        if not self.law:
            return f"{self.states} states, all laws hold"
        steps = [f"{index:3}  {label}" for index, label in enumerate(self.trace, 1)]
        return "\n".join([f"{self.law}: {self.wrong}", *steps])


class _Search:
    def __init__(self, scenario: Scenario, scripts: type[Scripts], is_timed: bool) -> None:
        self._key = _as_it_is if is_timed else by_order
        self._transitions = Transitions(
            scripts,
            scenario.roots,
            is_batched=scenario.is_batched,
            limits=scenario.limits,
            declared=scenario.declared,
            changes=scenario.changes,
            letters=scenario.letters,
        )
        self._faults = frozenset(scenario.budget.items())
        first = self._key(self._transitions.begin(scenario.hands, scenario.budget))
        self._states = [first]
        self._indexes = {first: 0}
        self._came_from: list[tuple[int, str]] = [(-1, "")]
        self._fair_before: list[list[int]] = [[]]
        """For each state, those from which a fair step leads to it."""
        self._over: list[int] = []
        self.report = Report()

    def run(self, states_max: int) -> Report:
        waiting = deque([0])
        while waiting and not self.report.law:
            if len(self._states) > states_max:
                self.report.is_whole = False
                break
            index = waiting.popleft()
            waiting.extend(self._expand(index))
        self.report.states = len(self._states)
        unused = self._faults.intersection(*[state.left for state in self._states])
        self.report.unused = frozenset([fault for fault, _ in unused])
        if self.report.is_whole and not self.report.law:
            self._look_for_dead_ends()
        return self.report

    def _expand(self, index: int) -> list[int]:
        at, fresh = self._states[index], list[int]()
        is_end = True
        for step in self._transitions.steps(at):
            is_end = is_end and not step.is_fair
            after = self._key(step.after)
            found = self._indexes.get(after)
            if self._breaks_a_law(index, at, step, is_new=found is None):
                return []
            if found is None:
                found = self._indexes[after] = len(self._states)
                self._states.append(after)
                self._came_from.append((index, step.label))
                self._fair_before.append([])
                fresh.append(found)
            if step.is_fair:
                self._fair_before[found].append(index)
        if laws.is_over(at.redis) and not any(at.letters):
            self._over.append(index)
            wrong = laws.NOTHING_LEFT(at.redis) if is_end else ""
            if wrong:
                self._notify(laws.NOTHING_LEFT.__name__, wrong, index)
        return fresh

    def _breaks_a_law(self, index: int, at: Service, step: Step, *, is_new: bool) -> bool:
        """A state that is the same but for when it was reached keeps the laws of states as the first one did."""
        for law in laws.OF_STATES if is_new else ():
            if wrong := law(step.after.redis):
                self._notify(law.__name__, wrong, index, step.label)
                return True
        for law in laws.OF_STEPS:
            if wrong := law(at, step):
                self._notify(law.__name__, wrong, index, step.label)
                return True
        return False

    def _look_for_dead_ends(self) -> None:
        """States from which fair steps cannot reach the end."""
        can_finish = set(self._over)
        waiting = deque(self._over)
        while waiting:
            for before in self._fair_before[waiting.popleft()]:
                if before not in can_finish:
                    can_finish.add(before)
                    waiting.append(before)
        for index in range(len(self._states)):
            if index not in can_finish:
                self._notify(laws.NO_DEAD_END, "it cannot", index)
                return

    def _notify(self, law: str, wrong: str, index: int, *last: str) -> None:
        trace = list(reversed(last))
        while index > 0:
            index, label = self._came_from[index]
            trace.append(label)
        self.report.law, self.report.wrong, self.report.trace = law, wrong, tuple(reversed(trace))


def _as_it_is(service: Service) -> Service:
    return service


def explore(
    scenario: Scenario, scripts: type[Scripts] = Scripts, *, states_max: int = 100_000, is_timed: bool = False
) -> Report:
    """Look at every state, until a law is violated or there are more than ``states_max``.

    With ``is_timed``, states that differ only in their times count as different: many more, for rules that count.
    """
    search = _Search(scenario, scripts, is_timed)
    gc.disable()  # every state is kept, and a collection would look at all of them in vain
    try:
        return search.run(states_max)
    finally:
        gc.enable()
