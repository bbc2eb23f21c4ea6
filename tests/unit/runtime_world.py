"""The world of the runtime's tests: one execution, and a server that is a dict and a clock."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from durasleep.codec import Codec
from durasleep.model import (
    CANCEL,
    CancelEntry,
    Checkpoint,
    Due,
    Entry,
    Kind,
    Mark,
    Number,
    Op,
    PromiseId,
    Publish,
    SendMessage,
    SettlePromise,
    StartChild,
    StartPromise,
    StartReceive,
    StartTimer,
    State,
    StepResult,
    TracePoint,
    Transaction,
)
from durasleep.runtime import nondeterminism
from durasleep.runtime.activation import Activation
from durasleep.runtime.context import ExecutionInfo
from durasleep.runtime.definition import Registry, WorkflowDefinition
from durasleep.runtime.journal import StepCall
from durasleep.runtime.outcome import CanceledOutcome, Continued, Halted, Progress, Rejected, Resolved
from durasleep.settings import Settings

CODEC = Codec()
CREATED_MS = 1_700_000_000_000
DEBUG = Settings(debug=True)
WorkflowFn = Callable[..., Coroutine[Any, Any, Any]]
Line = tuple[int, State, Any]
"""An event from outside: this many ms after the start, with this state and value."""


@dataclass(frozen=True)
class Slow:
    """The answer of a slow step: its result, or an exception, comes this much later."""

    seconds: float
    value: Any


class World:
    """One execution and its journal; ``play`` drives it to its end, as a worker and a server would.

    ``keep`` keeps one activation in memory for as long as it lives; otherwise each event gets a new one, as if its
    worker had died. ``script`` settles entries from outside, by number; ``answer`` settles entries that ``script`` does
    not name.
    """

    def __init__(
        self,
        fn: WorkflowFn,
        *args: Any,
        keep: bool = False,
        script: Mapping[str, Line] | None = None,
        answer: Callable[[Entry], Line | None] | None = None,
        settings: Settings | None = None,
        version: int = 1,
    ) -> None:
        self.definition: WorkflowDefinition = Registry().workflow(fn, version=version)
        self.args = CODEC.encode_args(args, {}, "arguments")
        self.keep = keep
        self.script = script or {}
        self.answer = answer
        self.settings = settings or Settings()
        self.info = ExecutionInfo(
            id=PromiseId("order-1"),
            root_id=PromiseId("order-1"),
            function=self.definition.name,
            group="workers",
            incarnation=7,
            created_ms=CREATED_MS,
        )
        self.base = 0
        self.now_ms = CREATED_MS
        self.order = CREATED_MS
        self.journal: dict[Number, Entry] = {}
        self.commands: list[tuple[bytes, ...]] = []
        self.sent: list[tuple[str, str, bytes]] = []
        """The messages it has sent, and the promises of others it has settled."""
        self.mail: dict[str, tuple[bytes, ...]] = {}
        """Its unread messages, by channel."""
        self.published = b""
        """What the code has published last."""
        self.cuts: list[World] = []
        """A copy of this world after every change of its journal."""
        self.torn = False
        """Whether it was copied in the middle of a commit: only a commit of several script calls can be interrupted."""
        self.steps_run: list[str] = []
        self.calls: dict[str, str] = {}
        """The steps that this world has called, however often: number → function and arguments."""
        self.committed: list[str] = []
        """The steps whose result was journaled, here or in the world this one is a copy of."""
        self.in_flight: dict[Number, tuple[int, StepResult]] = {}
        """Slow steps: when their result comes, in ms, and the result."""
        self.activation: Activation | None = None
        self.progress: Progress | None = None

    # -- what a worker does

    def new_activation(self) -> Activation:
        return Activation(self.definition, self.info, self.args, CODEC, settings=self.settings, base=self.base)

    def activate(self) -> Progress:
        """Load the journal and drive until suspended, running steps as they are asked for."""
        self.activation = self.new_activation()
        progress = self.activation.start(list(reversed(self.journal.values())))
        again = {call.number for call in progress.steps}  # steps that only the last worker has run are fenced off
        self.in_flight = {number: ends for number, ends in self.in_flight.items() if number in again}
        return self._go_on(progress)

    def feed(self, *entries: Entry) -> Progress:
        assert self.activation is not None
        return self._go_on(self.activation.feed(entries))

    def _go_on(self, progress: Progress) -> Progress:
        assert self.activation is not None
        while True:
            self.progress = progress
            seen = self.order
            self.commit(progress)
            if progress.outcome is not None:
                return progress
            for number in progress.stop_steps:
                self.in_flight.pop(number, None)
            for call in progress.steps:
                self.begin_step(call)
            if self.order == seen:  # otherwise the commit's own settlements are delivered before any step ends
                self._end_steps()
            entries = [entry for entry in self.journal.values() if entry.stamp > seen]
            if not entries:
                return progress
            progress = self.activation.feed(entries)

    def run_step(self, call: StepCall) -> None:
        """From its beginning to its end."""
        self.begin_step(call)
        self.end_step(self.in_flight[call.number][1])

    def begin_step(self, call: StepCall) -> None:
        self.steps_run.append(call.number)
        self.calls[call.number] = f"{call.name}{call.args}{call.kwargs or ''}"
        seconds, payload = 0.0, b""
        value: Any
        try:
            value = call.fn(*call.args, **call.kwargs)
            if asyncio.iscoroutine(value):
                value = finish(value)
            if isinstance(value, Slow):
                seconds, value = value.seconds, value.value
            if not isinstance(value, Exception):
                payload = CODEC.encode(value, "result")
        except Exception as error:  # noqa: BLE001 - steps may raise anything
            value = error
        if isinstance(value, Exception):
            retried = call.retry is not None and call.retry.wants(value, call.attempt)
            result = StepResult(call.number, call.name, State.REJECTED, CODEC.encode_error(value, retried=retried))
        else:
            result = StepResult(call.number, call.name, State.RESOLVED, payload)
        # A step that begins again ends when it would have ended: the outside world has one history, too.
        self.in_flight.setdefault(call.number, (self.now_ms + round(1000 * seconds), result))

    def _end_steps(self) -> None:
        with self._one_commit():
            for at_ms, result in list(self.in_flight.values()):
                if at_ms <= self.now_ms:
                    self.end_step(result)

    def end_step(self, result: StepResult) -> Entry | None:
        """Journal the result of a step, or drop it if the step was canceled meanwhile."""
        self.in_flight.pop(result.number, None)
        if result.number in self.journal:
            return None
        self.committed.append(result.number)
        return self._put(
            Entry(result.number, Kind.STEP, result.state, result.name, self._stamp(), payload=result.payload)
        )

    # -- what a server does

    def commit(self, progress: Progress) -> None:
        with self._one_commit():
            for op in progress.ops:
                self._do(op)

    @contextmanager
    def _one_commit(self) -> Generator[None, None, None]:
        cuts = len(self.cuts)
        self.torn = True
        yield
        self.torn = False
        for cut in self.cuts[cuts:][-1:]:
            cut.torn = False

    def _do(self, op: Op) -> None:
        known = self.journal.get(op.number)
        match op:
            case CancelEntry(number, kind, name):
                if known is None or known.state is State.PENDING:
                    self._put(Entry(number, kind, State.CANCELED, name))
                elif kind is Kind.RECEIVE and known.state is State.RESOLVED:
                    self.mail = {**self.mail, name: (known.payload, *self.mail.get(name, ()))}
                    self._put(replace(known, state=State.CANCELED, payload=b""))
            case _ if known is not None:
                pass
            case StartTimer(number, name, due):
                self._put(Entry(number, Kind.TIMER, State.PENDING, name, due_ms=self._due_ms(due)))
            case StartPromise(number, name, due):
                self._put(Entry(number, Kind.PROMISE, State.PENDING, name, due_ms=self._due_ms(due) if due else 0))
            case StartReceive(number, name, due) if self.mail.get(name):
                message, *rest = self.mail[name]
                self.mail = {**self.mail, name: tuple(rest)}
                self._put(Entry(number, Kind.RECEIVE, State.RESOLVED, name, self._stamp(), payload=message))
            case StartReceive(number, name, due):
                self._put(Entry(number, Kind.RECEIVE, State.PENDING, name, due_ms=self._due_ms(due) if due else 0))
            case SendMessage(number, name, target, payload):
                self.sent.append((target, name, payload))
                done = Entry(number, Kind.SEND, State.RESOLVED, name, self._stamp(), child_id=target, payload=b"s")
                self._put(done)
            case SettlePromise(number, target, _, payload):
                self.sent.append((target, "", payload))
                done = Entry(number, Kind.SETTLE, State.RESOLVED, "", self._stamp(), child_id=target, payload=b"1")
                self._put(done)
            case Mark(number, kind, name):
                self._put(Entry(number, kind, State.RESOLVED, name))
            case StartChild(number, function, _, _, _, child_id, detached=True):
                self._put(
                    Entry(number, Kind.DETACHED, State.RESOLVED, function, self._stamp(), child_id=child_id or "")
                )
            case StartChild(number, function, _, _, due, child_id):
                due_ms = self._due_ms(due) if due else 0
                self._put(Entry(number, Kind.CHILD, State.PENDING, function, due_ms=due_ms, child_id=child_id or ""))
            case Publish(payload, None):
                self.published = payload
            case Transaction(number, commands):
                self.commands.extend(commands)
                payload = b"*%d\n" % len(commands) + b":1\n" * len(commands)
                self._put(Entry(number, Kind.TRANSACTION, State.RESOLVED, "", self._stamp(), payload=payload))
            case StepResult() | Checkpoint() | Publish() | TracePoint():
                raise AssertionError("the runtime makes no step results")

    def settle(self, number: str, state: State, value: Any = None) -> Entry:
        known = self.journal[Number(number)]
        payload = b""
        if state is State.RESOLVED and known.kind is not Kind.TIMER:
            payload = CODEC.encode(value, "value")
        elif state is State.REJECTED:
            payload = CODEC.encode_error(value)
        return self._put(replace(known, state=state, stamp=self._stamp(), payload=payload))

    def cancel(self) -> Entry:
        return self._put(Entry(CANCEL, Kind.CANCEL, State.RESOLVED, "", self._stamp()))

    def step_time(self) -> Entry | None:
        """Let the next thing happen: the earliest timer, deadline, line of the script or end of a slow step."""
        events: list[tuple[int, Number, State, Any]] = []
        if CANCEL in self.script and CANCEL not in self.journal:
            events.append(self._at(CANCEL, self.script[CANCEL]))
        for entry in self.journal.values():
            if entry.state is not State.PENDING:
                continue
            if entry.due_ms:
                state = State.RESOLVED if entry.kind is Kind.TIMER else State.TIMEDOUT
                events.append((entry.due_ms, entry.number, state, None))
            line = self.script.get(entry.number) or (self.answer(entry) if self.answer else None)
            if line:
                events.append(self._at(entry.number, line))
        for number, (at_ms, result) in self.in_flight.items():
            if number not in self.journal:
                events.append((at_ms, number, result.state, result))
        if not events:
            return None
        at_ms, number, state, value = min(events, key=lambda event: event[:2])
        self.now_ms = max(self.now_ms, at_ms)
        if isinstance(value, StepResult):
            return self.end_step(value)
        return self.cancel() if number == CANCEL else self.settle(number, state, value)

    def _at(self, number: Number, line: Line) -> tuple[int, Number, State, Any]:
        after_ms, state, value = line
        return max(self.now_ms, CREATED_MS + after_ms), number, state, value

    # -- both

    def play(self) -> Progress:
        """Go on to the end, whatever state the journal is in."""
        progress = self.activate()
        while progress.outcome is None:
            assert progress.waiting
            if not self.keep:
                self.close()
            entry = self.step_time()
            assert entry is not None, "it says it waits, but nothing can happen"
            progress = self.feed(entry) if self.keep else self.activate()
        self.close()
        return progress

    def close(self) -> None:
        assert self.activation is not None
        report = self.activation.close()
        assert report.leaked == ()

    def copied(self) -> World:
        other = copy.copy(self)
        other.journal = dict(self.journal)
        other.commands = list(self.commands)
        other.sent = list(self.sent)
        other.cuts = []
        other.steps_run = []
        other.calls = {}
        other.committed = list(self.committed)
        other.in_flight = dict(self.in_flight)
        other.activation = other.progress = None
        return other

    def history(self) -> list[Entry]:
        """The journal, without steps that were canceled: if the worker died while such a step ran, there is no
        tombstone.
        """
        return [
            entry
            for _, entry in sorted(self.journal.items())
            if not (entry.kind is Kind.STEP and entry.state is State.CANCELED)
        ]

    def shape(self) -> dict[str, tuple[Kind, str, State]]:
        return {number: (entry.kind, entry.name, entry.state) for number, entry in sorted(self.journal.items())}

    def _put(self, entry: Entry) -> Entry:
        self.journal[entry.number] = entry
        self.cuts.append(self.copied())
        return entry

    def _stamp(self) -> int:
        self.order = max(self.order + 1, self.now_ms)
        return self.order

    def _due_ms(self, due: Due) -> int:
        return int(due[1:]) + (self.now_ms if due[0] == "+" else 0)


class DebugWorld(World):
    """A world in debug mode: every activation is watched, and checked after each time it was driven."""

    def __init__(self, fn: WorkflowFn, *args: Any, **options: Any) -> None:
        super().__init__(fn, *args, settings=DEBUG, **options)
        self.halts: list[Progress] = []

    def new_activation(self) -> Activation:
        return Activation(self.definition, self.info, self.args, CODEC, settings=DEBUG, watch=nondeterminism.watch)

    def commit(self, progress: Progress) -> None:
        assert self.activation is not None
        self.checked = nondeterminism.checked(self.activation, progress)
        if self.checked is not progress:
            self.halts.append(self.checked)
        super().commit(progress)


def finish(coro: Coroutine[Any, Any, Any]) -> Any:
    """Run an async step that does not wait for anything."""
    try:
        coro.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("this step waits")


def play(fn: WorkflowFn, *args: Any, **options: Any) -> Any:
    """The result of a workflow, the same kept in memory and replayed at each event."""
    kept = World(fn, *args, keep=True, **options)
    value = unwrap(kept.play())
    replayed = World(fn, *args, **options)
    assert unwrap(replayed.play()) == value
    assert replayed.shape() == kept.shape()
    return value


def unwrap(progress: Progress) -> Any:
    """The result of an ending in a form that can be compared: a value, or a word and a text."""
    match progress.outcome:
        case Resolved(payload):
            return CODEC.decode(payload)
        case Rejected(text=text):
            return ("rejected", text)
        case CanceledOutcome():
            return "canceled"
        case Continued(payload, base):
            return ("continued", CODEC.decode(payload), base)
        case Halted(reason):
            return ("halted", reason)
        case None:
            raise AssertionError("not ended")
