"""The scenarios of Resonate's protocol to explore."""

from __future__ import annotations

from tests.model.resonate import NEVER, Ask, Made
from tests.model.resonate_world import ANY, CLIENT, Op, Scenario

TASK = Made(NEVER, ANY)
SLEEP = Made(1, ANY, is_timer=True)
OLD_SLEEP = Made(1, is_timer=True)
SIGNAL = Made(NEVER, is_external=True)
SHORT = Made(6, ANY)
DELAYED = Made(NEVER, ANY, delay=2)


def make(id: str, made: Made) -> Op:
    return Op("make", (id,), made)


def wait(*ids: str) -> Op:
    return Op("wait", ids)


def settle(id: str) -> Op:
    return Op("settle", (id,))


def create(id: str, made: Made = TASK) -> Ask:
    return Ask("promise.create", (id, made))


def listen(id: str) -> Ask:
    return Ask("promise.register_listener", (id, CLIENT))


def resolve(id: str) -> Ask:
    return Ask("promise.settle", (id, "resolved", "c"))


def halt(id: str) -> Ask:
    return Ask("task.halt", (id,))


def go_on(id: str) -> Ask:
    return Ask("task.continue", (id,))


SLEEPER = (("p", (make("t", SLEEP), wait("t"))),)
OLD_SLEEPER = (("p", (make("t", OLD_SLEEP), wait("t"))),)
PARENT = (("p", (make("k", TASK), wait("k"))), ("k", ()))
FIRST_OF = (("p", (make("x", SIGNAL), make("t", SLEEP), wait("x", "t"), settle("x"))),)
SIGNALED = (("p", (make("x", SIGNAL), wait("x"))),)
QUICK = (("p", ()),)
INSIDE = (("p", (make("i", Made(branch="p")), settle("i"))),)

P = (create("p"),)
HEARD = (create("p"), listen("p"))


def faults(**times: int) -> dict[str, int]:
    """How often each may happen, with ``_`` for spaces."""
    return {what.replace("_", " "): n for what, n in times.items()}


SCENARIOS: dict[str, Scenario] = {
    "a sleep": Scenario(SLEEPER, (HEARD,), 2, faults=faults(crash=1, lost_answer=1)),
    "a sleep, and a slow worker": Scenario(SLEEPER, (P,), 2, faults=faults(heartbeat=1, pause=1)),
    "a sleep of the older SDKs": Scenario(OLD_SLEEPER, (P,), 2, faults=faults(crash=1, release=1)),
    "a child": Scenario(PARENT, (P,), 1, faults=faults(crash=1, repeat=1)),
    "a child, and an answer that is lost": Scenario(PARENT, (P,), 2, faults=faults(lost_answer=1)),
    "the first of two": Scenario(FIRST_OF, (P, (resolve("x"),)), 1, faults=faults(lost_answer=1, pause=1)),
    "a signal": Scenario(SIGNALED, (HEARD, (resolve("x"),)), 1, faults=faults(repeat=1, pause=1)),
    "a deadline": Scenario(SLEEPER, ((create("p", SHORT), listen("p")),), 1, faults=faults(crash=1, pause=2)),
    "a delay": Scenario(QUICK, ((create("p", DELAYED),),), 2, faults=faults(crash=1, pause=1)),
    "people": Scenario(SIGNALED, (P, (resolve("x"),), (halt("p"), go_on("p"))), 1, faults=faults(crash=1)),
    "two settle it": Scenario(QUICK, (P * 2, (resolve("p"),)), 2, faults=faults(repeat=1, pause=1)),
    "what is inside": Scenario(INSIDE, (P,), 2, faults=faults(crash=1, repeat=1)),
    "two gateways": Scenario(SLEEPER, (P,), 1, 2, faults(gateway_crash=1, lost_message=1)),
    "a gateway that crashes": Scenario(QUICK, (HEARD,), 1, 1, faults(gateway_crash=2, lost_message=1)),
    "a rollback": Scenario(SLEEPER, (P,), 2, faults=faults(rollback=1)),
    "a rollback of a child": Scenario(PARENT, (P,), 1, faults=faults(rollback=1)),
    "a rollback of a signal": Scenario(SIGNALED, (P, (resolve("x"),)), 1, faults=faults(rollback=1)),
}

LARGER: dict[str, Scenario] = {
    "a late request": Scenario(SLEEPER, (P,), 2, faults=faults(repeat=1, heartbeat=1, pause=1)),
    "a sleep, and more": Scenario(SLEEPER, (HEARD,), 2, faults=faults(crash=1, lost_answer=1, pause=1)),
    "a slow worker, and more": Scenario(SLEEPER, (P,), 2, faults=faults(repeat=1, heartbeat=1, pause=2)),
    "older SDKs, and more": Scenario(OLD_SLEEPER, (P,), 2, faults=faults(crash=1, release=1, pause=2)),
    "a child, and more": Scenario(PARENT, (P,), 2, faults=faults(crash=1, repeat=1, pause=1)),
    "lost answers, and more": Scenario(PARENT, (P,), 2, faults=faults(lost_answer=2, pause=2)),
    "the first of two, and more": Scenario(
        FIRST_OF, (P, (resolve("x"),)), 2, faults=faults(crash=1, lost_answer=1, pause=1)
    ),
    "a signal, and more": Scenario(SIGNALED, (HEARD, (resolve("x"),)), 2, faults=faults(repeat=1, crash=1, pause=1)),
    "a deadline, and more": Scenario(
        SLEEPER, ((create("p", SHORT), listen("p")),), 2, faults=faults(crash=1, repeat=1, pause=3)
    ),
    "a delay, and more": Scenario(QUICK, ((create("p", DELAYED),),), 2, faults=faults(crash=1, repeat=1, pause=3)),
    "two settle it, and more": Scenario(QUICK, (P * 2, (resolve("p"),)), 2, faults=faults(repeat=2, crash=1, pause=2)),
    "what is inside, and more": Scenario(INSIDE, (P,), 2, faults=faults(crash=1, repeat=1, heartbeat=1, pause=2)),
    "a rollback, and more": Scenario(PARENT, (P,), 2, faults=faults(rollback=1, crash=1, pause=1)),
}
"""They take long."""
