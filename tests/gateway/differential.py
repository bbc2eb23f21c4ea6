"""Random requests of Resonate's protocol, with the answers of npm's ``Server``, to be compared with ours.

A conversation is made once, with the oracle alone, and is then held with each server: so the oracle costs nothing where
a second server is asked, and ours gets its requests in pipelines. ``scripts/resonate-differential`` makes long ones.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, cast

Data = Any
"""JSON, as Python reads it."""

VERSION = "2026-04-01"
FIRST_MS = 1_790_000_000_123
JUMPS_MS = (1, 100, 1_000, 6_000, 31_000, 61_000)
FAR_MS = 9_007_199_254_740_991
MISSING = "nothing-has-this-id"
ORACLE = Path(__file__).with_name("oracle.mjs")

EACH_STATUS: dict[str, tuple[int, ...]] = {
    "promise.get": (200, 404),
    "promise.create": (200,),
    "promise.settle": (200, 404),
    "promise.register_callback": (200, 400, 404, 422),
    "promise.register_listener": (200, 404, 422),
    "promise.search": (501,),
    "task.get": (200, 404),
    "task.create": (200, 400, 409, 422),
    "task.acquire": (200, 404, 409),
    "task.release": (200, 404, 409),
    "task.fulfill": (200, 400, 404, 409),
    "task.suspend": (200, 300, 400, 404, 409, 422),
    "task.fence": (200, 404, 409),
    "task.heartbeat": (200,),
    "task.halt": (200, 404, 409),
    "task.continue": (200, 404, 409),
    "task.search": (501,),
    "schedule.get": (200, 404),
    "schedule.create": (200, 400),
    "schedule.delete": (200, 404),
    "schedule.search": (501,),
    "take": (200,),
}
"""What the oracle can answer to each kind: a long enough conversation has all of it."""

CRONS = (
    "* * * * *",
    "*/2 * * * *",
    "0-59/3 * * * *",
    "1,2,30 * * * *",
    "30 9 * * 1-5",
    "0 0 1 * *",
    "15 10 * JAN-DEC SUN",
    "0 12 13 * FRI",
    "59 23 31 12 7",
    "0 0 29 2 *",
)
BAD_CRONS = ("every minute", "61 * * * *", "* * * 13 *")
VALUES: tuple[Data, ...] = (
    {},
    {"data": "ZGF0YQ=="},
    {"data": ""},
    {"headers": {"a": "b", 'ü/\\"\n\u2028': "\t%s 😀"}, "data": "eA=="},
    {"headers": {}, "data": "not base64, which nobody opens: \\u0000 /"},
)


KINDS = {
    "promise.get": 4,
    "promise.create": 14,
    "promise.settle": 4,
    "promise.register_callback": 4,
    "promise.register_listener": 4,
    "promise.search": 1,
    "task.get": 4,
    "task.create": 8,
    "task.acquire": 20,
    "task.release": 4,
    "task.fulfill": 3,
    "task.suspend": 16,
    "task.fence": 12,
    "task.heartbeat": 6,
    "task.halt": 3,
    "task.continue": 5,
    "task.search": 1,
    "schedule.create": 3,
    "schedule.get": 2,
    "schedule.delete": 1,
    "schedule.search": 1,
}
"""What is asked for, and how often."""
STATE_AFTER = {
    "task.suspend": "suspended",
    "task.release": "pending",
    "task.continue": "pending",
    "task.halt": "halted",
    "task.fulfill": "fulfilled",
}
ROOT_STEPS = 100
"""After so many requests, the next ones are about other promises: of the first ones, most have settled."""
RELEASED_MAX = 29
"""A task that was acquired more often and is given back is offered again later than in npm's."""
BEFORE = 12
"""Steps that are shown before one that differs."""
SETTLED = ("resolved", "rejected", "rejected_canceled")
SCHEDULES = ("s1", "s.2", "ü:3")


class Spread(Enum):
    """Where the two roots of a conversation are, with the promises below each."""

    ONE = "one partition"
    WITHIN = "several partitions, and what a request names is below one root"
    APART = "several partitions, and requests name promises below both roots"
    """Partitions are told of one another by ticks: nothing due waits meanwhile. A task waits for one promise at a time:
    of several, those elsewhere keep its callback if it is not suspended in the end."""


class OracleError(Exception):
    """The oracle has ended, with what it wrote."""


class Oracle:
    """A Node that has npm's package; what is asked of it is answered in order."""

    def __init__(self, node: Path, package: Path) -> None:
        self._process = subprocess.Popen(
            [node, ORACLE, package],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={"TZ": "UTC"},  # npm's Server reads cron lines in the zone of its machine
        )

    def ask(self, lines: Sequence[Data]) -> list[Data]:
        """The answers to some lines, which are sent together."""
        process = self._process
        assert process.stdin
        assert process.stdout
        process.stdin.write("".join([json.dumps(line) + "\n" for line in lines]))
        process.stdin.flush()
        answers = [process.stdout.readline() for _ in lines]
        if not answers[-1]:
            raise OracleError(f"Node has ended with {process.wait()}, asked {lines}")
        return [json.loads(answer) for answer in answers]

    def close(self) -> None:
        self._process.communicate(timeout=10)


@contextmanager
def oracle_of(node: Path, package: Path) -> Generator[Oracle]:
    """An oracle that ends with the block."""
    oracle = Oracle(node, package)
    try:
        yield oracle
    finally:
        oracle.close()


@dataclass(frozen=True, slots=True)
class Step:
    """What is done at an instant: ``ask`` a request, ``tick``, or ``take`` the messages for addresses."""

    what: str
    now: int
    request: Data
    expected: tuple[int, Data]
    """A status, and what is comparable of an answer."""


class Ours(Protocol):
    """Our server, in an empty namespace."""

    def hold(self, steps: Sequence[Step]) -> Iterable[tuple[int, Data]]:
        """The comparable answers to some steps."""
        ...


# -- what is compared


def comparable(kind: str, status: int, data: Data) -> tuple[int, Data]:
    """An answer without what may differ: texts of errors, null or absent, and the order of a preload."""
    if status not in (200, 300):
        return status, None
    data = _plain(data)
    if kind == "task.fence" and data["action"]["head"]["status"] != 200:
        data["action"]["data"] = None
    if "preload" in data:
        data["preload"].sort(key=_as_text)
    return status, data


def _plain(data: Data) -> Data:
    if isinstance(data, dict):
        named = cast("dict[str, Data]", data)
        plain = {name: _plain(value) for name, value in named.items() if value is not None}
        if isinstance(plain.get("resumes"), list):
            plain["resumes"] = len(plain["resumes"])
        return plain
    return [_plain(value) for value in cast("list[Data]", data)] if isinstance(data, list) else data


def _as_text(data: Data) -> str:
    return json.dumps(data, sort_keys=True)


def queue_of(address: str) -> str:
    """Where a message for an address waits: the process that a group is to prefer is only a wish."""
    return "/".join(address.split("/")[:3]) if address.startswith("poll://any@") else address


def preferred_of(address: str) -> str:
    """The process of a group that is to get it, if it can."""
    return address.removeprefix(queue_of(address)).removeprefix("/")


def messages_of(sent: Iterable[tuple[str, str, Data]]) -> tuple[int, Data]:
    """Messages by address, each with the preferred process, in an order of their own."""
    found: dict[str, list[Data]] = {}
    for address, preferred, message in sent:
        found.setdefault(address, []).append((preferred, _plain(message)))
    for messages in found.values():
        messages.sort(key=_as_text)
    return 200, found


# -- conversations


@dataclass(slots=True)
class Conversation:
    """What is asked, and what the oracle has answered."""

    seed: int
    steps: list[Step] = field(default_factory=list[Step])

    @property
    def counts(self) -> Counter[tuple[str, int]]:
        """How often each kind had each status."""
        return Counter(
            (step.request["kind"] if step.what == "ask" else step.what, step.expected[0]) for step in self.steps
        )


@dataclass(slots=True)
class Ids:
    """The ids of a conversation, by what their promises are."""

    all: list[str] = field(default_factory=list[str])
    tags: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])

    def of(self, roots: Iterable[str], separator: str, group: str) -> Ids:
        for root in roots:
            for suffix in ("", "1", "2", "3", "1.1", "t1", "t2", "x1", "g1"):
                id = f"{root}{separator}{suffix}" if suffix else root
                self.all.append(id)
                self.tags[id] = _tags(root, suffix, id, group)
        return self

    @property
    def targets(self) -> list[str]:
        return [id for id in self.all if "resonate:target" in self.tags[id]]

    @property
    def external(self) -> list[str]:
        """Those that can be awaited."""
        return [id for id in self.all if self.tags[id].get("resonate:scope") != "local"]


def _tags(root: str, suffix: str, id: str, group: str) -> dict[str, str]:
    has_branch = suffix[:1] in ("", "t", "x")
    tags = {"resonate:origin": root, "resonate:branch": id if has_branch else root}
    match suffix:
        case "":
            tags["resonate:target"] = f"poll://any@{group}"
        case "2":
            tags["resonate:target"] = f"poll://any@{group}/p2"
        case "t1":  # a sleep, as the newest SDKs ask for it
            tags |= {"resonate:timer": "true", "resonate:target": f"poll://any@{group}/p1"}
        case "t2":  # and as an older one does
            tags["resonate:timer"] = "true"
        case "3":
            tags["resonate:target"] = f"poll://uni@{group}/p1"
        case "x1":
            tags |= {"resonate:external": "true", 'ü"\\/\n': "😀 %d"}
        case "g1":
            tags["resonate:scope"] = "global"
        case _:
            tags["resonate:scope"] = "local"
    return tags


class Speaker:
    """Makes the requests of one conversation, by what the oracle has answered so far."""

    def __init__(self, seed: int, oracle: Oracle, spread: Spread = Spread.ONE) -> None:
        self._random = random.Random(seed)
        self._oracle = oracle
        self._spread = spread
        self._now = FIRST_MS
        self._group = self._random.choice(("w", "grün 1"))
        self._separator = self._random.choice(":.")
        self._roots = 0
        self._ids = Ids()
        self._fired: list[str] = []
        self._untargeted: list[str] = []
        """Of all roots, those that settle by themselves in ours, and in npm's only when they are read."""
        self._versions: dict[str, int] = {}
        self._states: dict[str, str] = {}
        self._pending: dict[str, bool] = {}
        self._is_late = False
        """The clock has moved, and nothing due has been looked for yet."""
        self.conversation = Conversation(seed)
        oracle.ask([{"what": "new"}])

    def speak(self, steps: int) -> Conversation:
        """A conversation of so many requests, and those that read everything whenever time has passed."""
        for at in range(steps):
            if at % ROOT_STEPS == 0:
                self._begin_roots()
            chance = self._random.random()
            if chance < 0.08 or (self._is_late and chance < 0.25):
                self._let_time_pass()
            elif chance < 0.13:
                self._take()
            [kind] = self._random.choices([*KINDS], [*KINDS.values()])
            self._ask([*self._before(kind, self._data_of(kind))])
        return self.conversation

    def _begin_roots(self) -> None:
        self._roots += 1
        roots = (f"a{self._roots}", f'ü "%~\\{self._roots // 2}')
        self._ids = Ids().of(roots, self._separator, self._group)
        self._untargeted += [id for id in self._ids.external if "resonate:target" not in self._ids.tags[id]]
        made = self._random.sample(self._ids.all, len(self._ids.all) // 2)
        self._ask([("promise.create", self._creation(id)) for id in made])

    def _let_time_pass(self) -> None:
        """Mostly everything due happens at once, and is looked at; else it is late, and requests come first.

        Messages are taken before: the oracle repeats one some time after it was sent, and we after it was taken.
        """
        self._take()
        self._now += self._random.choice(JUMPS_MS)
        self._is_late = self._spread is not Spread.APART and self._chance(0.3)
        if self._is_late:
            return
        fired = self._put("tick", None, (200, None))
        self._fired += fired
        is_all = self._chance(0.25)
        now = [id for id in self._ids.all if is_all or self._pending.get(id, True)]
        earlier = [id for id in self._untargeted if self._pending.get(id) and id not in self._ids.tags]
        tasks = [id for id in self._ids.targets if id in now]
        kinds = [("promise.get", [*now, *earlier, *fired]), ("task.get", [*tasks, *fired])]
        self._ask([(kind, {"id": id}) for kind, ids in kinds for id in ids])
        self._take()

    def _take(self) -> None:
        addresses = {queue_of(tags["resonate:target"]) for tags in self._ids.tags.values() if "resonate:target" in tags}
        self._put("take", sorted({*addresses, *self._listeners()}), None)

    def _before(self, kind: str, data: Data) -> Iterator[tuple[str, Data]]:
        """A request; where several ids are named, the order in which they are touched is our own affair: while
        something may be due, they are read first.
        """
        if self._is_late and kind in ("task.suspend", "task.fence", "task.heartbeat"):
            for id in sorted(_ids_in(data)):
                yield "promise.get", {"id": id}
        yield kind, data

    # -- asking

    def _ask(self, requests: Sequence[tuple[str, Data]]) -> None:
        head = {"corrId": f'c-{len(self.conversation.steps)} ü"', "version": VERSION}
        made: list[dict[str, Data]] = [{"kind": kind, "head": head, "data": data} for kind, data in requests]
        answers = self._oracle.ask([{"what": "ask", "now": self._now, "req": request} for request in made])
        for request, answer in zip(made, answers, strict=True):
            self._learn(request, answer["status"], answer["data"])
            expected = comparable(request["kind"], answer["status"], answer["data"])
            self.conversation.steps.append(Step("ask", self._now, request, expected))

    def _put(self, what: str, request: Data, expected: tuple[int, Data] | None) -> Data:
        [answer] = self._oracle.ask([{"what": what, "now": self._now}])
        if expected is None:
            sent = [(one["address"], one["message"]) for one in answer["data"]]
            expected = messages_of((queue_of(address), preferred_of(address), message) for address, message in sent)
        self.conversation.steps.append(Step(what, self._now, request, expected))
        return answer["data"]

    def _learn(self, request: Data, status: int, data: Data) -> None:
        if isinstance(data, dict) and "task" in data:
            task = cast("Data", data)["task"]
            self._versions[task["id"]], self._states[task["id"]] = task["version"], task["state"]
        if isinstance(data, dict) and "promise" in data:
            promise = cast("Data", data)["promise"]
            self._pending[promise["id"]] = promise["state"] == "pending"
        if status == 200 and request["kind"] in STATE_AFTER:
            self._states[request["data"]["id"]] = STATE_AFTER[request["kind"]]

    # -- making requests

    def _chance(self, of: float) -> bool:
        return self._random.random() < of

    def _one(self, *choices: Data) -> Data:
        return self._random.choice(choices)

    def _version(self, id: str) -> int:
        version = self._versions.get(id, 0)
        return version if self._chance(0.85) else max(0, version + self._one(-1, 1))

    def _any(self) -> str:
        return MISSING if self._chance(0.03) else self._one(*self._ids.all)

    def _target(self, state: str = "") -> str:
        """Mostly one whose task is in a state, if there is one."""
        if self._chance(0.03):
            return self._any()
        known = [*self._ids.targets, *self._fired[-3:]]
        fit = [id for id in known if self._states.get(id) == state]
        return self._one(*(fit if fit and self._chance(0.8) else known))

    def _others(self, id: str, ids: Iterable[str]) -> list[str]:
        """Those that one script may name together with an id, without itself."""
        root = self._ids.tags.get(id, {}).get("resonate:origin", id)
        found = [one for one in ids if one != id]
        if self._spread is not Spread.WITHIN:
            return found
        return [one for one in found if self._ids.tags[one]["resonate:origin"] == root]

    def _missing_near(self, id: str) -> str:
        """An id that no promise has, in the partition of another one."""
        return f"{self._ids.tags.get(id, {}).get('resonate:origin', id)}.{MISSING}"

    def _data_of(self, kind: str) -> Data:
        match kind:
            case "promise.search" | "task.search" | "schedule.search":
                return {}
            case "promise.get" | "task.get":
                return {"id": self._any()}
            case "promise.create":
                return self._creation(self._one(*self._ids.all))
            case "promise.settle":
                return self._settlement(self._any())
            case "promise.register_callback":
                return self._callback()
            case "promise.register_listener":
                return {"awaited": self._any(), "address": self._one(*self._listeners())}
            case "schedule.create":
                return self._schedule()
            case "schedule.get" | "schedule.delete":
                return {"id": self._one(*SCHEDULES)}
            case _:
                return self._task_data_of(kind)

    def _task_data_of(self, kind: str) -> Data:
        id = self._target({"task.acquire": "pending", "task.continue": "halted"}.get(kind, "acquired"))
        held = {"id": id, "version": self._version(id)}
        if kind == "task.release" and self._versions.get(id, 0) >= RELEASED_MAX:
            return {"id": MISSING, "version": 0}
        match kind:
            case "task.halt" | "task.continue":
                return {"id": id}
            case "task.create":
                return self._task_creation()
            case "task.acquire":
                return held | {"pid": self._one("p", "q"), "ttl": self._one(1_000, 60_000)}
            case "task.release":
                return held
            case "task.fulfill":
                other = self._any() if self._chance(0.05) else id
                return held | {"action": _action("promise.settle", self._settlement(other))}
            case "task.suspend":
                return held | {"actions": self._callbacks(id)}
            case "task.fence":
                return held | {"action": self._fenced(id)}
            case _:
                tasks = [self._target("acquired") for _ in range(self._one(1, 1, 3))]
                return {
                    "pid": self._one("p", "q"),
                    "tasks": [{"id": task, "version": self._version(task)} for task in tasks],
                }

    def _creation(self, id: str) -> Data:
        timeout_ms = self._one(100_000, 10_000_000, FAR_MS - self._now)
        if self._chance(0.12):
            timeout_ms = self._one(-10, 0, 50, 5_000)
        tags, at = self._ids.tags.get(id, {}), self._now + timeout_ms
        delay_ms = self._now + self._one(-5, 500, 40_000)
        if "resonate:target" in tags and "resonate:timer" not in tags and self._chance(0.2) and delay_ms < at:
            tags = tags | {"resonate:delay": str(delay_ms)}
        return {"id": id, "timeoutAt": at, "param": self._one(*VALUES), "tags": tags}

    def _settlement(self, id: str) -> Data:
        return {"id": id, "state": self._one(*SETTLED), "value": self._one(*VALUES)}

    def _task_creation(self) -> Data:
        any_id = self._chance(0.1)  # the promise that is there may have no task
        made = self._creation(self._one(*(self._ids.all if any_id else self._ids.targets)))
        made["tags"] = {"resonate:target": f"poll://any@{self._group}"} | made["tags"]
        made["tags"].pop("resonate:delay", None)
        if self._chance(0.05):
            del made["tags"]["resonate:target"]
        return {
            "pid": self._one("p", "q"),
            "ttl": self._one(1_000, 60_000),
            "action": _action("promise.create", made),
        }

    def _callback(self) -> Data:
        awaiter = self._any()
        others = self._others(awaiter, self._ids.external)
        awaited = self._one(*others) if others and self._chance(0.95) else self._missing_near(awaiter)
        return {"awaited": awaiter if self._chance(0.05) else awaited, "awaiter": awaiter}

    def _callbacks(self, id: str) -> list[Data]:
        others = self._others(id, self._ids.external)
        pending = [one for one in others if self._pending.get(one)]
        others = pending if pending and self._chance(0.7) else others
        awaited = self._random.sample(others, min(len(others), self._one(1, 1, 2)))
        if self._spread is Spread.APART:
            return [_action("promise.register_callback", {"awaited": one, "awaiter": id}) for one in awaited[:1]]
        if awaited and self._chance(0.05):
            awaited.append(awaited[0])
        if self._chance(0.05):
            awaited.insert(self._random.randint(0, len(awaited)), self._one(id, self._missing_near(id)))
        made = [{"awaited": one, "awaiter": id} for one in awaited if self._chance(0.97)]
        if made and self._chance(0.03):
            made[0]["awaiter"] = self._one(*self._ids.all)
        return [_action("promise.register_callback", data) for data in made]

    def _fenced(self, id: str) -> Data:
        others = self._others(id, self._ids.all)
        other = self._one(*(others or [self._missing_near(id)]))
        if others and self._chance(0.5):
            return _action("promise.create", self._creation(other))
        return _action("promise.settle", self._settlement(self._missing_near(id) if self._chance(0.1) else other))

    def _schedule(self) -> Data:
        tags = {"resonate:target": f"poll://any@{self._group}", "x": "y"}
        id = self._one(*SCHEDULES)
        return {
            "id": id,
            "cron": self._one(*BAD_CRONS) if self._chance(0.1) else self._one(*CRONS),
            "promiseId": self._one("{{.id}}.{{.timestamp}}", "{{.id}}:{{.timestamp}} {{.id}}"),
            "promiseTimeout": self._one(1_000, 3_600_000),
            "promiseParam": self._one(*VALUES),
            "promiseTags": tags if self._chance(0.95) else {"x": "y"},
        }

    def _listeners(self) -> tuple[str, ...]:
        return (f"poll://uni@{self._group}/p1", f"poll://uni@{self._group}/p2", "https://example.org/ü?a=b")


def _action(kind: str, data: Data) -> Data:
    return {"kind": kind, "head": {"corrId": "inner", "version": VERSION}, "data": data}


def _ids_in(data: Data) -> set[str]:
    """The ids of promises that a request names, at any depth."""
    if isinstance(data, list):
        return {id for one in cast("list[Data]", data) for id in _ids_in(one)}
    if not isinstance(data, dict):
        return set()
    named = cast("dict[str, Data]", data)
    own = {named[name] for name in ("id", "awaited", "awaiter") if name in named}
    return own.union(*[_ids_in(value) for name, value in named.items() if name not in ("param", "value", "tags")])


# -- comparing


class Different(Exception):
    """Our answer to a step, and what the oracle said."""


def compare(conversation: Conversation, ours: Ours) -> int:
    """How many answers are the same; Different at the first that is not, with the steps before it."""
    answers = iter(ours.hold(conversation.steps))
    for at, step in enumerate(conversation.steps):
        answer = next(answers)
        if answer != step.expected:
            before = "\n".join(shown(one) for one in conversation.steps[max(0, at - BEFORE) : at + 1])
            raise Different(f"seed {conversation.seed}, step {at}\n{before}\noracle {step.expected}\nours   {answer}")
    return len(conversation.steps)


def shown(step: Step) -> str:
    """A step in one line."""
    request = step.request if step.what == "take" else step.request and [step.request["kind"], step.request["data"]]
    return f"{step.what} at {step.now - FIRST_MS} {json.dumps(request, ensure_ascii=False)} -> {step.expected[0]}"
