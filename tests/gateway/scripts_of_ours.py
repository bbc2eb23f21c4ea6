"""Our scripts, asked as the gateway asks them, for conversations that are compared with those of npm's ``Server``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, TypeVar

from durasleep.protocol import resonate, resonate_requests
from durasleep.protocol.command import Call, Command, Plan
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.protocol.resonate import Answer
from tests.gateway.differential import VERSION, Data, Step, comparable, messages_of

T = TypeVar("T")


class Ours:
    """The scripts of a namespace. With one partition, requests are sent in pipelines."""

    def __init__(self, client: Any, keyspaces: Keyspaces, *, is_told_at_once: bool = False) -> None:
        self._redis = client
        self._keyspaces = keyspaces
        self._known: set[bytes] = set()
        self._is_told_at_once = is_told_at_once
        """What is to be told to other partitions is told after each request."""

    def hold(self, steps: Sequence[Step]) -> Iterator[tuple[int, Data]]:
        """The comparable answers to some steps."""
        for what, some in groupby(steps, lambda step: step.what):
            if what == "ask" and len(self._keyspaces) == 1:
                yield from self._ask_all([*some])
            else:
                yield from map(getattr(self, f"_{what}"), some)

    def _ask_all(self, steps: Sequence[Step]) -> Iterator[tuple[int, Data]]:
        """In one partition, each request is one call."""
        plans = [self._plan(step) for step in steps]
        calls = [next(plan) for plan in plans]
        answers = iter(self._run([call for some in calls for call in some]))
        for step, plan, some in zip(steps, plans, calls, strict=True):
            yield _read(step, _ended(plan, [next(answers) for _ in some]))

    def _ask(self, step: Step) -> tuple[int, Data]:
        answer = _read(step, self._follow(self._plan(step)))
        if self._is_told_at_once:
            self._tick(step)
        return answer

    def _tick(self, step: Step) -> tuple[int, Data]:
        """Until nothing is due: what one partition tells another is heard by its next tick."""
        for keys in self._keyspaces:
            while self._follow(resonate_requests.tick(self._keyspaces, keys, now_ms=step.now)).due:
                pass
        return 200, None

    def _take(self, step: Step) -> tuple[int, Data]:
        calls = [resonate.take(keys, step.request, limit=1_000, now_ms=step.now) for keys in self._keyspaces]
        taken = [
            (address, one.preferred, json.loads(one.body))
            for answer in self._run(calls)
            for address, messages in zip(step.request, answer, strict=True)
            for one in messages
        ]
        return messages_of(taken)

    def _plan(self, step: Step) -> Plan[Answer]:
        request = step.request | {"head": step.request["head"] | {"resonate:debug_time": step.now}}
        return resonate_requests.ask(self._keyspaces, json.dumps(request).encode(), may_simulate=True)

    def _follow(self, plan: Plan[T]) -> T:
        try:
            calls = next(plan)
            while True:
                calls = plan.send(self._run(calls))
        except StopIteration as end:
            return end.value

    def _run(self, calls: Iterable[Call]) -> list[Any]:
        commands = [call for call in calls if isinstance(call, Command)]
        pipeline = self._redis.pipeline(transaction=False)
        unknown = {command.script.sha: command.script.source for command in commands if command.script}
        for sha in unknown.keys() - self._known:
            pipeline.script_load(unknown[sha])
            self._known.add(sha)
        loaded = len(pipeline)
        for command in commands:
            pipeline.execute_command(*command.args)
        replies = pipeline.execute()[loaded:]
        return [command.parse(reply) for command, reply in zip(commands, replies, strict=True)]


def _ended(plan: Plan[Answer], answers: list[Any]) -> Answer:
    try:
        more = plan.send(answers)
    except StopIteration as end:
        return end.value
    raise AssertionError(f"one call is not enough: {more}")


def _read(step: Step, answer: Answer) -> tuple[int, Data]:
    """What is comparable of an answer, whose envelope is right."""
    envelope = json.loads(answer.body)
    head = {"corrId": step.request["head"]["corrId"], "status": answer.status, "version": VERSION}
    assert (envelope["kind"], envelope["head"]) == (step.request["kind"], head), (step, envelope)
    return comparable(step.request["kind"], answer.status, envelope["data"])
