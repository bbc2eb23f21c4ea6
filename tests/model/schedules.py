"""One schedule, its executions, and workers that start them: every order of events, with workers that die in between.

What a worker decides is the code of the product, ``due_schedules``; what the scripts do is told here again. A delay of
a second, until it is offered again, is no time at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from functools import cache
from typing import NamedTuple

from durasleep.cron import NEVER, Spec
from durasleep.model import PromiseId
from durasleep.protocol import due_schedules
from durasleep.protocol.due_schedules import Step
from durasleep.protocol.schedules import CANCEL, QUEUE_ALL, Change, Schedule

MINUTE_MS = 60_000
FIRST_MS = 1_000_000 * MINUTE_MS
TIMES = 3
TICKS = tuple(FIRST_MS + n * MINUTE_MS for n in range(TIMES))


class Phase(StrEnum):
    IDLE = "idle"
    OFFERED = "offered"
    READ = "read"
    DECIDED = "decided"
    CHANGED = "changed"
    STARTED = "started"


class Wish(NamedTuple):
    """A change that a worker has decided on."""

    next_due_ms: int
    timer: str
    starts: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]


class Hand(NamedTuple):
    """What one worker knows."""

    phase: Phase = Phase.IDLE
    seen: Schedule | None = None
    is_current: bool = False
    """Whether nobody has changed the schedule since it was seen."""
    wish: Wish | None = None
    elsewhere: tuple[str, ...] = ()
    cancels: str = ""


class Execution(NamedTuple):
    id: str
    is_pending: bool = True
    is_canceled: bool = False
    is_told: bool = False
    """Whether its schedule has heard of its end."""


class World(NamedTuple):
    now: int
    kept: Schedule
    timer: int
    executions: tuple[Execution, ...] = ()
    hands: tuple[Hand, ...] = (Hand(), Hand())
    crashes: int = 0
    delays: int = 0
    """How often nobody looks for a minute."""

    def execution(self, id: str) -> Execution | None:
        return next((one for one in self.executions if one.id == id), None)


class Move(NamedTuple):
    label: str
    after: World
    is_fair: bool = True


class Rules:
    """The moves; a test breaks a rule by overriding it."""

    def __init__(self, overlap: str, catch_up: str, *, is_here: bool) -> None:
        self.overlap, self._is_here = overlap, is_here
        times = str(Spec("UTC", every_ms=MINUTE_MS, end_ms=TICKS[-1]))
        self._first = Schedule(
            "s", times, "UTC", "f", "workers", b"", FIRST_MS, overlap=overlap, catch_up=catch_up, is_newer=True
        )

    def begin(self) -> World:
        return World(FIRST_MS - 1, self._first, FIRST_MS)

    def moves(self, at: World) -> Iterator[Move]:
        for index, hand in enumerate(at.hands):
            if hand.phase is not Phase.IDLE:
                yield self._work(at, index, hand)
                if at.crashes:
                    yield Move(f"worker {index} DIES", _with(at, index, Hand())._replace(crashes=at.crashes - 1), False)
            elif at.timer <= at.now:
                yield Move(f"worker {index} finds it due", _with(at, index, Hand(Phase.OFFERED)))
        if at.now < at.timer < NEVER:
            yield Move(f"it is {at.timer}", at._replace(now=at.timer))
        if at.delays and at.now < TICKS[-1]:
            late = at._replace(now=max(at.now, FIRST_MS) + MINUTE_MS, delays=at.delays - 1)
            yield Move("NOBODY LOOKS FOR A MINUTE", late, False)
        for one in at.executions:
            if one.is_pending:
                ended = _put(at, one._replace(is_pending=False, is_told=self._is_here))
                yield Move(f"{one.id} ends", self.end_scheduled(ended, one.id) if self._is_here else ended)
            elif not one.is_told:
                yield Move(f"{one.id} tells", self.end_scheduled(_put(at, one._replace(is_told=True)), one.id))

    # -- rules

    def is_stale(self, hand: Hand) -> bool:
        return not hand.is_current

    def end_scheduled(self, at: World, id: str) -> World:
        """The end of the one that runs lets the next one start."""
        if at.kept.running != id:
            return at
        return _changed(at, replace(at.kept, running=""), at.now if at.kept.waiting else at.timer)

    def has_ended(self, at: World, seen: Schedule) -> bool:
        """The word of its end may have been lost."""
        if not seen.running or seen.starting:
            return False
        found = at.execution(seen.running)
        return found is None or not found.is_pending

    def marked(self, change: Change) -> Change:
        """What is to be started elsewhere is named before it is."""
        return change

    # -- a worker

    def _work(self, at: World, index: int, hand: Hand) -> Move:
        match hand.phase:
            case Phase.OFFERED:
                return Move(f"worker {index} reads it", _with(at, index, Hand(Phase.READ, at.kept, is_current=True)))
            case Phase.READ:
                return self._decide(at, index, hand)
            case Phase.DECIDED if hand.cancels:
                found = at.execution(hand.cancels)
                after = _put(at, found._replace(is_canceled=True)) if found else at
                return Move(f"worker {index} cancels {hand.cancels}", _with(after, index, hand._replace(cancels="")))
            case Phase.CHANGED:
                assert hand.seen
                id = hand.elsewhere[-1]
                after = at if at.execution(id) else at._replace(executions=(*at.executions, Execution(id)))
                found = after.execution(id)
                change = due_schedules.confirmed(hand.seen, is_pending=found is not None and found.is_pending)
                done = hand._replace(phase=Phase.STARTED, wish=_wish(change), elsewhere=())
                return Move(f"worker {index} starts {id} elsewhere", _with(after, index, done))
            case _:
                return self._advance(at, index, hand)

    def _decide(self, at: World, index: int, hand: Hand) -> Move:
        assert hand.seen
        seen = replace(hand.seen, running="") if self.has_ended(at, hand.seen) else hand.seen
        step = _step(seen, at.now, self._is_here)
        decided = hand._replace(
            phase=Phase.DECIDED,
            wish=_wish(self.marked(step.change)),
            elsewhere=tuple(step.elsewhere),
            cancels=step.cancels or "",
        )
        return Move(f"worker {index} decides", _with(at, index, decided))

    def _advance(self, at: World, index: int, hand: Hand) -> Move:
        assert hand.wish
        if self.is_stale(hand):
            return Move(f"worker {index} is too late", _with(at, index, Hand(Phase.OFFERED)))
        wish, made = hand.wish, ""
        change = Change(wish.next_due_ms, wish.timer, [PromiseId(id) for id in wish.starts], dict(wish.fields))
        after = due_schedules.after(at.kept, change, "")
        after = replace(after, starting=tuple(change.fields.get("starting", " ".join(at.kept.starting)).split()))
        executions = at.executions
        for id in change.starts:
            if at.execution(id) is None:
                executions, made = (*executions, Execution(id)), id
        timer = _instant(change.timer, at.now)
        if change.starts:
            after, timer = replace(after, running=made), timer if made else at.now
        changed = _changed(at._replace(executions=executions), after, timer)
        is_more = hand.phase is Phase.DECIDED and hand.elsewhere
        left = Hand(Phase.CHANGED, changed.kept, True, None, hand.elsewhere) if is_more else Hand()
        begun = ", ".join(change.starts) or "nothing"
        return Move(f"worker {index} changes it, starts {begun}", _with(changed, index, left))


@cache
def _step(seen: Schedule, now: int, is_here: bool) -> Step:
    return due_schedules.step(seen, now, lambda _: is_here)


def _wish(change: Change) -> Wish:
    return Wish(change.next_due_ms, change.timer, tuple(change.starts), tuple(sorted(change.fields.items())))


def _instant(timer: str, now: int) -> int:
    if not timer:
        return NEVER
    return now if timer[0] == "+" else int(timer[1:])


def _with(at: World, index: int, hand: Hand) -> World:
    return at._replace(hands=(*at.hands[:index], hand, *at.hands[index + 1 :]))


def _put(at: World, execution: Execution) -> World:
    return at._replace(executions=tuple([execution if one.id == execution.id else one for one in at.executions]))


def _changed(at: World, kept: Schedule, timer: int) -> World:
    hands = tuple([hand._replace(is_current=False) for hand in at.hands])
    return at._replace(kept=kept, timer=timer, hands=hands)


# -- laws


def two_at_a_time(at: World) -> str:
    pending = [one.id for one in at.executions if one.is_pending]
    return f"{pending} run at a time" if len(pending) > 1 else ""


def is_over(at: World) -> bool:
    is_idle = all(hand.phase is Phase.IDLE for hand in at.hands)
    is_done = at.kept.due_ms == NEVER and not at.kept.waiting and not at.kept.starting
    return is_idle and is_done and not any(one.is_pending for one in at.executions)


def left_out(at: World) -> str:
    """Times that should have been started, and were not, when all is over."""
    started = {one.id for one in at.executions}
    if not is_over(at) or (at.delays == 0 and at.kept.catch_up != "all"):
        return ""
    wanted = {QUEUE_ALL: TICKS, CANCEL: TICKS[-1:]}.get(at.kept.overlap, ())
    missing = [at.kept.id_of(tick) for tick in wanted if at.kept.id_of(tick) not in started]
    return f"{missing} never started" if missing else ""


class Explored(NamedTuple):
    states: int
    wrong: str = ""
    way: tuple[str, ...] = ()


def explore(rules: Rules, *, crashes: int = 1, delays: int = 1) -> Explored:
    """Every state that can be reached; a violated law with the shortest way to it, or a state that cannot end."""
    first = rules.begin()._replace(crashes=crashes, delays=delays)
    came: dict[World, tuple[World | None, str]] = {first: (None, "")}
    before: dict[World, list[World]] = {first: []}
    waiting = deque([first])
    while waiting:
        at = waiting.popleft()
        for move in rules.moves(at):
            if move.after not in came:
                came[move.after] = (at, move.label)
                before[move.after] = []
                waiting.append(move.after)
                if wrong := two_at_a_time(move.after) or left_out(move.after):
                    return Explored(len(came), wrong, _way(came, move.after))
            if move.is_fair:
                before[move.after].append(at)
    can_end = {at for at in came if is_over(at)}
    ending = deque(can_end)
    while ending:
        for at in before[ending.popleft()]:
            if at not in can_end:
                can_end.add(at)
                ending.append(at)
    stuck = next((at for at in came if at not in can_end), None)
    return Explored(len(came), "it is stuck", _way(came, stuck)) if stuck else Explored(len(came))


def _way(came: dict[World, tuple[World | None, str]], at: World | None) -> tuple[str, ...]:
    labels: list[str] = []
    while at is not None:
        at, label = came[at]
        labels.append(label)
    return tuple(reversed(labels))
