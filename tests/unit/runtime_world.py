"""What the tests of the runtime share: one execution, and a server that is a dict and a clock."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from durasleep.codec import Codec
from durasleep.model import (
    CANCEL,
    CancelEntry,
    Due,
    Entry,
    Kind,
    Mark,
    Number,
    PromiseId,
    StartChild,
    StartPromise,
    StartTimer,
    State,
    StepResult,
    Transaction,
)
from durasleep.runtime.context import ExecutionInfo
from durasleep.runtime.definition import Registry, WorkflowDefinition
from durasleep.runtime.journal import StepCall
from durasleep.runtime.replay import Activation, CanceledOutcome, Continued, Halted, Progress, Rejected, Resolved
from durasleep.settings import Settings

CODEC = Codec()
CREATED_MS = 1_700_000_000_000
WorkflowFn = Callable[..., Coroutine[Any, Any, Any]]


class World:
    """One execution and its journal; ``play`` drives it to its end, as a worker and a server would.

    ``keep`` keeps one activation in memory for as long as it lives; otherwise each event finds a fresh one.
    ``script`` settles entries from outside: number → (ms after the start, state, value).
    """

    def __init__(
        self,
        fn: WorkflowFn,
        *args: Any,
        keep: bool = False,
        script: dict[str, tuple[int, State, Any]] | None = None,
        settings: Settings | None = None,
        version: int = 1,
    ) -> None:
        self.definition: WorkflowDefinition = Registry().workflow(fn, version=version)
        self.args = CODEC.encode_args(args, {}, "arguments")
        self.keep = keep
        self.script = script or {}
        self.settings = settings or Settings()
        self.info = ExecutionInfo(
            id=PromiseId("order-1"),
            root_id=PromiseId("order-1"),
            function=self.definition.name,
            group="workers",
            birth=7,
            created_ms=CREATED_MS,
        )
        self.base = 0
        self.now_ms = CREATED_MS
        self.order = CREATED_MS
        self.journal: dict[Number, Entry] = {}
        self.commands: list[tuple[bytes, ...]] = []
        self.cuts: list[World] = []
        """A copy of this world after every change of its journal."""
        self.steps_run: list[str] = []
        self.activation: Activation | None = None
        self.progress: Progress | None = None

    # -- what a worker does

    def new_activation(self) -> Activation:
        return Activation(self.definition, self.info, self.args, CODEC, settings=self.settings, base=self.base)

    def activate(self) -> Progress:
        """Load the journal and drive until suspended, running steps as they are asked for."""
        self.activation = self.new_activation()
        return self._go_on(self.activation.start(list(reversed(self.journal.values()))))

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
            for call in progress.steps:
                self.run_step(call)
            entries = [entry for entry in self.journal.values() if entry.stamp > seen]
            if not entries:
                return progress
            progress = self.activation.feed(entries)

    def run_step(self, call: StepCall) -> None:
        self.steps_run.append(call.number)
        try:
            value = call.fn(*call.args, **call.kwargs)
            if asyncio.iscoroutine(value):
                value = finish(value)
            result = StepResult(call.number, call.name, State.RESOLVED, CODEC.encode(value, "result"))
        except Exception as error:  # noqa: BLE001 - steps may raise anything
            result = StepResult(call.number, call.name, State.REJECTED, CODEC.encode_error(error))
        known = self.journal.get(call.number)
        if known is None:  # else it was canceled meanwhile, and its result is dropped
            self._put(Entry(call.number, Kind.STEP, result.state, call.name, self._stamp(), payload=result.payload))

    # -- what a server does

    def commit(self, progress: Progress) -> None:
        for op in progress.ops:
            known = self.journal.get(op.number)
            match op:
                case CancelEntry(number, kind, name):
                    if known is None or known.state is State.PENDING:
                        self._put(Entry(number, kind, State.CANCELED, name))
                case _ if known is not None:
                    pass
                case StartTimer(number, name, due):
                    self._put(Entry(number, Kind.TIMER, State.PENDING, name, due_ms=self._due_ms(due)))
                case StartPromise(number, name, due):
                    self._put(Entry(number, Kind.PROMISE, State.PENDING, name, due_ms=self._due_ms(due) if due else 0))
                case Mark(number, kind, name):
                    self._put(Entry(number, kind, State.RESOLVED, name))
                case StartChild(number, function, _, _, _, child_id, detached=True):
                    self._put(
                        Entry(number, Kind.DETACHED, State.RESOLVED, function, self._stamp(), child_id=child_id or "")
                    )
                case StartChild(number, function, _, _, due, child_id):
                    due_ms = self._due_ms(due) if due else 0
                    self._put(
                        Entry(number, Kind.CHILD, State.PENDING, function, due_ms=due_ms, child_id=child_id or "")
                    )
                case Transaction(number, commands):
                    self.commands.extend(commands)
                    payload = b"*%d\n" % len(commands) + b":1\n" * len(commands)
                    self._put(Entry(number, Kind.TRANSACTION, State.RESOLVED, "", self._stamp(), payload=payload))
                case StepResult():
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
        """Let the next thing happen: the earliest timer, deadline or line of the script."""
        events: list[tuple[int, str, State, Any]] = []
        for number, (after_ms, state, value) in self.script.items():
            known = self.journal.get(Number(number))
            if (known is None and number == CANCEL) or (known is not None and known.state is State.PENDING):
                events.append((max(self.now_ms, CREATED_MS + after_ms), number, state, value))
        for entry in self.journal.values():
            if entry.state is State.PENDING and entry.due_ms:
                state = State.RESOLVED if entry.kind is Kind.TIMER else State.TIMEDOUT
                events.append((entry.due_ms, entry.number, state, None))
        if not events:
            return None
        at_ms, number, state, value = min(events, key=lambda event: event[:2])
        self.now_ms = max(self.now_ms, at_ms)
        return self.cancel() if number == CANCEL else self.settle(number, state, value)

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
        assert report.stubborn == ()

    def copied(self) -> World:
        other = copy.copy(self)
        other.journal = dict(self.journal)
        other.commands = list(self.commands)
        other.cuts = []
        other.steps_run = []
        other.activation = other.progress = None
        return other

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
    value = value_of(kept.play())
    replayed = World(fn, *args, **options)
    assert value_of(replayed.play()) == value
    assert replayed.shape() == kept.shape()
    return value


def value_of(progress: Progress) -> Any:
    """The result of an ending as something to compare: a value, or a word and a text."""
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
