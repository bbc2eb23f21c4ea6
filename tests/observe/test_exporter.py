"""What is answered about a whole namespace: its gauges, and how much work a group has."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from durasleep import Durasleep, Limit
from durasleep.cli.app import main
from durasleep.devserver import DevServer
from durasleep.observe import namespace as module
from durasleep.observe.namespace import Exporter
from durasleep.observe.telemetry import NO_METRICS
from durasleep.query import ping as ping_query
from durasleep.query.due_soon import DueSoon
from durasleep.query.overview import Overview
from harness.servers import Server
from tests.cli.terminal import Terminal
from tests.observe.asking import answer, answered
from tests.service.fixtures import NewApp
from tests.service.functions import QUICK, double, passage, sleeping_workflow
from tests.service.workers import Effects, eventually, serving, until

GAUGES = {
    *("durasleep_queued", "durasleep_running", "durasleep_oldest_queued_seconds", "durasleep_sleepers"),
    *("durasleep_overdue_seconds", "durasleep_halted", "durasleep_put_aside", "durasleep_parked"),
    *("durasleep_limit_in_use", "durasleep_workers", "durasleep_clock_held"),
}


def exporter_of(app: Durasleep) -> Exporter:
    return Exporter(app.overview, app.due_soon)


async def work_of(app: Durasleep, group: str) -> dict[str, Any]:
    found = await exporter_of(app).answer(f"/scale/{group}")
    assert (found.status, found.content_type) == (200, "application/json")
    return json.loads(found.body)


def values(text: str) -> dict[tuple[str, ...], float]:
    """The samples of a text, by name and labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("partitions", [1, 4])
async def test_work_that_sleeps_is_counted_for_its_group_when_no_worker_lives(new_app: NewApp, partitions: int) -> None:
    app, other = new_app(settings=QUICK), new_app(settings=QUICK, group="other")
    await app.init(partitions=partitions)
    async with serving(app):
        for number in range(9):
            await app.rpc(f"soon{number}", sleeping_workflow, 20)
        await app.rpc("later", sleeping_workflow, 3600)
        await app.rpc("with a deadline", sleeping_workflow, 3600, timeout=20)
        for id in ("soon8", "later", "with a deadline"):
            await until(app, id, "suspended")
    for number in range(5):
        await other.rpc(f"other{number}", double, number, delay=15)
    await other.rpc("queued there", double, 1)
    await app.schedules.put("soon", sleeping_workflow, args=[1], every="20s")
    await app.schedules.put("paused", sleeping_workflow, args=[1], every="20s")
    await app.schedules.pause("paused")
    assert (await app.overview()).workers == []
    assert await work_of(app, "workers") == {"group": "workers", "queued": 0, "running": 0, "due": 10, "value": 10}
    assert await work_of(app, "other") == {"group": "other", "queued": 1, "running": 0, "due": 5, "value": 6}
    assert await work_of(app, "nobody") == {"group": "nobody", "queued": 0, "running": 0, "due": 0, "value": 0}
    assert (await exporter_of(app).answer("/scale/no name")).status == 404


async def test_what_is_overdue_counts_and_what_runs_counts_once(app: Durasleep, effects: Effects) -> None:
    async with serving(app):
        await app.rpc("sleeps", sleeping_workflow, 0.4)
        await until(app, "sleeps", "suspended")

    async def is_overdue() -> bool:
        return (await app.overview()).overdue_s > 0

    await eventually(is_overdue, "the sleeper to be due")
    assert await work_of(app, "workers") == {"group": "workers", "queued": 0, "running": 0, "due": 1, "value": 1}
    async with serving(app):
        await until(app, "sleeps", "done")
        await app.rpc("runs", passage, effects.path, timeout=20)
        await effects.standing("gate")
        assert await work_of(app, "workers") == {"group": "workers", "queued": 0, "running": 1, "due": 0, "value": 1}
        effects.open("gate")
        await until(app, "runs", "done")


def test_of_more_timers_than_are_looked_at_a_group_has_its_share() -> None:
    assert DueSoon({"workers": 10}, 10).of("workers", 10) == 10
    assert DueSoon({"workers": 500}, 2_000).of("workers", 9_001) == 2_251
    assert DueSoon({"workers": 500}, 2_000).of("nobody", 9_001) == 1, "it may be among the others"
    assert DueSoon({"workers": 500}, 2_000).of("nobody", 2_000) == 0
    assert DueSoon({}, 0).of("workers", 0) == 0


async def test_the_gauges_are_those_of_the_overview(app: Durasleep, effects: Effects) -> None:
    one_at_a_time = Limit("one", total=1)

    @app.task(limit=one_at_a_time)
    async def limited(path: str) -> None:
        await effects_stand(path)

    async with serving(app):
        handles = [await app.rpc(f"limited{number}", limited, effects.path) for number in range(3)]
        await effects.standing("gate")
        await app.rpc("halted", sleeping_workflow, 3600)
        await until(app, "halted", "suspended")
        await app.halt("halted")
        await app.options(priority=2).rpc("asleep", sleeping_workflow, 3600)
        await until(app, "asleep", "suspended")
        found = await exporter_of(app).answer("/metrics")
        assert found.status == 200
        seen = values(found.body.decode())
        assert {name for name, *_ in seen} == GAUGES
        assert seen["durasleep_running", "workers", "3"] == 1
        assert seen["durasleep_workers", "workers"] == 1
        assert (seen["durasleep_parked", "one"], seen["durasleep_limit_in_use", "one"]) == (2, 1)
        assert (seen["durasleep_sleepers",], seen["durasleep_halted",], seen["durasleep_clock_held",]) == (2, 1, 0)
        effects.open("gate")
        for handle in handles:
            await handle.result(20)


async def effects_stand(path: str) -> None:
    from tests.service.functions import stand_at

    await stand_at(path, "gate")


async def test_many_who_ask_at_once_are_one_question_and_a_silent_redis_is_one_sentence(
    app: Durasleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    asked, is_silent = list[int](), asyncio.Event()

    async def overview() -> Overview:
        asked.append(1)
        if is_silent.is_set():
            await asyncio.Event().wait()
        return await app.overview()

    exporter = Exporter(overview, app.due_soon)
    answers = await asyncio.gather(*[exporter.answer("/metrics") for _ in range(50)])
    assert {one.status for one in answers} == {200}
    assert len(asked) == 1
    monkeypatch.setattr(module, "KEPT_S", 0.0)
    is_silent.set()
    found = await exporter.answer("/readyz")
    assert (found.status, found.body) == (503, b"Redis has not answered for 0.1 s\n")


@pytest.fixture
def here(own_server: DevServer, tmp_path: Path) -> Terminal:
    return Terminal(tmp_path, DURASLEEP_REDIS_URL=own_server.url)


async def test_the_command_answers_and_outlives_redis(here: Terminal, own_server: DevServer, tmp_path: Path) -> None:
    log = tmp_path / "exporter.log"
    with here.running("exporter", "--listen", "127.0.0.1:0", until="metrics of namespace", keep=log) as process:
        url = log.read_text().partition(" at ")[2].partition("/metrics")[0]
        assert (await answer(url, "/scale/workers"))[0] == 200
        assert "durasleep_sleepers 0.0" in (await answer(url, "/metrics"))[1]
        assert (await answer(url, "/"))[0] == 404
        own_server.kill()
        await answered(url, "/readyz", 503)
        await answered(url, "/metrics", 503)
        assert (await answer(url, "/livez"))[0] == 200
        own_server.start()
        await answered(url, "/readyz", 200)
        assert (await answer(url, "/scale/workers"))[0] == 200
        process.terminate()
        assert await asyncio.to_thread(process.wait, 20) == 0
    assert "Traceback" not in log.read_text()
    assert log.read_text().count("the exporter answers 503 until Redis serves it: ") == 1
    assert log.read_text().count("Redis serves the exporter again") == 1


async def test_ping_says_whether_a_worker_is_alive(
    app: Durasleep,
    one_server: Server,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DURASLEEP_REDIS_URL", one_server.url)
    monkeypatch.setenv("DURASLEEP_NAMESPACE", namespace)

    async def ping(*options: str) -> int | str | None:
        monkeypatch.setattr(sys, "argv", ["durasleep", "ping", "w1", *options])
        with pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(main)
        return ended.value.code

    async with serving(app):
        assert await ping("--json") == 0
        assert json.loads(capsys.readouterr().out)["alive"] is True
    assert await ping() == 1
    assert capsys.readouterr().err == "error: there is no worker w1\n"


async def test_a_worker_without_heartbeats_is_not_fresh(app: Durasleep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ping_query, "FRESH_S", 0.1)
    monkeypatch.setattr(ping_query, "BEATS_MAX", 1.3)
    async with serving(app) as worker:
        found = await app.last_heartbeat("w1")
        assert found is not None
        assert found.is_fresh
        worker.crash()

    async def is_old() -> bool:
        seen = await app.last_heartbeat("w1")
        return seen is not None and not seen.is_fresh

    await eventually(is_old, "its last heartbeat to be old")


def test_without_prometheus_client_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setattr(sys, "argv", ["durasleep", "exporter"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: metrics need prometheus-client: pip install 'durasleep[metrics]'\n"


async def test_a_worker_without_prometheus_client_still_tells_its_health(
    app: Durasleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    async with serving(app, health="127.0.0.1:0") as worker:
        assert worker.health_url is not None
        assert await answer(worker.health_url, "/readyz") == (200, "ok\n")
        assert await answer(worker.health_url, "/metrics") == (501, f"{NO_METRICS}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["exporter", "--listen", "nonsense"], "'nonsense' is no address to listen on"),
        (["exporter", "--listen", "192.0.2.1:80"], "cannot listen on 192.0.2.1:80: Cannot assign requested address\n"),
        (["ping", "a name"], "worker name 'a name': use 1 to 64 letters"),
        (["worker", "--fire-only", "--group", "g"], "does not serve 'g'"),
        (["worker", "examples.durable_sleep:app", "--namespace", "n"], "--namespace goes with --fire-only"),
        (["worker", "examples.durable_sleep:app", "--fire-only", "--namespace", "n"], "leave one of them out"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["durasleep", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    lines = [line for line in capsys.readouterr().err.splitlines(keepends=True) if line.startswith("error: ")]
    assert (ended.value.code, len(lines)) == (2, 1)
    assert said in lines[0]
