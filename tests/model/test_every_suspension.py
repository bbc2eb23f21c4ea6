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


class Run(NamedTuple):
    """A plan that somebody carries out: a suspension by the version of the task, or a tick of a partition."""

    version: int = 0
    partition: int = -1
    began: int = 0
    answers: tuple[tuple[Any, ...], ...] = ()
    """Of each of its steps; None for what is open."""

    @property
    def open_answers(self) -> tuple[Any, ...]:
        """Of the step that has some answers, but not all."""
        return self.answers[-1] if self.answers and None in self.answers[-1] else ()


class Data(NamedTuple):
    """What is in Redis."""

    dumps: tuple[tuple[str, bytes], ...]
    next_due: tuple[int, ...]
    """When each partition has to look."""
    task: bytes
    version: int
    is_queued: bool


class State(NamedTuple):
    data: Data
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
        self._ticks_max = 3 - len(awaited)  # of one partition at a time
        self._names = [
            f"{keys.resonate}{name}"
            for keys in self._keyspaces
            for name in ("timers", f"queue:{ANY}", *[f"promise:{id}" for id in (TASK, *awaited)])
        ]
        for name in ("resonate_rpc", "resonate_tick"):
            client.script_load(script.load(name).source)
        made = {"id": TASK, "timeoutAt": FAR, "tags": {"resonate:target": ANY}}
        data = self._asked(None, "task.create", pid="p", ttl=1_000_000, action=request("promise.create", **made))
        for id in awaited:
            external = {"resonate:external": "true"}
            data = self._asked(data, "promise.create", id=id, timeoutAt=FAR, tags=external)
        self._first = State(data, (Run(1),), (*left, *awaited))

    def explore(self) -> list[str]:
        """What happened until a task slept for ever; empty if there is no such order."""
        known, ahead = set[str](), [(self._first, list[str]())]
        while ahead:
            state, before = ahead.pop()
            name = repr(state._replace(runs=tuple(sorted(state.runs, key=repr))))
            if name in known:
                continue
            known.add(name)
            moves = [*self._moves(state)]
            if not moves and (wrong := _wrong(state)):
                return [*before, wrong]
            ahead += [(after, [*before, label]) for label, after in moves]
        return []

    # -- moves

    def _moves(self, at: State) -> Iterator[tuple[str, State]]:
        for index, run in enumerate(at.runs):
            rest = at._replace(runs=at.runs[:index] + at.runs[index + 1 :])
            for position, call in self._open(run):
                answer, data = self._called(at.data, call)
                label = f"version {run.version}, partition {run.partition}: {[*call.args[7:]]}"
                yield label, self._gone_on(rest._replace(data=data), run, position, answer)
                if "lost answer" in at.left:
                    yield f"{label}, the answer is LOST", _spend(at, "lost answer")._replace(data=data)
            if "crash" in at.left:
                yield f"version {run.version}, partition {run.partition}: CRASH", _spend(rest, "crash")
        if "repeat" in at.left:
            yield "the suspension is asked for again", _begun(_spend(at, "repeat"), Run(1))
        if "lease" in at.left and at.data.task == b"a":
            data = self._asked(at.data, "task.release", id=TASK, version=1)
            data = self._asked(data, "task.acquire", id=TASK, version=1, pid="q", ttl=1_000_000)
            yield "another worker has it", _begun(_spend(at, "lease")._replace(data=data), Run(2))
        for id in {*self._awaited} & {*at.left}:
            data = self._asked(at.data, "promise.settle", id=id, state="resolved")
            yield f"{id} ends", _spend(at, id)._replace(data=data)
        next_due = at.data.next_due
        for partition, when in enumerate(next_due):
            if when <= at.now and at.ticks[partition] < self._ticks_max:
                ticks = (*at.ticks[:partition], at.ticks[partition] + 1, *at.ticks[partition + 1 :])
                yield f"a tick of {partition}", _begun(at._replace(ticks=ticks), Run(0, partition, at.now))
        if not at.runs and at.now < min(next_due) < FAR - 1_000_000:
            yield "time passes", at._replace(now=min(next_due), ticks=(0,) * PARTITIONS)

    def _calls(self, run: Run) -> tuple[Sequence[Command[Any]], Any]:
        """What it asks after the answers so far; nothing at the end, and then the result."""
        if run.version:
            callbacks = [request("promise.register_callback", awaited=id, awaiter=TASK) for id in self._awaited]
            body = request("task.suspend", id=TASK, version=run.version, actions=callbacks)
            plan: Plan[Any] = resonate_requests.ask(self._keyspaces, json.dumps(body).encode(), may_simulate=True)
        else:
            plan = resonate_requests.tick(self._keyspaces, self._keyspaces[run.partition], now_ms=run.began)
        try:
            calls: Any = next(plan)
            for answers in run.answers:
                if None not in answers:
                    calls = plan.send([*answers])
        except StopIteration as end:
            return (), end.value
        return calls, None

    def _open(self, run: Run) -> list[tuple[int, Command[Any]]]:
        calls, _ = self._calls(run)
        answers = run.open_answers or (None,) * len(calls)
        return [(position, call) for position, call in enumerate(calls) if answers[position] is None]

    def _gone_on(self, at: State, run: Run, position: int, answer: Any) -> State:
        calls, _ = self._calls(run)
        answers = [*(run.open_answers or (None,) * len(calls))]
        answers[position] = answer
        whole = run.answers[:-1] if run.open_answers else run.answers
        run = run._replace(answers=(*whole, tuple(answers)))
        calls, result = self._calls(run)
        if calls:
            return _begun(at, run)
        is_asleep = run.version and result.status == 200
        return at._replace(asleep=at.asleep | {run.version}) if is_asleep else at

    # -- the data

    def _asked(self, data: Data | None, kind: str, **asked: Any) -> Data:
        """The data after a request of one call."""
        plan = resonate_requests.ask(self._keyspaces, json.dumps(request(kind, **asked)).encode(), may_simulate=True)
        calls: Any = next(plan)
        answer, data = self._called(data, *calls)
        assert answer.status == 200, answer
        return data

    def _called(self, data: Data | None, call: Command[Any]) -> tuple[Any, Data]:
        pipeline = self._redis.pipeline(transaction=False)
        if data:
            pipeline.delete(*self._names)
            for name, dump in data.dumps:
                pipeline.restore(name, 0, dump)
        before = len(pipeline)
        pipeline.execute_command(*call.args)
        for name in self._names:
            pipeline.dump(name)
        for keys in self._keyspaces:
            pipeline.zrange(f"{keys.resonate}timers", 0, 0, withscores=True)
        own = resonate.keys_of(self._keyspaces, TASK).resonate
        pipeline.hmget(f"{own}promise:{TASK}", R["task"], R["version"])
        pipeline.zscore(f"{own}queue:{ANY}", TASK)
        answer, *found = pipeline.execute()[before:]
        dumps, timers = found[: len(self._names)], found[len(self._names) : -2]
        (task, version), queued = found[-2:]
        return call.parse(answer), Data(
            tuple([(name, dump) for name, dump in zip(self._names, dumps, strict=True) if dump]),
            tuple([int(first[0][1]) if first else FAR for first in timers]),
            task,
            int(version or 0),
            queued is not None,
        )


def _wrong(at: State) -> str:
    """What must not be at the end: all that it waits for has settled, and nobody has anything to do."""
    data = at.data
    if data.task == b"s":
        return "it sleeps for ever"
    if data.task == b"p" and not data.is_queued:
        return "nobody hears that it is pending"
    return "its worker thinks that it sleeps" if data.task == b"a" and data.version in at.asleep else ""


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
    [((OTHER,), ("lost answer", "crash")), ((OTHER,), ("repeat",)), ((OTHER,), ("lease",)), ((OTHER, THIRD), ())],
)
def test_no_task_sleeps_for_ever(
    one_server: Server, namespace: str, awaited: Sequence[str], left: Sequence[str]
) -> None:
    assert len({resonate.partition_of(id, PARTITIONS) for id in (TASK, OTHER, THIRD)}) == 3
    found = Explorer(one_server.sync_client(), namespace, awaited, left).explore()
    assert not found, "\n".join(found)
