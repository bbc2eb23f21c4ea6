"""The model of Resonate's protocol and its scripts side by side: what both answer, and what is in Redis afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError

from durasleep.protocol import resonate, script
from durasleep.protocol.command import Command
from durasleep.protocol.keys import LIMIT, Keyspace, R
from durasleep.protocol.resonate import VERSION
from tests.model.resonate import Answer, Ask, Made, Promise, Redis, Rules, Task, queue_of

Data = Any
"""JSON, as Python reads it."""

FIRST_MS = 1_800_000_000_000
HEAD = {"corrId": "c", "version": VERSION}
STATES = {"r": "resolved", "j": "rejected", "c": "rejected_canceled", "t": "rejected_timedout"}
_NAMES = {code: name for name, code in R.items()}
_SHOWN = (
    "state",
    "kind",
    "timeout",
    "created",
    "settled",
    "target",
    "waiters",
    "task",
    "version",
    "pid",
    "ttl",
    "resumes",
)


class Shown(NamedTuple):
    """What of the data is compared."""

    promises: dict[str, dict[str, Data]]
    timers: dict[str, int]
    queues: dict[str, dict[str, int]]
    inboxes: dict[str, list[str]]


class Alone:
    """The model without the scripts."""

    def __init__(self) -> None:
        self.model = Redis(FIRST_MS)
        self.last: Ask | None = None

    def ask(self, ask: Ask) -> Answer:
        self.last = ask
        rules = Rules(self.model)
        answer = rules.ask(ask)
        self.model = rules.redis()
        return answer

    def tick(self) -> None:
        rules = Rules(self.model)
        rules.tick()
        self.model = rules.redis()

    def take(self, addresses: Sequence[str]) -> None:
        rules = Rules(self.model)
        rules.take(addresses)
        self.model = rules.redis()

    def let_time_pass(self, ms: int) -> None:
        self.model = self.model._replace(now=self.model.now + ms)


class Both(Alone):
    """One partition, driven request by request; whatever is not as the model says raises AssertionError."""

    def __init__(self, client: Any, keys: Keyspace, ids: Sequence[str], addresses: Sequence[str]) -> None:
        super().__init__()
        self.redis = client
        self.keys = keys
        self._ids, self._addresses = ids, addresses

    def ask(self, ask: Ask) -> Answer:
        self.last = ask
        rules, woken = Rules(self.model), self._wakes()
        expected = rules.ask(ask)
        request = {"kind": ask.kind, "head": HEAD, "data": data_of(ask)}
        answer = self._run(resonate.rpc(self.keys, json.dumps(request).encode(), now_ms=self.model.now))
        assert answer.status == expected.status, (ask, answer)
        if answer.status in (200, 300):
            self._compare_answer(ask, expected, json.loads(answer.body)["data"])
        self._compare(rules.redis(), woken, ask)
        return expected

    def tick(self) -> None:
        rules, woken = Rules(self.model), self._wakes()
        rules.tick()
        ticked = self._run(resonate.tick(self.keys, limit=1_000, now_ms=self.model.now))
        self._compare(rules.redis(), woken, "tick")
        due = [at for _, at in (*self.model.deadlines, *self.model.turns)]
        assert ticked.next_due_ms == (min(*due, LIMIT["due_ms_max"]) if due else None)

    def take(self, addresses: Sequence[str]) -> None:
        rules, woken = Rules(self.model), self._wakes()
        expected = sorted(rules.take(addresses), key=str)
        answers = self._run(resonate.take(self.keys, addresses, limit=1_000, now_ms=self.model.now))
        taken = [
            (address, *_message_of(json.loads(message.body)))
            for address, messages in zip(addresses, answers, strict=True)
            for message in messages
        ]
        assert sorted(taken, key=str) == expected
        self._compare(rules.redis(), woken, "take")

    def clear(self) -> None:
        names = [*self.redis.scan_iter(match=f"{self.keys.tag}*", count=1_000)]
        if names:
            self.redis.delete(*names)

    # -- comparing

    def _run(self, command: Command[Any]) -> Any:
        assert command.script
        try:
            reply = self.redis.execute_command(*command.args)
        except NoScriptError:
            reply = self.redis.execute_command(*script.as_eval(command.script, [*command.args]))
        return command.parse(reply)

    def _wakes(self) -> Any:
        return self.redis.xrevrange(self.keys.resonate_wake, count=1)

    def _compare(self, after: Redis, woken: Any, what: object) -> None:
        """The data, and that those who deliver were told if they have to know."""
        told = after.wakes > self.model.wakes
        self.model = after
        expected, found = self._expected(), self._found()
        assert found == expected, (what, _difference(expected, found))
        assert self._wakes() != woken or not told, f"{what}: nobody was told"

    def _expected(self) -> Shown:
        redis = self.model
        timers = {f"p{id}": at for id, at in redis.deadlines} | {f"t{id}": at for id, at in redis.turns}
        queues: dict[str, dict[str, int]] = {address: {} for address in self._addresses}
        for id, since in redis.queued:
            promise = redis.promise(id)
            assert promise
            queues[queue_of(promise.made.target)][id] = since
        inboxes = {address: [id for to, id in redis.inbox if to == address] for address in self._addresses}
        due_ms_max = LIMIT["due_ms_max"]
        return Shown(
            {id: fields_of(promise) for id, promise in redis.promises},
            {member: min(at, due_ms_max) for member, at in timers.items()},
            queues,
            inboxes,
        )

    def _found(self) -> Shown:
        own, pipeline = self.keys.resonate, self.redis.pipeline(transaction=False)
        for id in self._ids:
            pipeline.hgetall(f"{own}promise:{id}")
        pipeline.zrange(f"{own}timers", 0, -1, withscores=True)
        for address in self._addresses:
            pipeline.zrange(f"{own}queue:{address}", 0, -1, withscores=True)
            pipeline.xrange(f"{own}inbox:{address}")
        replies = pipeline.execute()
        hashes, timers, rest = replies[: len(self._ids)], replies[len(self._ids)], replies[len(self._ids) + 1 :]
        return Shown(
            {id: _shown(id, fields) for id, fields in zip(self._ids, hashes, strict=True) if fields},
            _scores(timers),
            {address: _scores(queue) for address, queue in zip(self._addresses, rest[::2], strict=True)},
            {
                address: [fields[b"i"].decode() for _, fields in inbox]
                for address, inbox in zip(self._addresses, rest[1::2], strict=True)
            },
        )

    def _compare_answer(self, ask: Ask, expected: Answer, data: Data) -> None:
        id = ask.args[0]
        if expected.promise:
            assert without_tags(data["promise"]) == promise_of(id, expected.promise)
        if expected.task:
            assert data["task"] == task_of(id, expected.task)
        if expected.inner:
            status, promise = expected.inner
            action = data["action"]
            assert action["head"]["status"] == status
            if promise:
                assert without_tags(action["data"]["promise"]) == promise_of(ask.args[2].args[0], promise)


def _message_of(message: Data) -> tuple[str, int | None]:
    data = message["data"]
    return (data["task"]["id"], data["task"]["version"]) if "task" in data else (data["promise"]["id"], None)


def _scores(members: Iterable[tuple[bytes, float]]) -> dict[str, int]:
    return {member.decode(): int(score) for member, score in members}


def _difference(expected: Shown, found: Shown) -> dict[str, Data]:
    """What differs, by part and name."""
    return {
        f"{part} {name}": (theirs.get(name), ours.get(name))
        for part, theirs, ours in zip(Shown._fields, expected, found, strict=True)
        for name in sorted({*theirs, *ours})
        if theirs.get(name) != ours.get(name)
    }


# -- requests and answers as JSON


def data_of(ask: Ask) -> dict[str, Data]:
    args = ask.args
    match ask.kind:
        case "promise.create":
            return made_of(*args)
        case "promise.settle":
            return {"id": args[0], "state": args[1], "value": payload_of(args[2])}
        case "promise.register_callback":
            return {"awaited": args[0], "awaiter": args[1]}
        case "promise.register_listener":
            return {"awaited": args[0], "address": args[1]}
        case "task.create":
            return {"pid": args[2], "ttl": args[3], "action": _action(Ask("promise.create", args[:2]))}
        case "task.acquire":
            return {"id": args[0], "version": args[1], "pid": args[2], "ttl": args[3]}
        case "task.fulfill":
            settle = Ask("promise.settle", (args[0], *args[2:]))
            return {"id": args[0], "version": args[1], "action": _action(settle)}
        case "task.suspend":
            actions = [_action(Ask("promise.register_callback", (awaited, args[0]))) for awaited in args[2]]
            return {"id": args[0], "version": args[1], "actions": actions}
        case "task.fence":
            return {"id": args[0], "version": args[1], "action": _action(args[2])}
        case "task.heartbeat":
            return {"pid": args[0], "tasks": [{"id": id, "version": version} for id, version in args[1]]}
        case "task.release":
            return {"id": args[0], "version": args[1]}
        case _:
            return {"id": args[0]}


def _action(ask: Ask) -> dict[str, Data]:
    return {"kind": ask.kind, "head": HEAD, "data": data_of(ask)}


def payload_of(value: str) -> dict[str, Data]:
    return {"data": value} if value else {}


def made_of(id: str, made: Made) -> dict[str, Data]:
    tags = {
        "target": made.target,
        "timer": "true" if made.is_timer else "",
        "external": "true" if made.is_external else "",
        "branch": made.branch,
        "delay": str(made.delay) if made.delay else "",
    }
    return {
        "id": id,
        "timeoutAt": made.timeout,
        "param": {},
        "tags": {f"resonate:{name}": tag for name, tag in tags.items() if tag},
    }


def promise_of(id: str, promise: Promise) -> dict[str, Data]:
    settled = {} if promise.settled is None else {"settledAt": promise.settled}
    return {
        "id": id,
        "state": promise.state,
        "param": {},
        "value": payload_of(promise.value),
        "timeoutAt": promise.made.timeout,
        "createdAt": promise.created,
        **settled,
    }


def without_tags(promise: dict[str, Data]) -> dict[str, Data]:
    return {name: value for name, value in promise.items() if name != "tags"}


def task_of(id: str, task: Task) -> dict[str, Data]:
    held = {"pid": task.pid, "ttl": task.ttl} if task.pid else {}
    return {"id": id, "state": task.state, "version": task.version, "resumes": len(task.resumes), **held}


# -- hashes


def fields_of(promise: Promise) -> dict[str, Data]:
    """What of its hash is compared, by the names of ``keys.R``, without what is empty."""
    made, task = promise.made, promise.task
    kind = "m" if made.is_timer else "x" if not made.target and made.is_external else ""
    if promise.is_by_itself and not promise.is_external:
        kind = "a"
    fields: dict[str, Data] = {
        "state": "" if promise.state == "pending" else promise.state,
        "kind": kind,
        "timeout": made.timeout,
        "created": promise.created,
        "settled": promise.settled or 0,
        "target": made.target,
        "waiters": frozenset([f"c{id}" for id in promise.callbacks] + [f"l{one}" for one in promise.listeners]),
    }
    if task:
        fields |= {"task": task.state[0], "version": task.version, "pid": task.pid, "ttl": task.ttl}
        fields["resumes"] = len(task.resumes)
    return {name: value for name, value in fields.items() if value}


def _shown(id: str, fields: dict[bytes, bytes]) -> dict[str, Data]:
    found: dict[str, Data] = {_NAMES.get(name.decode(), "?"): value.decode() for name, value in fields.items()}
    shown = {name: value for name, value in found.items() if name in _SHOWN}
    for name in ("timeout", "created", "settled", "version", "ttl", "resumes"):
        if name in shown:
            shown[name] = int(shown[name])
    if "waiters" in shown:
        parent = f"c{re.sub('[.:][^.:]*$', '', id)}"
        shown["waiters"] = frozenset([parent if one == "^" else one for one in shown["waiters"].split("\0") if one])
    if shown.get("target", "").startswith("@"):
        shown["target"] = "poll://any" + shown["target"]
    if "state" in shown:
        shown["state"] = STATES[shown["state"]]
    return shown
