"""Workers, gateways, clients and time around the rules of Resonate's protocol: every order of what they may do.

A worker runs a program as an SDK does: from its first line at each execution, a request at a time. Times are counted
from now on, so that the same situation an hour later is the same state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.model.resonate import ACQUIRED, NEVER, PENDING, SUSPENDED, Answer, Ask, Made, Promise, Redis, Rules

RETRY, TTL = 3, 4
ANY = "poll://any@w"
CLIENT = "poll://uni@c/1"


class Op(NamedTuple):
    """A line of a program: a promise is made, waited for with others, or settled."""

    what: str
    ids: tuple[str, ...]
    made: Made = Made()


Programs = tuple[tuple[str, tuple[Op, ...]], ...]
"""The lines of each task; at the end of them it is resolved."""


class Hand(NamedTuple):
    """What one worker knows."""

    id: str = ""
    version: int = 0
    is_held: bool = False
    """It has acquired the task; else it has only heard of it."""
    line: int = 0
    settled: frozenset[str] = frozenset()


IDLE = Hand()


class Gateway(NamedTuple):
    """When it looks again by itself, and up to where it has been told to."""

    until: int = 0
    heard: int = -1
    is_taking: bool = False


class Holder(NamedTuple):
    """Who has acquired a task last, as nobody but the law knows."""

    worker: str
    version: int
    lease: int


class World(NamedTuple):
    redis: Redis
    hands: tuple[Hand, ...]
    gateways: tuple[Gateway, ...]
    clients: tuple[tuple[Ask, ...], ...]
    """What each client is still to ask."""
    asked: tuple[Ask, ...] = ()
    mail: tuple[tuple[str, int], ...] = ()
    """Messages on their way to a worker."""
    late: tuple[tuple[str, Ask], ...] = ()
    """Requests that the network delivers once more, some time."""
    left: tuple[tuple[str, int], ...] = ()
    """How often each fault may still happen."""
    saved: Redis | None = None
    """What is on disk."""
    is_rolled_back: bool = False
    holders: tuple[tuple[str, Holder], ...] = ()
    waits: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """For what each task was suspended last."""


class Move(NamedTuple):
    label: str
    after: World
    is_fair: bool = True
    """No fault, and nothing that anybody may as well leave out."""
    who: str = ""
    ask: Ask | None = None
    answer: Answer | None = None
    is_rollback: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """Programs, the requests of each client, workers, and how often each fault may happen."""

    programs: Programs
    clients: tuple[tuple[Ask, ...], ...]
    workers: int = 1
    gateways: int = 1
    faults: dict[str, int] = field(default_factory=dict[str, int])


class Quick(Rules):
    """The rules, with a short time between two executions."""

    retry_ms = RETRY


class Moves:
    """All that may happen next."""

    def __init__(self, scenario: Scenario, rules: type[Rules]) -> None:
        self._scenario, self._rules = scenario, rules
        self._programs = dict(scenario.programs)

    def begin(self) -> World:
        return World(
            Redis(),
            (IDLE,) * self._scenario.workers,
            (Gateway(),) * self._scenario.gateways,
            self._scenario.clients,
            left=tuple(sorted(self._scenario.faults.items())),
        )

    def moves(self, at: World) -> Iterator[Move]:
        work = [move for index, hand in enumerate(at.hands) for move in self._work(at, index, hand)]
        work += [move for index, gateway in enumerate(at.gateways) for move in self._deliver(at, index, gateway)]
        yield from work
        yield from self._client(at)
        for index, (who, ask) in enumerate(at.late):
            rest = at._replace(late=at.late[:index] + at.late[index + 1 :])
            yield self._asked(rest, who, ask, "again, late: ", is_fair=True)[0]
        if at.mail and _may(at, "lost message"):
            yield Move("A MESSAGE IS LOST", _spend(at, "lost message")._replace(mail=at.mail[1:]), is_fair=False)
        if _may(at, "rollback"):
            yield from self._disk(at)
        is_quiet = not any(move.is_fair for move in work)
        due = min([when for _, when in (*at.redis.deadlines, *at.redis.turns)], default=0)
        if 0 < due < NEVER and (is_quiet or _may(at, "pause")):
            passed = at._replace(redis=at.redis._replace(now=due))
            yield Move(f"{due} pass", passed if is_quiet else _spend(passed, "pause"), is_quiet)

    # -- workers

    def _work(self, at: World, index: int, hand: Hand) -> Iterator[Move]:
        who = f"w{index + 1}"
        if hand == IDLE:
            for id, version in at.mail:
                mail = tuple([one for one in at.mail if one != (id, version)])
                yield Move(f"{who} hears of {id}", _with(at, index, Hand(id, version))._replace(mail=mail))
            return
        if _may(at, "crash"):
            yield Move(f"{who} CRASHES", _with(_spend(at, "crash"), index, IDLE), is_fair=False)
        if hand.is_held and _may(at, "release"):
            yield self._sent(_spend(at, "release"), index, hand, Ask("task.release", (hand.id, hand.version)))
        if hand.is_held and _may(at, "heartbeat"):
            beat = Ask("task.heartbeat", (who, ((hand.id, hand.version),)))
            yield self._asked(_spend(at, "heartbeat"), who, beat, is_fair=False)[0]
        ask = self._next(who, hand)
        yield self._sent(at, index, hand, ask)
        if _may(at, "lost answer"):
            lost = _spend(at, "lost answer")
            yield self._asked(lost, who, ask, "the answer is LOST: ", is_fair=False)[0]
        if _may(at, "repeat"):
            again = _spend(at, "repeat")
            yield self._sent(again._replace(late=(*again.late, (who, ask))), index, hand, ask)

    def _next(self, who: str, hand: Hand) -> Ask:
        if not hand.is_held:
            return Ask("task.acquire", (hand.id, hand.version, who, TTL))
        program = self._programs.get(hand.id, ())
        if hand.line >= len(program):
            return Ask("task.fulfill", (hand.id, hand.version, "resolved", who))
        op = program[hand.line]
        match op.what:
            case "make":
                action = Ask("promise.create", (op.ids[0], op.made))
            case "settle":
                action = Ask("promise.settle", (op.ids[0], "resolved", who))
            case _:
                return Ask("task.suspend", (hand.id, hand.version, op.ids))
        return Ask("task.fence", (hand.id, hand.version, action))

    def _sent(self, at: World, index: int, hand: Hand, ask: Ask) -> Move:
        move, answer = self._asked(at, f"w{index + 1}", ask)
        return move._replace(after=_with(move.after, index, self._learned(hand, ask, answer)))

    def _learned(self, hand: Hand, ask: Ask, answer: Answer) -> Hand:
        """What a worker does next, by its answer: it lets go of what it may not do, and of what waits or has ended."""
        program = self._programs.get(hand.id, ())
        if ask.kind == "task.acquire" and answer.status == 200 and answer.task:
            hand = Hand(hand.id, answer.task.version, is_held=True)
        elif ask.kind == "task.suspend" and answer.status == 300:
            hand = hand._replace(line=hand.line + 1)
        elif ask.kind == "task.fence" and answer.inner:
            promise = answer.inner[1]
            if promise and promise.state != PENDING:
                hand = hand._replace(settled=hand.settled | {ask.args[2].args[0]})
            hand = hand._replace(line=hand.line + 1)
        else:
            return IDLE
        while (
            hand.line < len(program) and program[hand.line].what == "wait" and hand.settled & {*program[hand.line].ids}
        ):
            hand = hand._replace(line=hand.line + 1)
        return hand

    # -- gateways

    def _deliver(self, at: World, index: int, gateway: Gateway) -> Iterator[Move]:
        who, rules = f"g{index + 1}", self._rules(at.redis)
        if _may(at, "gateway crash"):
            begun = _spend(at, "gateway crash")._replace(mail=())
            yield Move(f"{who} CRASHES, and begins again", _at(begun, index, Gateway()), is_fair=False)
        if gateway.is_taking:
            taken = rules.take((ANY, CLIENT))
            mail = {(id, version) for _, id, version in taken if version is not None}
            after = at._replace(redis=rules.redis(), mail=tuple(sorted({*at.mail, *mail})))
            yield Move(f"{who} takes {taken}", _at(after, index, gateway._replace(is_taking=False)))
        elif gateway.heard < at.redis.wakes or gateway.until <= at.redis.now:
            rules.tick()
            redis = rules.redis()
            until = min([when for _, when in (*redis.deadlines, *redis.turns)], default=NEVER)
            after = _settled(at, redis)
            yield Move(f"{who} looks", _at(after, index, Gateway(until, redis.wakes, is_taking=True)))

    # -- clients, the network and the disk

    def _client(self, at: World) -> Iterator[Move]:
        for index, asks in enumerate(at.clients):
            if asks and (asks[0].kind == "promise.create" or at.redis.promise(asks[0].args[0])):
                clients = (*at.clients[:index], asks[1:], *at.clients[index + 1 :])
                asked = (*at.asked, asks[0]) if "rollback" in self._scenario.faults else ()
                yield self._asked(at._replace(clients=clients, asked=asked), "c", asks[0])[0]
        for ask in at.asked if at.is_rolled_back else ():
            promise = at.redis.promise(ask.args[0])
            is_lost = ask.kind == "promise.settle" and promise is not None and promise.state == PENDING
            if is_lost or (ask.kind == "promise.create" and not promise):
                yield self._asked(at, "c", ask, "after a look: ")[0]

    def _disk(self, at: World) -> Iterator[Move]:
        if at.saved is None:
            yield Move("the disk has it", at._replace(saved=at.redis), is_fair=False)
        elif at.saved != at.redis:
            redis = at.saved._replace(now=at.redis.now, wakes=at.redis.wakes + 1)
            lost = _spend(at, "rollback")._replace(redis=redis, saved=None, holders=(), waits=(), is_rolled_back=True)
            yield Move("THE LAST WRITES ARE LOST", lost, is_fair=False, is_rollback=True)

    def _asked(self, at: World, who: str, ask: Ask, how: str = "", *, is_fair: bool = True) -> tuple[Move, Answer]:
        rules = self._rules(at.redis)
        answer = rules.ask(ask)
        after = _settled(at, rules.redis(), who, ask, answer)
        label = f"{who} {how}{ask.kind} {' '.join(map(str, ask.args))} -> {answer.status}"
        return Move(label, after, is_fair, who, ask, answer), answer


def _settled(at: World, redis: Redis, who: str = "", ask: Ask | None = None, answer: Answer | None = None) -> World:
    """The world after a script, with what the laws remember of it."""
    holders, waits = dict(at.holders), dict(at.waits)
    if ask and answer and answer.status == 200 and ask.kind in ("task.acquire", "task.create") and answer.task:
        holders[ask.args[0]] = Holder(who, answer.task.version, redis.now + TTL)
    if ask and answer and answer.status == 200 and ask.kind == "task.suspend":
        waits[ask.args[0]] = ask.args[2]
    for id, holder in at.holders:
        is_own = ask and ask.kind == "task.heartbeat" and who == holder.worker and (id, holder.version) in ask.args[1]
        if is_own and holders[id] == holder:
            holders[id] = holder._replace(lease=redis.now + TTL)
    tasks = {id: promise.task for id, promise in redis.promises if promise.task}
    return at._replace(
        redis=redis,
        holders=tuple(sorted([(id, one) for id, one in holders.items() if tasks[id].state == ACQUIRED])),
        waits=tuple(sorted([(id, ids) for id, ids in waits.items() if tasks[id].state == SUSPENDED])),
    )


def _may(at: World, fault: str) -> bool:
    return dict(at.left).get(fault, 0) > 0


def _spend(at: World, fault: str) -> World:
    return at._replace(left=tuple([(one, count - (one == fault)) for one, count in at.left]))


def _with(at: World, index: int, hand: Hand) -> World:
    return at._replace(hands=(*at.hands[:index], hand, *at.hands[index + 1 :]))


def _at(at: World, index: int, gateway: Gateway) -> World:
    return at._replace(gateways=(*at.gateways[:index], gateway, *at.gateways[index + 1 :]))


# -- the same situation at another time


def from_now(at: World) -> World:
    """The same state with its times counted from now, and without those that mean nothing any more."""
    now, wakes = at.redis.now, at.redis.wakes

    def moved(when: int) -> int:
        return when if when == NEVER else max(when - now, 0)

    def data(redis: Redis) -> Redis:
        return Redis(
            0,
            tuple([(id, _promise_from(promise, now)) for id, promise in redis.promises]),
            tuple([(id, moved(when)) for id, when in redis.deadlines]),
            tuple([(id, moved(when)) for id, when in redis.turns]),
            tuple([(id, 0) for id, _ in redis.queued]),
            redis.inbox,
        )

    gateways = [Gateway(moved(one.until), max(one.heard - wakes, -1), one.is_taking) for one in at.gateways]
    return at._replace(
        redis=data(at.redis),
        saved=data(at.saved) if at.saved else None,
        gateways=tuple(gateways),
        holders=tuple([(id, one._replace(lease=moved(one.lease))) for id, one in at.holders]),
    )


def _promise_from(promise: Promise, now: int) -> Promise:
    made = promise.made
    if promise.state != PENDING:
        return promise._replace(created=0, settled=0, made=made._replace(timeout=0, delay=0))
    timeout = NEVER if made.timeout == NEVER else max(made.timeout - now, 0)
    return promise._replace(created=0, made=made._replace(timeout=timeout, delay=max(made.delay - now, 0)))
