"""What workers count, exactly; and what they do not count, because nobody asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from durasleep import Canceled, Context, Durasleep, Retry, StoreUnavailable, TimedOut
from durasleep.observe.meter import NAMES_MAX, OTHER, Histogram, Meter
from durasleep.observe.metrics import register
from durasleep.protocol import script
from durasleep.transport.connection import Link
from tests.service.fixtures import NewApp
from tests.service.functions import QUICK, double, failing, nap, note, passage, sleeping_workflow
from tests.service.workers import PATIENCE_S, Effects, Workers, eventually, serving, until

NAMES = {
    *("durasleep_executions_started", "durasleep_executions_ended", "durasleep_timer_lateness_seconds"),
    *("durasleep_activation_seconds", "durasleep_step_seconds", "durasleep_slots", "durasleep_loop_lag_seconds"),
    *("durasleep_takeovers", "durasleep_fenced", "durasleep_step_retries", "durasleep_script_seconds"),
}


def of(registry: CollectorRegistry, name: str, *labels: str) -> Counter[Any]:
    """The samples of a name, by the values of these labels."""
    found: Counter[Any] = Counter()
    for family in registry.collect():
        for sample in family.samples:
            if sample.name == name:
                found[tuple(sample.labels[label] for label in labels)] += int(sample.value)
    return found


async def flaky(attempts: list[int]) -> str:
    return "unused"


async def test_each_start_and_end_counts_once_over_all_workers(new_app: NewApp, effects: Effects) -> None:
    registry, app = CollectorRegistry(), new_app(settings=QUICK)
    failures = iter([ValueError("first"), ValueError("second")])

    @app.task(retry=Retry(attempts=3, delay=0.01))
    async def fails_twice() -> str:
        if error := next(failures, None):
            raise error
        return "third"

    @app.workflow
    async def again(ctx: Context, left: int) -> str:
        if left:
            await ctx.run(double, left)
            ctx.continue_as_new(left - 1)
        return await ctx.run(fails_twice)

    async with serving(app, "w1", metrics=registry), serving(app, "w2", metrics=registry) as second:
        ends = [await app.rpc(f"n{number}", double, number) for number in range(30)]
        ends += [await app.rpc(f"naps{number}", nap, effects.path, 0.05) for number in range(5)]
        ends.append(await app.rpc("again", again, 3))
        for handle in ends:
            await handle.result(PATIENCE_S)
        with pytest.raises(ValueError, match=r"^no"):
            await (await app.rpc("fails", failing, "no")).result(PATIENCE_S)
        with pytest.raises(TimedOut):
            await (await app.rpc("late", sleeping_workflow, 60, timeout=0.1)).result(PATIENCE_S)
        canceled = await app.rpc("canceled", sleeping_workflow, 60)
        await until(app, "canceled", "suspended")
        await canceled.cancel()
        with pytest.raises(Canceled):
            await canceled.result(PATIENCE_S)
        unbegun = await app.rpc("unbegun", sleeping_workflow, 60, delay=60)
        await unbegun.cancel()
        with pytest.raises(Canceled):
            await unbegun.result(PATIENCE_S)
        dies = await app.rpc("dies", passage, effects.path)
        await effects.standing("gate")
        second.crash()
        effects.open("gate")
        assert await dies.result(PATIENCE_S) == "through gate"

        async def all_counted() -> bool:
            return sum(of(registry, "durasleep_executions_ended_total").values()) >= 40

        await eventually(all_counted, "all ends")
        assert of(registry, "durasleep_executions_ended_total", "function", "outcome") == {
            ("double", "resolved"): 30,
            ("nap", "resolved"): 5,
            ("again", "resolved"): 1,
            ("failing", "rejected"): 1,
            ("sleeping_workflow", "timedout"): 1,
            ("sleeping_workflow", "canceled"): 1,  # the other one never came to a worker
            ("passage", "resolved"): 1,
        }
        started = of(registry, "durasleep_executions_started_total", "function")
        assert started == {
            ("double",): 30,
            ("nap",): 5,
            ("again",): 1,
            ("failing",): 1,
            ("sleeping_workflow",): 2,
            ("passage",): 1,
        }
        assert of(registry, "durasleep_step_retries_total")[()] == 2
        steps = of(registry, "durasleep_step_seconds_count", "function")
        assert (steps["double",], steps["fails_twice",], steps["note",]) == (33, 3, 12)
        activations = of(registry, "durasleep_activation_seconds_count", "function")
        assert activations["double",] == 30
        assert activations["nap",] == 10, "until the sleep, and after it"
        assert of(registry, "durasleep_timer_lateness_seconds_count")[()] >= 1
        await eventually(lambda: of(registry, "durasleep_loop_lag_seconds_count")[()], "a pulse")
        assert {"commit", "create", "fire", "heartbeat"} - {
            name for (name,) in of(registry, "durasleep_script_seconds_count", "script")
        } == {"create"}, "a client makes them"
        assert of(registry, "durasleep_slots", "state")["free",] == 100, "those of the worker that lives"


async def test_an_end_whose_answer_was_lost_counts_all_the_same(
    app: Durasleep, effects: Effects, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, exchange, lost = CollectorRegistry(), Link.exchange, list[int]()

    async def lose_one(link: Link, commands: Sequence[Any], **options: Any) -> Any:
        replies = await exchange(link, commands, **options)
        if not lost and script.load("commit").sha in {command[1] for command in commands if len(command) > 1}:
            lost.append(1)
            raise StoreUnavailable("its answer was lost")
        return replies

    async with serving(app, metrics=registry):
        handle = await app.rpc("stands", note, effects.path, "once")
        monkeypatch.setattr(Link, "exchange", lose_one)
        await handle.result(PATIENCE_S)
        ended = partial(of, registry, "durasleep_executions_ended_total", "function", "outcome")
        await eventually(ended, "an end")
        assert lost
        assert ended() == {("note", "resolved"): 1}
        assert of(registry, "durasleep_fenced_total") == {(): 0}


async def test_a_lost_lease_counts_as_fenced_and_what_dies_as_taken_over(
    app: Durasleep, effects: Effects, workers: Workers, new_app: NewApp
) -> None:
    registry = CollectorRegistry()
    quick = new_app(settings=QUICK)
    async with serving(quick, "w1", metrics=registry):
        dying = await workers.begin("w2", app="quick_app").ready()
        handles = [
            await quick.rpc(f"n{number}", passage, effects.path, target="poll://uni@workers/w2") for number in range(3)
        ]
        await effects.standing("gate", times=3)
        await dying.kill()
        await eventually(lambda: of(registry, "durasleep_takeovers_total")[()] == 3, "all to be taken over")
        effects.open("gate")
        await workers.begin("w2", app="quick_app").ready()
        for handle in handles:
            await handle.result(PATIENCE_S)


async def test_nothing_is_counted_if_nobody_asked(app: Durasleep) -> None:
    async with serving(app) as worker:
        assert worker._telemetry.meter is None  # pyright: ignore[reportPrivateUsage]
        await (await app.rpc("one", double, 1)).result(PATIENCE_S)


def test_names_that_only_callers_know_cannot_make_any_number_of_series() -> None:
    meter = Meter()
    meter.know(["registered"])
    for number in range(NAMES_MAX + 50):
        meter.step(f"step {number}", 0.1)
        meter.end(f"function {number}", "resolved")
    meter.step("registered", 0.1)
    assert len(meter.steps) + len(meter.ended) == NAMES_MAX + 3, "with the registered one, and others of both kinds"
    assert sum(meter.steps[OTHER].counts) + meter.ended[OTHER, "resolved"] == NAMES_MAX + 100


def test_a_histogram_has_each_value_in_one_bucket() -> None:
    one = Histogram((0.1, 1))
    for value in (0.05, 0.1, 0.5, 7):
        one.observe(value)
    assert (one.counts, one.total) == ([2, 1, 1], pytest.approx(7.65))


def test_the_names_are_those_of_the_page() -> None:
    registry = CollectorRegistry()
    register(registry, Meter())
    assert {family.name for family in registry.collect()} == NAMES
