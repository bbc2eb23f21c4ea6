"""Spans of OpenTelemetry: calls, activations, steps, sleeps and whole executions.

Only its API is used, by its global tracer, and only in a process that has loaded it: nobody can have set it up
otherwise. A call takes its span with it, in a field of the promise. No span stays open while an execution is suspended:
a sleep, and the whole execution, become spans when they are over, with their true start.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from durasleep.codec.exceptions import error_line
from durasleep.model import Entry, Kind, Op, SendMessage, StartChild, State, TracePoint, group_of
from durasleep.protocol.journal import PromiseRecord

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanContext

T = TypeVar("T")

SYSTEM = "durasleep"
_MANY = 64  # children that begin together, and have a span of their own each; with more, they share one
_WAITS = {Kind.TIMER: "sleep", Kind.PROMISE: "wait", Kind.RECEIVE: "receive"}
"""Entries that become spans when they have settled; what else is waited for has spans of its own."""
_TRACE_BYTES, _SPAN_BYTES = 16, 8
_SAMPLED = ("Q", "w")
"""The last letters of ``pack`` whose flags say that the trace is recorded."""


class _Api:
    """The API of OpenTelemetry, once somebody has set it up; an import in each function would cost more than a span."""

    def __init__(self) -> None:
        from opentelemetry import context, trace

        self.context = context
        self.trace = trace
        self.producer, self.consumer = trace.SpanKind.PRODUCER, trace.SpanKind.CONSUMER
        self.start = trace.get_tracer(SYSTEM).start_span
        self.nothing = context.Context()

    def inside(self, span: Span | None) -> Context:
        return self.nothing if span is None else self.trace.set_span_in_context(span, self.nothing)

    def remote(self, packed: str) -> Context:
        context = unpack(packed)
        return self.inside(None if context is None else self.trace.NonRecordingSpan(context))

    def links(self, packed: str) -> tuple[Link, ...]:
        context = unpack(packed) if packed else None
        return () if context is None else (self.trace.Link(context),)

    def note_error(self, span: Span, error: BaseException | str) -> None:
        """``error`` may be a text that begins with its class."""
        text = error if isinstance(error, str) else error_line(error)
        span.set_attribute("error.type", text.partition(":")[0] if isinstance(error, str) else class_of(error))
        span.set_status(self.trace.Status(self.trace.StatusCode.ERROR, text))
        if isinstance(error, BaseException):
            span.record_exception(error)


_apis: list[_Api] = []
"""The API, when it was set up."""


def _api() -> _Api | None:
    """The API; None as long as nobody has set it up: then nothing is recorded."""
    if _apis:
        return _apis[0]
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    _apis.append(_Api())
    return _apis[0]


# -- contexts as text


def pack(context: SpanContext) -> str:
    """The ids of a trace and a span, and the flags, as 34 letters that need no quoting."""
    ids = context.trace_id.to_bytes(_TRACE_BYTES) + context.span_id.to_bytes(_SPAN_BYTES)
    return urlsafe_b64encode(ids + bytes([context.trace_flags & 0xFF])).decode().rstrip("=")


def unpack(text: str) -> SpanContext | None:
    """The context in a text of ``pack``; None for anything else."""
    from opentelemetry.trace import SpanContext, TraceFlags

    try:
        raw = urlsafe_b64decode(text + "==")
    except ValueError:
        return None
    if len(raw) != _TRACE_BYTES + _SPAN_BYTES + 1:
        return None
    trace_id, span_id = int.from_bytes(raw[:_TRACE_BYTES]), int.from_bytes(raw[_TRACE_BYTES:-1])
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(raw[-1]))
    return context if context.is_valid else None


def is_loaded() -> bool:
    """Whether somebody in this process may use OpenTelemetry."""
    return "opentelemetry.trace" in sys.modules


def trace_id_of(trace: str) -> str:
    """The id of the trace in which an execution is, by its record, as people write it; empty without one."""
    try:
        raw = urlsafe_b64decode(_parts(trace)[1] + "==")
    except ValueError:
        return ""
    return raw[:_TRACE_BYTES].hex() if len(raw) == _TRACE_BYTES + _SPAN_BYTES + 1 else ""


def traceparent_of(trace: str) -> str:
    """The span that goes on in an execution, by its record, as W3C Trace Context writes it; empty without one."""
    try:
        raw = urlsafe_b64decode(_parts(trace)[1] + "==")
    except ValueError:
        return ""
    if len(raw) != _TRACE_BYTES + _SPAN_BYTES + 1:
        return ""
    return f"00-{raw[:_TRACE_BYTES].hex()}-{raw[_TRACE_BYTES:-1].hex()}-{raw[-1]:02x}"


def current_trace_id() -> str:
    """The id of the trace in which this code runs; empty without one."""
    if (api := sys.modules.get("opentelemetry.trace")) is None:
        return ""
    trace_id: int = api.get_current_span().get_span_context().trace_id
    return f"{trace_id:032x}" if trace_id else ""


def _parts(trace: str) -> tuple[str, str]:
    """The span that asked for an execution, and the one in which it goes on, which is mostly the same."""
    first, _, now = trace.partition(" ")
    return first, now or first


# -- calls


class Calling:
    """The span of a call, as a context manager: ``trace`` is what the call takes with it."""

    __slots__ = ("_span", "trace")

    def __init__(self, trace: str, span: Span | None = None) -> None:
        self._span = span
        self.trace = trace

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _class: object, error: BaseException | None, _traceback: object) -> None:
        if self._span is not None:
            if error is not None and (api := _api()) is not None:
                api.note_error(self._span, error)
            self._span.end()


_NOT_TRACED = Calling("")


def calling(verb: str, name: str, *, group: str, id: str | None = None, count: int = 0) -> Calling:
    """A PRODUCER span around a call to others: ``rpc`` of a function, or ``send`` to a channel. Where nothing is set
    up, the call takes along the span in which it is made, if there is one.
    """
    if (api := _api()) is not None:
        return _start_producer(api, verb, name, group, id, None, count)
    if (trace := sys.modules.get("opentelemetry.trace")) is None:
        return _NOT_TRACED
    context: SpanContext = trace.get_current_span().get_span_context()
    return Calling(pack(context)) if context.is_valid else _NOT_TRACED


def _start_producer(
    api: _Api, verb: str, name: str, group: str, id: str | None, context: Context | None, count: int = 0
) -> Calling:
    attributes: dict[str, str | int] = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": verb,
        "messaging.operation.type": "send",
        "messaging.destination.name": group,
    }
    if verb == "rpc":
        attributes["durasleep.function"] = name
    if id is not None:
        attributes["messaging.message.id"] = id
    if count:
        attributes["messaging.batch.message_count"] = count
    span = api.start(f"{verb} {name}", context=context, kind=api.producer, attributes=attributes)
    found = span.get_span_context()
    return Calling(pack(found) if found.is_valid else "", span)


# -- executions


class Activity:
    """The spans of one activation, made from its worker's plain callbacks."""

    __slots__ = ("_anchor", "_api", "_first", "_heard", "_offset_ns", "_record", "_span", "point")

    _api: _Api
    _span: Span | None
    """Of the activation; None if it has ended, or is not recorded."""

    def __init__(self, record: PromiseRecord) -> None:
        self._record = record
        self._first, self._anchor = _parts(record.trace)
        self._span = None
        self._heard = 0
        self.point: TracePoint | None = None
        """What the next commit has to keep of it, unless the execution ends."""

    @property
    def trace(self) -> str:
        """As in the record, when the next commit has been made."""
        return self._anchor if self._first == self._anchor else f"{self._first} {self._anchor}"

    @property
    def trace_id(self) -> str:
        """The trace in which it is."""
        return trace_id_of(self._anchor)

    def enter(self) -> None:
        """In the context of the workflow's code: the span that is current there.

        It is always the same, whoever replays the code and whatever is sampled, so that no code can depend on it.
        """
        if not self._first or not is_loaded():
            return
        api = _api() or _Api()
        api.context.attach(api.remote(self._first))

    def trace_ops(self, ops: tuple[Op, ...]) -> tuple[Op, ...]:
        """The ops, as the code has just asked for them: its calls take their spans with them."""
        children = [op for op in ops if isinstance(op, StartChild)]
        sent = [op for op in ops if isinstance(op, SendMessage)] if self._span is not None else ()
        if not children and not sent:
            return ops
        traces: dict[str, str] = {}
        if self._span is None:
            traces = dict.fromkeys([op.number for op in children], self._anchor)
        elif len(children) > _MANY:
            one = self._produce("rpc", children[0].function, children[0].queue, None, len(children))
            traces = dict.fromkeys([op.number for op in children], one)
        else:
            for op in children:
                id = op.child_id or f"{self._record.id}~{op.number}"
                traces[op.number] = self._produce("rpc", op.function, op.queue, id)
        for op in sent[:_MANY]:
            self._produce("send", op.name, None, op.target)
        return tuple(
            msgspec.structs.replace(op, trace=traces[op.number]) if isinstance(op, StartChild) else op for op in ops
        )

    def _produce(self, verb: str, name: str, queue: str | None, id: str | None, count: int = 0) -> str:
        group = name if verb == "send" else group_of(queue or self._record.queue)
        with _start_producer(self._api, verb, name, group, id, self._api.inside(self._span), count) as call:
            return call.trace

    def start_step(self, name: str, number: str, attempt: int, begin: Callable[[], asyncio.Task[T]]) -> asyncio.Task[T]:
        """The task of a step, in a span that ends with it."""
        if self._span is None:
            return self.inside(begin)
        attributes = self._attributes(name) | {"durasleep.attempt": attempt, "durasleep.step": number}
        api = self._api
        span = api.start(f"step {name}", context=api.inside(self._span), attributes=attributes)
        task = _in_context(api, api.inside(span), begin)
        task.add_done_callback(partial(_end_with_task, api, span))
        return task

    def inside(self, begin: Callable[[], T]) -> T:
        """What ``begin`` makes, in a context in which the span of this activation is the current one. If it is not
        recorded, its calls are not recorded, either.
        """
        if not is_loaded():
            return begin()
        api = _api() or _Api()
        return _in_context(api, api.remote(self._anchor) if self._span is None else api.inside(self._span), begin)

    def note_heard(self, entries: Iterable[Entry]) -> None:
        """These entries have settled: those that were waits become spans. An entry that was noted is left out."""
        if self._span is None:
            return
        new = [entry for entry in entries if entry.stamp > self._heard]
        for entry in sorted(new, key=lambda one: one.stamp):
            self._heard = entry.stamp
            if entry.kind in _WAITS and entry.state is not State.CANCELED:
                self._add_wait(entry)

    def _add_wait(self, entry: Entry) -> None:
        attributes = self._attributes(self._record.function) | {"durasleep.number": entry.number}
        if entry.name:
            attributes["durasleep.name"] = entry.name
        if entry.state is not State.RESOLVED:
            attributes["durasleep.outcome"] = entry.state.value
        began_ms = self._record.incarnation + entry.begun_ms if entry.begun_ms else self._record.created_ms
        span = self._api.start(
            _WAITS[entry.kind],
            context=self._api.remote(self._anchor),
            start_time=self._local_ns(min(began_ms, entry.stamp)),
            attributes=attributes,
        )
        span.end(self._local_ns(entry.stamp))

    def end(self, outcome: str = "", error: BaseException | str = "") -> None:
        """The activation is over; with an ``outcome``, the whole execution is."""
        span, self._span = self._span, None
        if span is None:
            return
        api = self._api
        if error:
            api.note_error(span, error)
        if outcome:
            span.set_attribute("durasleep.outcome", outcome)
        span.end()
        if not outcome:
            return
        record = self._record
        whole = api.start(
            f"execution {record.function}",
            context=api.remote(self._anchor),
            start_time=self._local_ns(record.created_ms),
            attributes=self._attributes(record.function) | {"durasleep.outcome": outcome},
            links=api.links(self._first) if self._first != self._anchor else (),
        )
        if error:
            api.note_error(whole, error)
        whole.end()

    def begin(self, attempt: int, now_ms: int, ready_ms: int, *, is_new: bool, is_late: bool) -> bool:
        """Begin the span of the activation; whether it is part of a trace. See ``begin``."""
        anchor, api = self._anchor, _api()
        if api is None:
            return bool(anchor)
        self._api = api
        parent = "" if is_late else anchor
        context = self._start(attempt, now_ms, ready_ms, parent, anchor if is_late else "")
        if not context.is_valid:
            return bool(anchor)
        if not parent:
            is_later = bool(self._first) or not is_new
            self._anchor = pack(context)
            if not is_later:
                self._first = self._anchor
            self.point = TracePoint(self._anchor, is_later)
        return True

    def _start(self, attempt: int, now_ms: int, ready_ms: int, parent: str, linked: str) -> SpanContext:
        api = self._api
        record = self._record
        now_ns = time.time_ns()
        self._offset_ns = now_ns - now_ms * 1_000_000
        attributes: dict[str, str | int] = {
            **self._attributes(record.function),
            "messaging.operation.name": "run",
            "messaging.operation.type": "process",
            "messaging.destination.name": group_of(record.queue),
            "durasleep.attempt": attempt,
            "durasleep.epoch": record.epoch,
        }
        if ready_ms:
            attributes["durasleep.lateness_ms"] = max(0, now_ms - ready_ms)
        span = api.start(
            f"run {record.function}",
            context=api.remote(parent) if parent else api.nothing,
            kind=api.consumer,
            start_time=now_ns,
            attributes=attributes,
            links=api.links(linked),
        )
        if span.is_recording():
            self._span = span
        return span.get_span_context()

    def _attributes(self, function: str) -> dict[str, str | int]:
        return {
            "messaging.system": SYSTEM,
            "messaging.message.id": self._record.id,
            "durasleep.function": function,
        }

    def _local_ns(self, ms: int) -> int:
        """An instant of the server by the clock of this process, which all other spans have."""
        return ms * 1_000_000 + self._offset_ns


def is_recorded(record: PromiseRecord) -> bool:
    """Whether its activations may have spans: somebody has set up OpenTelemetry here, and its caller was not sampled
    out. What the caller's sampler leaves out, stays out.
    """
    return (not record.trace or record.trace[-1] in _SAMPLED) and _api() is not None


def pass_on(record: PromiseRecord) -> Activity | None:
    """For an activation that is not recorded: its calls belong to the trace of the execution, if that has one."""
    return Activity(record) if record.trace else None


def begin(
    record: PromiseRecord,
    *,
    is_new: bool,
    now_ms: int,
    last_ms: int,
    ready_ms: int,
    gap_ms: int,
    attempt: int,
) -> Activity | None:
    """The spans of an activation that begins, which ``is_recorded``; None if it is part of no trace.

    ``is_new`` says that nothing of its code has run yet. After more than ``gap_ms`` since ``last_ms``, when something
    of it happened last, a new trace begins, which is linked to the last one.
    At ``ready_ms`` it could have begun; 0 if that is not known.
    """
    activity = Activity(record)
    is_late = now_ms - last_ms > gap_ms
    return activity if activity.begin(attempt, now_ms, ready_ms, is_new=is_new, is_late=is_late) else None


def ready_since_ms(record: PromiseRecord, unseen: Iterable[Entry], *, is_clock_moved: bool) -> int:
    """When an execution could go on: at the first settlement that it has not seen, or when it was queued."""
    first_ms = min([entry.stamp for entry in unseen if entry.stamp], default=0)
    if first_ms or is_clock_moved:  # by a test, and the ids of stream entries have another clock
        return first_ms
    return int(record.entry.partition("-")[0] or 0)


def last_event_ms(record: PromiseRecord, entries: Iterable[Entry], unseen: Collection[str]) -> int:
    """When something of an execution happened last, before the settlements that its next activation sees."""
    last_ms = record.begun_ms
    for entry in entries:
        if entry.stamp and entry.number not in unseen:
            last_ms = max(last_ms, entry.stamp)
        elif entry.begun_ms:
            last_ms = max(last_ms, record.incarnation + entry.begun_ms)
    return last_ms


def _in_context(api: _Api, current: Context, begin: Callable[[], T]) -> T:
    inside = contextvars.copy_context()
    inside.run(api.context.attach, current)
    return inside.run(begin)


def _end_with_task(api: _Api, span: Span, task: asyncio.Task[Any]) -> None:
    """A step has ended with its task."""
    if task.cancelled():
        span.set_attribute("durasleep.outcome", "canceled")
    elif (error := task.exception()) is not None:
        api.note_error(span, error)
    span.end()


def class_of(error: BaseException) -> str:
    """The name of its class, with its module unless that is Python's own."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
