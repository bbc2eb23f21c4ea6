"""A task that waits for promises of other partitions is woken, in whatever order the steps of its suspension happen.

The scripts themselves run, call by call: those of the suspension, of the ends of what it waits for, and of the gateways
that tell one partition what has happened in another. Calls are lost, their answers are, or a gateway dies between two;
another worker gets the task, or its own one asks again. Every order is tried.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from redis.exceptions import NoScriptError

from durasleep.protocol import resonate, resonate_requests, script
from durasleep.protocol.command import Command, Plan
from durasleep.protocol.keys import R
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.protocol.resonate import VERSION
from harness.servers import Server

pytestmark = pytest.mark.long

NOW = 1_800_000_000_000
FAR = NOW + 10_000_000
ANY = "poll://any@w"
TASK, OTHER, THIRD = "a", "b", "d"
"""Each in a partition of its own."""
PARTITIONS = 4
TICKS_MAX = 3  # of one partition


class Run(NamedTuple):
    """A plan that somebody carries out: a suspension by the version of the task, or a tick of a partition."""

    version: int = 0
    partition: int = -1
    began: int = 0
    answers: tuple[tuple[Any, ...], ...] = ()
    """Of each of its steps; None for what is open."""


class State(NamedTuple):
    data: tuple[tuple[str, bytes], ...]
    runs: tuple[Run, ...]
    left: tuple[str, ...]
    """What may still happen once."""
    now: int = NOW
    ticks: tuple[int, ...] = (0,) * PARTITIONS
    asleep: frozenset[int] = frozenset()
    """The versions whose workers were told that the task is suspended."""


class Explorer:
    """All that may happen after a task has made what it waits for."""

    def __init__(self, client: Any, namespace: str, awaited: Sequence[str], left: Sequence[str]) -> None:
        self._redis, self._keyspaces, self._awaited = client, Keyspaces(namespace, PARTITIONS), awaited
        self._names = [
            f"{keys.resonate}{name}"
            for keys in self._keyspaces
            for name in ("timers", f"queue:{ANY}", *[f"promise:{id}" for id in (TASK, *awaited)])
        ]
        made = {"id": TASK, "timeoutAt": FAR, "tags": {"resonate:target": ANY}}
        self._ask("task.create", pid="p", ttl=1_000_000, action=request("promise.create", **made))
        for id in awaited:
            self._ask("promise.create", id=id, timeoutAt=FAR, tags={"resonate:external": "true"})
        self._first = State(self._read(), (Run(1),), (*left, *awaited))
        self.seen = 0

    def explore(self) -> list[str]:
        """What happened until a task slept for ever; empty if there is no such order."""
        known, ahead = set[str](), [(self._first, list[str]())]
        while ahead:
            state, before = ahead.pop()
            if (name := repr(state._replace(runs=tuple(sorted(state.runs, key=repr))))) in known:
                continue
            known.add(name)
            self.seen = len(known)
            moves = [*self._moves(state)]
            if not moves and (wrong := self._wrong(state)):
                return [*before, wrong]
            ahead += [(after, [*before, label]) for label, after in moves]
        return []

    # -- moves

    def _moves(self, at: State) -> Iterator[tuple[str, State]]:
        for index, run in enumerate(at.runs):
            rest = at._replace(runs=at.runs[:index] + at.runs[index + 1 :])
            for position, call in self._open(run):
                answer = self._call(at, call)
                after = rest._replace(data=self._read())
                yield f"{run[:2]} {call.args[7:]}", self._gone_on(after, run, position, answer)
                if "lost answer" in at.left:
                    yield f"{run[:2]} again {call.args[7:]}", _spend(at._replace(data=after.data), "lost answer")
            if "crash" in at.left:
                yield f"{run[:2]} CRASH", _spend(rest, "crash")
        if "repeat" in at.left:
            yield "the suspension is asked for again", _begun(_spend(at, "repeat"), Run(1))
        if "lease" in at.left and self._task(at) == b"a":
            self._ask("task.release", id=TASK, version=1)
            self._ask("task.acquire", id=TASK, version=1, pid="q", ttl=1_000_000)
            yield "ANOTHER WORKER", _begun(_spend(at._replace(data=self._read()), "lease"), Run(2))
        for id in {*self._awaited} & {*at.left}:
            self._write(at)
            self._ask("promise.settle", id=id, state="resolved")
            yield f"{id} ends", _spend(at._replace(data=self._read()), id)
        yield from self._ticks(at)

    def _ticks(self, at: State) -> Iterator[tuple[str, State]]:
        self._write(at)
        due = [self._redis.zrange(f"{keys.resonate}timers", 0, 0, withscores=True) for keys in self._keyspaces]
        next_due = [int(first[0][1]) if first else FAR for first in due]
        for partition, when in enumerate(next_due):
            if when <= at.now and at.ticks[partition] < TICKS_MAX:
                ticks = (*at.ticks[:partition], at.ticks[partition] + 1, *at.ticks[partition + 1 :])
                run = Run(0, partition, at.now)
                yield f"a tick of {partition}", _begun(at._replace(ticks=ticks), run)
        if not at.runs and at.now < min(next_due) < FAR - 1:
            yield "time passes", at._replace(now=min(next_due), ticks=(0,) * PARTITIONS)

    def _plan(self, run: Run) -> Plan[Any]:
        if run.version:
            callbacks = [request("promise.register_callback", awaited=id, awaiter=TASK) for id in self._awaited]
            body = request("task.suspend", id=TASK, version=run.version, actions=callbacks)
            return resonate_requests.ask(self._keyspaces, json.dumps(body).encode(), may_simulate=True)
        keys = self._keyspaces[run.partition]
        return resonate_requests.tick(self._keyspaces, keys, now_ms=run.began)

    def _step(self, run: Run) -> tuple[Sequence[Command[Any]], Any]:
        """The calls after the answers so far; none at the end, and then the result."""
        plan = self._plan(run)
        try:
            calls: Any = next(plan)
            for answers in run.answers:
                if None in answers:
                    break
                calls = plan.send([*answers])
        except StopIteration as end:
            return (), end.value
        return calls, None

    def _open(self, run: Run) -> list[tuple[int, Command[Any]]]:
        calls, _ = self._step(run)
        part = run.answers[-1] if run.answers and None in run.answers[-1] else (None,) * len(calls)
        return [(position, call) for position, call in enumerate(calls) if part[position] is None]

    def _gone_on(self, at: State, run: Run, position: int, answer: Any) -> State:
        calls, _ = self._step(run)
        is_begun = bool(run.answers) and None in run.answers[-1]
        part = list(run.answers[-1] if is_begun else (None,) * len(calls))
        part[position] = answer
        run = run._replace(answers=(*(run.answers[:-1] if is_begun else run.answers), tuple(part)))
        calls, result = self._step(run)
        if calls:
            return _begun(at, run)
        is_asleep = run.version and result.status == 200
        return at._replace(asleep=at.asleep | {run.version}) if is_asleep else at

    # -- the data

    def _call(self, at: State, call: Command[Any]) -> Any:
        self._write(at)
        return self._run(call)

    def _run(self, call: Command[Any]) -> Any:
        assert call.script
        try:
            return call.parse(self._redis.execute_command(*call.args))
        except NoScriptError:
            return call.parse(self._redis.execute_command(*script.as_eval(call.script, [*call.args])))

    def _ask(self, kind: str, **data: Any) -> None:
        plan = resonate_requests.ask(self._keyspaces, json.dumps(request(kind, **data)).encode(), may_simulate=True)
        try:
            calls: Any = next(plan)
            while True:
                calls = plan.send([self._run(call) for call in calls])
        except StopIteration as end:
            assert end.value.status == 200, end.value

    def _read(self) -> tuple[tuple[str, bytes], ...]:
        pipeline = self._redis.pipeline(transaction=False)
        for name in self._names:
            pipeline.dump(name)
        return tuple([(name, dump) for name, dump in zip(self._names, pipeline.execute(), strict=True) if dump])

    def _write(self, at: State) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.delete(*self._names)
        for name, dump in at.data:
            pipeline.restore(name, 0, dump)
        pipeline.execute()

    def _task(self, at: State) -> bytes:
        self._write(at)
        return self._redis.hget(self._key(f"promise:{TASK}"), R["task"])

    def _key(self, name: str) -> str:
        return f"{resonate.keys_of(self._keyspaces, TASK).resonate}{name}"

    def _wrong(self, at: State) -> str:
        """What must not be at the end: all that it waits for has settled, and nobody has anything to do."""
        task = self._task(at)
        version = int(self._redis.hget(self._key(f"promise:{TASK}"), R["version"]))
        if task == b"s":
            return "it sleeps for ever"
        if task == b"p" and self._redis.zscore(self._key(f"queue:{ANY}"), TASK) is None:
            return "nobody hears that it is pending"
        return "its worker thinks that it sleeps" if task == b"a" and version in at.asleep else ""


def request(kind: str, **data: Any) -> dict[str, Any]:
    head = {"corrId": "c", "version": VERSION, "resonate:debug_time": NOW}
    return {"kind": kind, "head": head, "data": data}


def _begun(at: State, run: Run) -> State:
    return at._replace(runs=(*at.runs, run))


def _spend(at: State, what: str) -> State:
    at_ = at.left.index(what)
    return at._replace(left=at.left[:at_] + at.left[at_ + 1 :])


@pytest.mark.parametrize(
    ("awaited", "left"),
    [
        ((OTHER,), ("lost answer", "crash")),
        ((OTHER,), ("repeat",)),
        ((OTHER,), ("lease",)),
        ((OTHER, THIRD), ()),
    ],
)
def test_no_task_sleeps_for_ever(
    one_server: Server, namespace: str, awaited: Sequence[str], left: Sequence[str]
) -> None:
    assert len({resonate.partition_of(id, PARTITIONS) for id in (TASK, OTHER, THIRD)}) == 3
    explorer = Explorer(one_server.sync_client(), namespace, awaited, left)
    assert not (found := explorer.explore()), "\n".join(found)
    print(explorer.seen)
