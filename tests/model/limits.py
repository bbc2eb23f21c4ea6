"""The gates of limits while a script runs: what is in ``gates.lua``, ``limits.lua`` and ``functions.lua``."""

from __future__ import annotations

from collections.abc import Iterable

from durasleep.model import PRIORITY, Place
from tests.model.gate import Gate, Numbers, Parked, Turn
from tests.model.records import Records, Refused
from tests.model.state import Declared, Promise, Redis

GATE_TIMERS = ("gate", "gates", "replaced")
WAKES_UP = 0  # the level of one that wakes up
LIFE = "life"


def parts_of(limit: str) -> tuple[str, str, str]:
    """The sign, the limit and the key of an execution."""
    name, _, key = limit[1:].partition("/")
    return limit[:1], name, key


def priority_of(queue: str) -> int:
    """By the queue in which it waits."""
    return int(queue.partition("!")[2] or PRIORITY)


def queue_at(queue: str, priority: int | None) -> str:
    """The queue of a group in which work of this priority waits. A worker's own queue has no levels."""
    if priority is None or "/" in queue:
        return queue
    group = queue.partition("!")[0]
    return group if priority == PRIORITY else f"{group}!{priority}"


class Gates(Records):
    """The gates of all limits."""

    released_max = 64  # in one script; the firer goes on
    looks_max = 64

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        self._released = 0

    # -- rules; a test breaks each of them

    def has_passed(self, sign: str) -> bool:
        """Whether it has a slot already, which it keeps whoever runs it."""
        return sign == "+"

    def has_room(self, gate: Gate, key: str) -> bool:
        per_key = gate.numbers.per_key
        return per_key is None or gate.in_use.get(key, 0) < per_key

    def is_open(self, gate: Gate) -> bool:
        total = gate.numbers.total
        return not gate.is_paused and not (total is not None and len(gate.held) >= total)

    def is_behind(self, gate: Gate, key: str) -> bool:
        """Whether others of its key wait."""
        return key in gate.parked

    def first_of(self, parked: tuple[Parked, ...]) -> Parked:
        return parked[0]

    def needs_token(self, level: int) -> bool:
        """Whether it is counted by the rate: not if it wakes up."""
        return level != WAKES_UP

    def set_token_timer(self, gate: str, key: str, at: int) -> None:
        """Somebody must look again when there is a token."""
        self.set_timer(f"{gate}/{key}~gate", at)

    def may_go(self, gate: Gate, name: str, key: str, level: int) -> bool:
        """Whether only those before it keep back one that comes."""
        return self.has_room(gate, key) and (level == WAKES_UP or not self.is_timed(name, key))

    def end_waiting(self, name: str, gate: Gate, key: str) -> None:
        """Nothing is parked for this key any more."""
        gate.waiting.pop(key, None)
        self.unset_timer(f"{name}/{key}~gate")

    def is_held_on(self, gate: Gate, *, has_ended: bool) -> bool:
        """Whether it keeps its slot although it does not run."""
        return gate.numbers.is_for_life and not has_ended

    def release(self, name: str, key: str) -> None:
        """There is room again for a key, or for the next one."""
        gate = self.limits[name]
        if gate.numbers.total is None:
            self.release_of_key(name, key)
            return
        if key in gate.parked:
            self._set_waiting(gate, key, may_go=self.has_room(gate, key))
        self._release_in_turn(name)

    def look_again(self, name: str) -> None:
        """The numbers of a limit have changed: all keys are looked at."""
        self.limits[name].is_looked_through = True
        self._go_on_later(name)

    def is_looked_at(self, name: str, key: str) -> bool:  # noqa: ARG002 - for a test that breaks it
        """Whether a key is looked at after a change: also if it waits for a token."""
        return True

    def is_replaced(self, id: str) -> bool:
        """Whether it has made room for a newer one."""
        promise = self.promises.get(id)
        if promise is None or promise.place is not Place.PARKED:
            return False
        _, name, key = parts_of(promise.limit)
        return all(one.id != id for one in self.limits[name].parked.get(key, ()))

    # -- the script

    def change_limits(self, items: Iterable[tuple[str, str, Numbers | None]]) -> tuple[Redis, list[str | Refused]]:
        """Each item is an action, a limit and its numbers: ``limit`` by the code, ``set`` by hand, ``pause``,
        ``resume`` or ``reset``. Answers "kept", or "same" if nothing has changed.
        """
        answers = [self._change_limit(*item) for item in items]
        self.write_gathered()
        self.notify_firers()
        return self.redis(), answers

    def _change_limit(self, action: str, name: str, numbers: Numbers | None) -> str | Refused:
        gate = self.limits.get(name)
        if gate is None and action == "limit" and numbers is not None:
            self.limits[name] = Gate(numbers, numbers)
            self.look_again(name)
            return "kept"
        if gate is None:
            return Refused("NOT_FOUND")
        match action:
            case "limit" if gate.code == numbers:
                return "same"
            case "limit" | "set" if numbers is not None:
                gate.code = numbers if action == "limit" else gate.code
                gate.is_by_hand = gate.is_by_hand or action == "set"
                if action == "limit" and gate.is_by_hand:
                    return "kept"
                gate.numbers = numbers
            case "pause" | "resume" if gate.is_paused is (action == "pause"):
                return "same"
            case "pause" | "resume":
                gate.is_paused = action == "pause"
            case _:
                gate.numbers, gate.is_by_hand = gate.code, False
        if action != "pause":
            self.look_again(name)
        return "kept"

    def write_gathered(self) -> None:
        raise NotImplementedError

    def notify_firers(self) -> None:
        raise NotImplementedError

    # -- what is made

    def complete(self, made: Promise, key: str, priority: int | None) -> Promise:
        """What is to be made, with what is declared of its function."""
        declared = self.declared.get(made.function, Declared())
        priority = declared.priority if priority is None else priority
        limit = f"-{declared.limit}/{key}" if declared.limit else ""
        return made._replace(queue=queue_at(made.queue, priority), limit=limit)

    def refusal_of(self, made: Promise, *, is_delayed: bool) -> str:
        """Why an execution with a limit cannot be made, as a word."""
        if not made.limit:
            return ""
        _, name, key = parts_of(made.limit)
        if self.declared[made.function].needs_key and not key:
            return "keyless"
        overflow = "" if is_delayed else self._overflow_of(name, key)
        return "" if overflow == "replace" else overflow

    def _overflow_of(self, name: str, key: str) -> str:
        gate = self.limits[name]
        numbers, count = gate.numbers, len(gate.parked.get(key, ()))
        if count < numbers.parked_max:
            return ""
        is_first = count == 0 and self.is_open(gate) and self.has_room(gate, key)
        if is_first and self._token_at(gate, key) <= self.now:
            return ""
        return numbers.overflow or "refuse"

    def replace_oldest(self, made: Promise) -> None:
        """The one that has waited longest and has never run makes room for a newer one. The firer ends it."""
        _, name, key = parts_of(made.limit)
        if self._overflow_of(name, key) != "replace":
            return
        oldest = next((one for one in self.limits[name].parked.get(key, ()) if one.level != WAKES_UP), None)
        if oldest:
            self._take_out(name, key, oldest.id)
            self.set_timer(f"{oldest.id}~replaced", self.now)

    # -- passing and freeing

    def passes(self, id: str, *, begins: bool) -> bool:
        """Whether an execution may be queued now. If not, it is parked."""
        sign, name, key = parts_of(self.promises[id].limit)
        if self.has_passed(sign):
            return True
        gate, level = self.limits[name], WAKES_UP
        if begins:
            level = priority_of(self.promises[id].queue)
        is_behind = self.is_behind(gate, key)
        if is_behind or not self.has_room(gate, key) or not self.is_open(gate):
            may_go = self.may_go(gate, name, key, level)
            self._park(id, gate, key, level, may_go=may_go)
            if is_behind and may_go and self.is_open(gate):
                self._go_on_later(name, key)
            return False
        at = self._take_token(gate, key) if self.needs_token(level) else None
        if at is not None:
            self._park(id, gate, key, level, may_go=False)
            self.set_token_timer(name, key, at)
            return False
        self.hold(id, gate, key)
        self.put(id, limit=f"+{name}/{key}")
        return True

    def free(self, id: str, *, has_ended: bool = False) -> None:
        """It gives up its slot: at its end, or whenever it does not run."""
        sign, name, key = parts_of(self.promises[id].limit)
        if sign != "+":
            return
        gate = self.limits[name]
        if self.is_held_on(gate, has_ended=has_ended):
            return
        self.put(id, limit=f"-{name}/{key}")
        if gate.held.pop(id, None) is not None:
            self.count(gate, key, -1)
        self.release(name, key)

    def unpark(self, id: str) -> None:
        """It waits no more."""
        _, name, key = parts_of(self.promises[id].limit)
        if name:
            self._take_out(name, key, id)

    def hold(self, id: str, gate: Gate, key: str) -> None:
        gate.held[id] = key
        self.count(gate, key, 1)

    def count(self, gate: Gate, key: str, more: int) -> None:
        count = gate.in_use.pop(key, 0) + more
        if count > 0:
            gate.in_use[key] = count

    def is_timed(self, name: str, key: str) -> bool:
        return f"{name}/{key}~gate" in self.timers

    def _park(self, id: str, gate: Gate, key: str, level: int, *, may_go: bool) -> None:
        gate.sequence += 1
        gate.parked_count += 1
        gate.parked[key] = tuple(sorted([*gate.parked.get(key, ()), Parked(level, gate.sequence, id)]))
        if may_go or key not in gate.waiting:
            self._set_waiting(gate, key, may_go=may_go)
        self.put(id, place=Place.PARKED)

    def _take_out(self, name: str, key: str, id: str) -> None:
        gate = self.limits[name]
        before = gate.parked.get(key, ())
        left = tuple([one for one in before if one.id != id])
        if len(left) == len(before):
            return
        gate.parked_count -= 1
        if gate.parked_count == 0:
            gate.sequence, gate.turn = 0, 0.0
        if left:
            gate.parked[key] = left
        else:
            del gate.parked[key]
            self.end_waiting(name, gate, key)

    def _token_at(self, gate: Gate, key: str) -> int:
        """When there is a token of the rate (GCRA, the generic cell rate algorithm)."""
        if gate.numbers.step_ms is None:
            return self.now
        return max(gate.used_up.get(key, 0), self.now) - (gate.numbers.burst - 1) * gate.numbers.step_ms

    def _take_token(self, gate: Gate, key: str) -> int | None:
        """None, or when there will be one."""
        step_ms = gate.numbers.step_ms
        if step_ms is None:
            return None
        latest = self.now + gate.numbers.burst * step_ms
        if gate.used_up.get(key, 0) > latest:
            gate.used_up[key] = latest  # by a slower rate than that of today, or before the clock was set back
        at = self._token_at(gate, key)
        if at > self.now:
            return at
        gate.used_up[key] = max(gate.used_up.get(key, 0), self.now) + step_ms
        return None

    # -- turns

    def _turn_of(self, gate: Gate, key: str) -> float:
        turn = gate.waiting.get(key)
        return max(turn.at if turn else 0.0, gate.turn)

    def _set_waiting(self, gate: Gate, key: str, *, may_go: bool, at: float | None = None) -> None:
        gate.waiting[key] = Turn(not may_go, self._turn_of(gate, key) if at is None else at)

    def _go_on_later(self, name: str, key: str | None = None) -> None:
        self.set_timer(f"{name}/~gates" if key is None else f"{name}/{key}~gate", self.now)

    def _release_first(self, name: str, key: str) -> bool:
        """The first of a key begins, if it may."""
        gate = self.limits[name]
        if self._released >= self.released_max or not self.is_open(gate) or not self.has_room(gate, key):
            return False
        parked = gate.parked.get(key)
        if not parked:
            self.end_waiting(name, gate, key)
            return False
        first = self.first_of(parked)
        at = self._take_token(gate, key) if self.needs_token(first.level) else None
        if at is not None:
            self.set_token_timer(name, key, at)
            self._set_waiting(gate, key, may_go=False)
            return False
        self._released += 1
        turn = self._turn_of(gate, key)
        self._take_out(name, key, first.id)
        promise = self.promises.get(first.id)
        if promise and promise.is_pending and promise.place is Place.PARKED:
            self.hold(first.id, gate, key)
            self.put(first.id, limit=f"+{name}/{key}")
            self.enqueue(first.id)
        if key in gate.parked:
            at_turn = turn if gate.numbers.total is None else turn + 1
            self._set_waiting(gate, key, may_go=self.has_room(gate, key), at=at_turn)
        return True

    def _release_in_turn(self, name: str) -> None:
        """The keys begin in turn. Each look takes a key out of those that may go, or begins one of its executions."""
        gate, looks = self.limits[name], 0
        while self._released < self.released_max and looks < self.looks_max and self.is_open(gate):
            looks += 1
            turns = sorted([(turn.at, key) for key, turn in gate.waiting.items() if not turn.is_blocked])
            if not turns:
                break
            at, key = turns[0]
            gate.turn = max(gate.turn, at)
            if not self._release_first(name, key) and key in gate.waiting:
                self._set_waiting(gate, key, may_go=False)
        if self._released >= self.released_max or looks >= self.looks_max:
            self._go_on_later(name)

    def release_of_key(self, name: str, key: str) -> None:
        while self._release_first(name, key):
            pass
        if self._released >= self.released_max:
            self._go_on_later(name, key)

    # -- fire

    def open_key(self, name: str, key: str) -> None:
        """A key that waited for its rate, or that has more to do than one script may."""
        self.unset_timer(f"{name}/{key}~gate")
        self.release(name, key)

    def open_all(self, name: str) -> None:
        """After a change of the limit, or if there is more to do than one script may."""
        gate = self.limits[name]
        self.unset_timer(f"{name}/~gates")
        if gate.is_looked_through:
            for _, _, key in sorted([(*turn, key) for key, turn in gate.waiting.items()]):
                if self.is_looked_at(name, key):
                    self._set_waiting(gate, key, may_go=self.has_room(gate, key))
                    if gate.numbers.total is None:
                        self.release_of_key(name, key)
            gate.is_looked_through = self._released >= self.released_max
            if gate.is_looked_through:
                self._go_on_later(name)
        if gate.numbers.total is not None:
            self._release_in_turn(name)
