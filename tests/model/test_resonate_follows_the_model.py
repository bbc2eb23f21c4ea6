"""The scripts of Resonate's protocol do what the model says, request for request, on every server.

Conversations are made up of what SDKs, people and gateways would ask, also of what is wrong: old versions, requests
that are repeated because their answer was lost, settlements in any order, a clock that jumps. After each request, the
data in Redis are compared with the model. ``DURASLEEP_MODEL_EXAMPLES=2000`` holds so many new ones, instead of a few.
"""

from __future__ import annotations

import os
import random
import secrets
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from durasleep.protocol.keys import Keyspace
from harness.servers import FAKE, Server
from tests.model.both_resonate import Alone, Both
from tests.model.resonate import ACQUIRED, HALTED, NEVER, PENDING, Ask, Made

pytestmark = pytest.mark.long

EXAMPLES = int(os.environ.get("DURASLEEP_MODEL_EXAMPLES", "0"))
CONVERSATIONS, OF_ONE_KIND_MAX, STEPS = 16, 8, 120

ANY, UNI = "poll://any@w", "poll://uni@w/1"
ADDRESSES = (ANY, UNI)
TARGETS = ("p", "p:1", "p.2", "q", "q:1")
IDS = (*TARGETS, "t", "x", "p:i")
"""Beside the targets: a timer, what somebody outside settles, and what is inside of ``p``."""
MINUTE_MS = 60_000
PASSING_MS = (1, 999, 1_000, 30_000, 31_000, 600_000)
SETTLED = ("resolved", "rejected", "rejected_canceled")
MOVES = {
    "create": 6,
    "settle": 2,
    "register": 3,
    "get": 1,
    "create_task": 2,
    "acquire": 6,
    "release": 2,
    "fulfill": 1,
    "suspend": 5,
    "sleep": 3,
    "fence": 4,
    "heartbeat": 2,
    "halt": 3,
    "go_on": 3,
    "take": 3,
    "let_time_pass": 3,
    "repeat": 2,
}
"""What may come next, and how often."""


class Conversation:
    """Requests that follow from one seed."""

    def __init__(self, both: Alone, seed: str) -> None:
        self._both = both
        self._random = random.Random(seed)
        self.asked: list[str] = []
        self.statuses = Counter[tuple[str, int]]()

    def speak(self, steps: int) -> None:
        for _ in range(steps):
            [name] = self._random.choices([*MOVES], [*MOVES.values()])
            getattr(self, name)()

    # -- choosing

    def _one(self, *choices: str) -> str:
        return self._random.choice(choices)

    def _ms(self, *choices: int) -> int:
        return self._random.choice(choices)

    def _deadline_ms(self) -> int:
        return self._ms(-10, 0, 1_000, 30_000, 100_000, NEVER, NEVER, NEVER, NEVER)

    def _that_is(self, state: str) -> str:
        """Mostly a task in a state, if there is one."""
        tasks = {id: promise.task for id, promise in self._both.model.promises if promise.task}
        found = [id for id, task in tasks.items() if task.state == state]
        return self._one(*(found if found and self._random.random() < 0.9 else (*TARGETS, "t")))

    def _version(self, id: str) -> int:
        task = self._both.model.task(id)
        version = task.version if task else 0
        return version if self._random.random() < 0.85 else max(0, version + self._ms(-1, 1))

    def _made(self, id: str) -> Made:
        now, timeout_ms, delay_ms = self._both.model.now, self._deadline_ms(), self._ms(0, 0, -5, 500, 40_000)
        timeout = NEVER if timeout_ms == NEVER else now + timeout_ms
        delay = now + delay_ms if delay_ms and delay_ms < timeout_ms else 0
        match id:
            case "t":
                target = self._one(ANY, ANY, "")
                return Made(timeout, target, is_timer=True, delay=delay if target else 0)
            case "x":
                return Made(timeout, is_external=True)
            case "p:i":
                return Made(timeout, branch="p")
            case _:
                return Made(timeout, UNI if id == "q:1" else f"{ANY}/1", branch=id[0], delay=delay)

    def _ask(self, kind: str, *args: object) -> None:
        ask = Ask(kind, args)
        self.asked.append(str(ask))
        self.statuses[kind, self._both.ask(ask).status] += 1

    # -- promises

    def create(self) -> None:
        id = self._one(*IDS)
        self._ask("promise.create", id, self._made(id))

    def settle(self) -> None:
        self._ask("promise.settle", self._one(*IDS), self._one(*SETTLED), self._one("", "v"))

    def register(self) -> None:
        awaited, awaiter = self._random.sample(IDS, 2)
        if self._random.random() < 0.5:
            self._ask("promise.register_callback", awaited, awaiter)
        else:
            self._ask("promise.register_listener", awaited, self._one(*ADDRESSES))

    def get(self) -> None:
        self._ask(self._one("promise.get", "task.get"), self._one(*IDS))

    # -- tasks

    def create_task(self) -> None:
        id = self._one(*TARGETS, "t", "x", "x", "p:i")
        made = self._made(id)
        pid, ttl = self._one("w1", "w2"), self._ms(1_000, MINUTE_MS)
        self._ask("task.create", id, made._replace(target=made.target or ANY, delay=0), pid, ttl)

    def acquire(self) -> None:
        id = self._that_is(PENDING)
        self._ask("task.acquire", id, self._version(id), self._one("w1", "w2"), self._ms(1_000, MINUTE_MS))

    def release(self) -> None:
        id = self._that_is(ACQUIRED)
        self._ask("task.release", id, self._version(id))

    def fulfill(self) -> None:
        id = self._that_is(ACQUIRED)
        self._ask("task.fulfill", id, self._version(id), self._one(*SETTLED), "w")

    def suspend(self) -> None:
        id = self._that_is(ACQUIRED)
        there = [one for one, _ in self._both.model.promises if one != id]
        others = there if there and self._random.random() < 0.8 else [one for one in IDS if one != id]
        self._ask("task.suspend", id, self._version(id), tuple(self._random.sample(others, min(len(others), 2))))

    def sleep(self) -> None:
        """The usual case: a task is acquired, makes something, and waits for it."""
        id, other = self._that_is(PENDING), self._one("t", "x", "q:1", "p.2")
        if id == other:
            return
        for _ in range(2):
            task = self._both.model.task(id)
            version = task.version if task else 0
            if not task or task.state == PENDING:
                self._ask("task.acquire", id, version, "w1", MINUTE_MS)
        task = self._both.model.task(id)
        version = task.version if task else 0
        self._ask("task.fence", id, version, Ask("promise.create", (other, self._made(other))))
        self._ask("task.suspend", id, version, (other,))

    def fence(self) -> None:
        id = self._that_is(ACQUIRED)
        other = self._one(*[one for one in IDS if one != id])
        create = Ask("promise.create", (other, self._made(other)))
        settle = Ask("promise.settle", (other, "resolved", "f"))
        self._ask("task.fence", id, self._version(id), self._random.choice([create, settle]))

    def heartbeat(self) -> None:
        some = {self._that_is(ACQUIRED) for _ in range(2)}
        self._ask("task.heartbeat", self._one("w1", "w2"), tuple([(id, self._version(id)) for id in sorted(some)]))

    def halt(self) -> None:
        self._ask("task.halt", self._one(self._that_is(PENDING), self._one(*TARGETS, "t")))

    def go_on(self) -> None:
        self._ask("task.continue", self._that_is(HALTED))

    # -- gateways, time and the network

    def take(self) -> None:
        addresses = self._random.choice([ADDRESSES, ADDRESSES, (ANY,), (UNI,)])
        self.asked.append(f"take {addresses}")
        self._both.take(addresses)

    def let_time_pass(self) -> None:
        ms = self._ms(*PASSING_MS)
        self._both.let_time_pass(ms)
        is_looked_at = self._random.random() < 0.5
        self.asked.append(f"{ms} ms pass, {'a tick' if is_looked_at else 'nobody looks'}")
        if is_looked_at:
            self._both.tick()

    def repeat(self) -> None:
        """The answer was lost."""
        if self._both.last:
            self._ask(*self._both.last[:1], *self._both.last.args)


def speak(server: Server, namespace: str, seed: str, steps: int) -> None:
    """A conversation, in an empty namespace; a failure shows it."""
    both = Both(server.sync_client(), Keyspace(namespace), IDS, ADDRESSES)
    held = Conversation(both, seed)
    try:
        held.speak(steps)
    except AssertionError as error:
        raise AssertionError("\n".join([f"conversation {seed}", *held.asked[-40:], str(error)])) from error
    finally:
        both.clear()


EACH = {
    "promise.get": (200, 404),
    "promise.create": (200,),
    "promise.settle": (200, 404),
    "promise.register_callback": (200, 404, 422),
    "promise.register_listener": (200, 404, 422),
    "task.get": (200, 404),
    "task.create": (200, 409, 422),
    "task.acquire": (200, 404, 409),
    "task.release": (200, 404, 409),
    "task.fulfill": (200, 404, 409),
    "task.suspend": (200, 300, 404, 409, 422),
    "task.fence": (200, 404, 409),
    "task.heartbeat": (200,),
    "task.halt": (200, 404, 409),
    "task.continue": (200, 404, 409),
}


@pytest.mark.timeout(0 if EXAMPLES else 300)
def test_the_scripts_do_what_the_model_says(
    server: Server, namespace: str, share: Callable[[Sequence[str]], Sequence[str]]
) -> None:
    """The same conversations every time, and others on each kind of server; or new ones, if that is asked for."""
    seeds = [secrets.token_hex(4) for _ in range(EXAMPLES)]
    most = 1 if server.kind == FAKE else OF_ONE_KIND_MAX
    seeds = seeds or [*share([str(n) for n in range(CONVERSATIONS)])][:most]
    for seed in seeds:
        speak(server, namespace, seed, STEPS)


def test_they_try_everything() -> None:
    """What is answered follows from the seed, on every server."""
    statuses = Counter[tuple[str, int]]()
    for n in range(OF_ONE_KIND_MAX):
        held = Conversation(Alone(), str(n))
        held.speak(STEPS)
        statuses += held.statuses
    assert [(kind, status) for kind, each in EACH.items() for status in each if not statuses[kind, status]] == []
