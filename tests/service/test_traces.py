"""Spans of a whole service on real servers: what they look like, and that a replay adds none."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import StatusCode

from durasleep import Context, Durasleep, Retry, Settings, testing
from durasleep.humanize import describe_ms
from durasleep.observe import tracing
from durasleep.observe.logs import ExecutionIds
from durasleep.testing import Env
from harness.servers import Server

Kit = Callable[..., AbstractAsyncContextManager[Env]]


class Chosen(Sampler):
    """Samples as a test says."""

    is_on = True

    def should_sample(self, *args: Any, **named: Any) -> SamplingResult:
        return (ALWAYS_ON if self.is_on else ALWAYS_OFF).should_sample(*args, **named)

    def get_description(self) -> str:
        return "chosen"


SAMPLER = Chosen()
EXPORTER = InMemorySpanExporter()
PROVIDER = TracerProvider(sampler=ParentBased(SAMPLER), shutdown_on_exit=False)
PROVIDER.add_span_processor(SimpleSpanProcessor(EXPORTER))


@pytest.fixture(autouse=True)
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """OpenTelemetry is set up for one test, as an application does it once."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", PROVIDER)
    tracing._apis.clear()  # pyright: ignore[reportPrivateUsage]
    SAMPLER.is_on = True
    EXPORTER.clear()
    yield EXPORTER
    tracing._apis.clear()  # pyright: ignore[reportPrivateUsage]


@pytest.fixture
def kit(real_server: Server) -> Kit:
    """A service on a real server, with a clock that can be moved, a client and a worker."""

    @asynccontextmanager
    async def make(app: Durasleep) -> AsyncGenerator[Env]:
        async with testing.env(app, redis=real_server.url) as env:
            yield env

    return make


def drawn(spans: Sequence[ReadableSpan]) -> str:
    """The spans as trees, one for each trace, as they have ended; those that take long with how long."""
    ids = {span.context.span_id: span for span in spans if span.context}
    lines: list[str] = []

    def order(span: ReadableSpan) -> tuple[bool, int]:
        """The whole first, then as they have ended."""
        return not span.name.startswith("execution"), spans.index(span)

    def draw(span: ReadableSpan, depth: int) -> None:
        ms = ((span.end_time or 0) - (span.start_time or 0)) // 1_000_000
        took = f" ({describe_ms(ms)})" if ms >= 60_000 else ""
        links = ", ".join(ids[link.context.span_id].name for link in span.links)
        linked = f" <- {links}" if links else ""
        outcome = (span.attributes or {}).get("durasleep.outcome")
        ended = f": {outcome}" if outcome else ""
        lines.append(f"{'  ' * depth}{span.kind.name.lower()} {span.name}{took}{ended}{linked}")
        assert span.context is not None
        children = [one for one in spans if one.parent is not None and one.parent.span_id == span.context.span_id]
        assert all(one.context and one.context.trace_id == span.context.trace_id for one in children)
        for child in sorted(children, key=order):
            draw(child, depth + 1)

    for span in sorted(spans, key=lambda one: one.start_time or 0):
        if span.parent is None:
            draw(span, 0)
    assert len(lines) == len(spans), "a span has a parent that is no span"
    return "\n".join(lines)


def of(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def trace_of(spans: InMemorySpanExporter, name: str = "checkout") -> int:
    [span] = of(spans, name)
    assert span.context is not None
    return span.context.trace_id


def pack(order: str) -> str:
    """A sync step, in a thread: what it does itself is below its span."""
    with trace.get_tracer("shop").start_as_current_span("pick"):
        return order


async def test_a_family_is_a_tree_and_a_month_of_sleep_begins_a_new_trace(
    kit: Kit, spans: InMemorySpanExporter
) -> None:
    app = Durasleep()

    @app.task
    async def charge(amount: int) -> int:
        return amount

    @app.workflow
    async def remind(ctx: Context) -> None:
        await ctx.sleep(60)
        await ctx.send(ctx.info.root_id, "reminded", True)

    @app.workflow
    async def order(ctx: Context) -> str:
        await ctx.run(pack, "order-42")
        await ctx.rpc(charge, 42)
        await ctx.rpc(remind)
        await ctx.receive("reminded")
        await ctx.sleep(timedelta(days=30), name="before the review")
        await ctx.run(pack, "a review")
        return "done"

    with trace.get_tracer("shop").start_as_current_span("checkout"):
        async with kit(app) as env:
            handle = await env.start(order, id="order-42")
            await env.skip(days=31)
            assert await handle == "done"
    assert drawn(spans.get_finished_spans()).splitlines() == [
        "internal checkout",
        "  producer rpc order",
        "    consumer run order",
        "      internal step pack",
        "        internal pick",
        "      producer rpc charge",
        "        internal execution charge: resolved",
        "        consumer run charge: resolved",
        "    consumer run order",
        "      producer rpc remind",
        "        internal execution remind (1 min): resolved",
        "        consumer run remind",
        "        internal sleep (1 min)",
        "        consumer run remind: resolved",
        "          producer send reminded",
        "    internal receive",
        "    consumer run order",
        "consumer run order: resolved <- rpc order",
        "  internal execution order (30 d): resolved <- rpc order",
        "  internal sleep (30 d)",
        "  internal step pack",
        "    internal pick",
    ]
    sleep = next(span for span in of(spans, "sleep") if span.parent and span.parent.trace_id != trace_of(spans))
    assert dict(sleep.attributes or {})["durasleep.name"] == "before the review"


async def test_a_replay_adds_no_span_and_its_code_sees_the_same_trace(
    real_server: Server, namespace: str, spans: InMemorySpanExporter
) -> None:
    """Each ``await`` replays the code from its journal; and so does the last activation, in another trace."""
    app = Durasleep(
        real_server.url, namespace=namespace, settings=Settings(always_suspend=True, trace_gap=timedelta(0))
    )
    seen: list[trace.SpanContext] = []

    @app.workflow
    async def looking(ctx: Context) -> None:
        seen.append(trace.get_current_span().get_span_context())
        for name in ("a", "b"):
            await ctx.run(pack, name)
            await ctx.sleep(0.01)
        seen.append(trace.get_current_span().get_span_context())

    async with app.serving(), app:
        await (await app.start(looking)).result(10)
    names = [span.name for span in spans.get_finished_spans()]
    assert (names.count("step pack"), names.count("pick"), names.count("sleep")) == (2, 2, 2)
    assert names.count("execution looking") == 1
    [call] = of(spans, "rpc looking")
    assert call.context is not None
    assert len(seen) > 4
    assert {(one.trace_id, one.span_id) for one in seen} == {(call.context.trace_id, call.context.span_id)}
    last = of(spans, "run looking")[-1]
    assert last.context is not None
    assert last.context.trace_id != call.context.trace_id
    assert [link.context.trace_id != call.context.trace_id for link in last.links] == [True], "linked to the last one"


async def test_errors_and_attempts_are_on_their_spans(kit: Kit, spans: InMemorySpanExporter) -> None:
    app = Durasleep()

    @app.task(retry=Retry(attempts=2, delay=0.01))
    async def charge() -> None:
        raise LookupError("no such card")

    async with kit(app) as env:
        handle = await env.start(charge, id="order-42")
        with pytest.raises(LookupError):
            await handle
    first, second = of(spans, "run charge")
    assert first.attributes is not None
    assert second.attributes is not None
    assert (first.attributes["durasleep.attempt"], second.attributes["durasleep.attempt"]) == (1, 2)
    for span in (first, second, *of(spans, "execution charge")):
        assert span.attributes is not None
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == "LookupError: no such card"
        assert span.attributes["error.type"] == "LookupError"
        assert span.attributes["messaging.message.id"] == "order-42"
        assert span.attributes["messaging.system"] == "durasleep"
        assert [event.name for event in span.events] == ["exception"]
    assert second.attributes["messaging.destination.name"] == "workers"
    assert second.attributes["durasleep.outcome"] == "rejected"
    assert second.attributes["durasleep.function"] == "charge"


async def test_what_is_sampled_out_has_no_span_anywhere_below(kit: Kit, spans: InMemorySpanExporter) -> None:
    app = Durasleep()
    asked: list[Any] = []

    @app.task
    async def child() -> None:
        asked.append(trace.get_current_span().get_span_context())

    async def step() -> None:
        asked.append(trace.get_current_span().get_span_context())
        SAMPLER.is_on = True  # those below must not ask again

    @app.workflow
    async def parent(ctx: Context) -> None:
        await ctx.run(step)
        await ctx.rpc(child)
        await ctx.sleep(60)

    SAMPLER.is_on = False
    async with kit(app) as env:
        handle = await env.start(parent)
        await env.skip(61)
        await handle
    assert spans.get_finished_spans() == ()
    assert len({one.trace_id for one in asked}) == 1
    assert not any(one.trace_flags.sampled for one in asked)


async def test_an_execution_that_no_trace_has_asked_for_begins_one(kit: Kit, spans: InMemorySpanExporter) -> None:
    app = Durasleep()
    seen: list[int] = []

    @app.workflow
    async def nightly(ctx: Context) -> None:
        seen.append(trace.get_current_span().get_span_context().trace_id)
        await ctx.sleep(60)
        await ctx.run(len, "abc")
        seen.append(trace.get_current_span().get_span_context().trace_id)

    async with kit(app) as env:
        await app.schedules.put("nightly", nightly, every="1d")
        await app.schedules.trigger("nightly")
        await env.skip(61)
        await env.run_until_idle()
        await app.schedules.delete("nightly")
    assert drawn(spans.get_finished_spans()).splitlines() == [
        "consumer run nightly",
        "  internal execution nightly (1 min): resolved",
        "  internal sleep (1 min)",
        "  consumer run nightly: resolved",
        "    internal step len",
    ]
    [first, *_] = of(spans, "run nightly")
    assert first.context is not None
    assert set(seen) == {first.context.trace_id}


async def test_log_lines_name_the_trace(
    kit: Kit, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of users in workflows, steps and threads, and ours; after a gap, the trace that has begun."""
    log, ids = logging.getLogger("shop"), ExecutionIds()
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(ids)
    app = Durasleep()

    def step() -> None:
        log.info("step")

    @app.workflow
    async def order(ctx: Context) -> None:
        log.info("begins")
        await ctx.run(step)
        await ctx.sleep(timedelta(days=1))
        log.info("goes on")
        await ctx.run(step)

    async with kit(app) as env:
        handle = await env.start(order, id="order-42")
        await env.skip(days=1)
        await handle
    caplog.handler.removeFilter(ids)
    first, second = [f"{span.context.trace_id:032x}" for span in of(spans, "run order") if span.context]
    said = [(record.getMessage(), vars(record)["trace"]) for record in caplog.records if record.name == "shop"]
    assert said == [("begins", first), ("step", first), ("goes on", second), ("step", second)]
    ours = [record for record in caplog.records if record.getMessage().startswith("order-42 ")]
    assert [vars(record)["trace"] for record in ours] == [first, second]
    assert {vars(record)["function"] for record in ours} == {"order"}


async def test_many_calls_together_share_one_span(kit: Kit, spans: InMemorySpanExporter) -> None:
    app = Durasleep()

    @app.task
    async def half(number: int) -> int:
        return number // 2

    @app.workflow
    async def whole(ctx: Context) -> int:
        return sum(await asyncio.gather(*[ctx.rpc(half, number) for number in range(100)]))

    async with kit(app) as env:
        assert await env.run(whole) == sum(number // 2 for number in range(100))
        await asyncio.gather(*await app.rpc_many(half, [(f"h-{number}", number) for number in range(10)]))
    inner, outer = [dict(span.attributes or {}) for span in of(spans, "rpc half")]
    assert inner["messaging.batch.message_count"] == 100
    assert outer["messaging.batch.message_count"] == 10
    assert len(of(spans, "run half")) == 110


def test_all_works_where_opentelemetry_is_not_installed() -> None:
    code = """
import asyncio, sys
sys.modules["opentelemetry"] = None
import durasleep, durasleep.testing
app = durasleep.Durasleep()
@app.task
async def one(): return 1
@app.workflow
async def two(ctx): return await ctx.rpc(one) + await ctx.run(one)
async def main():
    async with durasleep.testing.env(app) as env:
        assert await env.run(two) == 2
asyncio.run(main())
assert "opentelemetry.trace" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
