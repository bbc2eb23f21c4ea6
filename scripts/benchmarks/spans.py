"""What spans of OpenTelemetry cost: processor time of one call, activation, sleep and child.

Each of four processes makes them without Redis: where OpenTelemetry is not installed, where nobody has set it up, where
all is sampled out, and where all is recorded and given to a batch processor.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable

from durasleep.model import Entry, Kind, Number, PromiseId, StartChild, State
from durasleep.observe import tracing
from durasleep.protocol.journal import PromiseRecord
from scripts.benchmarks.bench import ROOT
from scripts.benchmarks.report import Report

SETUPS = {"absent": None, "unset": 1.3, "dropped": 4.0, "recorded": 23.0}
"""The budget of one span in microseconds."""
ROUNDS = 7
COUNT = 2_000
_TRACE = "AAAAAAAAAAAAAAAAAAAE0gAAAAAAABYuA"  # 34 letters with the next one, which says whether it is sampled
_HIDE = "import sys; sys.modules['opentelemetry'] = None; "
_RUN = "import runpy; runpy.run_module('scripts.benchmarks.spans', run_name='__main__')"
_NOW_MS = 1_800_000_000_000


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each is measured (%(default)s)")


async def measure(options: Namespace) -> Report:
    report = Report("spans", "no server", f"the best of {options.rounds} rounds of {COUNT} each, in microseconds")
    for setup, span_us in SETUPS.items():
        for what, spent_us in (await asyncio.to_thread(_measured, setup, options.rounds)).items():
            report.add(f"{setup}_{what}_us", spent_us, at_most=span_us if what == "bare_span" else None)
    return report


def _measured(setup: str, rounds: int) -> dict[str, float]:
    ran = subprocess.run(
        [sys.executable, "-c", f"{_HIDE if setup == 'absent' else ''}{_RUN}", setup, str(rounds)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(ran.stdout)


def _set_up(setup: str) -> None:
    if setup == "absent":
        return
    from opentelemetry import trace

    if setup == "unset":
        return
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, DEFAULT_ON

    provider = TracerProvider(sampler=DEFAULT_ON if setup == "recorded" else ALWAYS_OFF)
    provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter(), max_queue_size=100_000))
    trace.set_tracer_provider(provider)


def _best_us(rounds: int, act: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(COUNT):
            act()
        best = min(best, time.process_time() - began)
    return best / COUNT * 1e6


async def _run(setup: str, rounds: int) -> dict[str, float]:
    _set_up(setup)
    trace = "" if setup == "absent" else _TRACE + ("Q" if setup == "recorded" else "A")
    record = PromiseRecord(
        id=PromiseId("order-42"),
        kind=Kind.EXECUTION,
        incarnation=_NOW_MS,
        created_ms=_NOW_MS,
        begun_ms=_NOW_MS,
        function="order",
        queue="workers",
        entry=f"{_NOW_MS}-0",
        trace=trace,
    )
    stamp = _NOW_MS

    def begin() -> tracing.Activity | None:
        if not tracing.is_recorded(record):
            return tracing.pass_on(record)
        return tracing.begin(
            record,
            is_new=True,
            now_ms=_NOW_MS,
            last_ms=_NOW_MS,
            ready_ms=_NOW_MS,
            gap_ms=3_600_000,
            attempt=1,
        )

    def call() -> None:
        with tracing.calling("rpc", "order", group="workers", id="order-42"):
            pass

    def activation() -> None:
        if (activity := begin()) is not None:
            activity.end()

    activity = begin()
    child = (StartChild(Number("3"), "charge", b"", None, None, None),)

    def sleep() -> None:
        nonlocal stamp
        stamp += 1
        if activity is not None:
            activity.note_heard([Entry(Number("2"), Kind.TIMER, State.RESOLVED, stamp=stamp)])

    def calls() -> None:
        if activity is not None:
            activity.trace_ops(child)

    acts = {"call": call, "activation": activation, "sleep": sleep, "child": calls}
    spent = {what: _best_us(rounds, act) for what, act in acts.items()}
    if setup != "absent":
        spent = {"bare_span": _best_us(rounds, _bare_span()), **spent}
    return spent


def _bare_span() -> Callable[[], object]:
    """A span as `reference/people/otel.py` makes it: with two attributes, below another one."""
    from opentelemetry import trace

    tracer = trace.get_tracer("durasleep")
    parent = trace.SpanContext(1234, 5678, is_remote=True, trace_flags=trace.TraceFlags(1))
    context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
    attributes = {"durasleep.execution": "order-1", "durasleep.function": "order"}

    def act() -> None:
        span = tracer.start_span("run order", context=context, kind=trace.SpanKind.CONSUMER, attributes=attributes)
        span.end()

    return act


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_run(sys.argv[1], int(sys.argv[2])))))
