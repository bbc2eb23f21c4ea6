"""A worker's log and remote tracebacks for people: the execution, how long it lived, the error, and its position."""

from __future__ import annotations

import asyncio
import logging
import logging.config
import re
import socket
import threading
import traceback
from datetime import timedelta

import pytest

from durasleep import Context, Durasleep, Retry
from durasleep.worker.worker import default_name
from tests.service.functions import double
from tests.service.workers import eventually, serving


async def ending_of(caplog: pytest.LogCaptureFixture, id: str) -> str:
    """The line that says how it ended."""
    begins = (f"{id} resolved", f"{id} rejected")
    said = await eventually(lambda: [line for line in caplog.messages if line.startswith(begins)], f"the end of {id}")
    [line] = said
    return line


def boom(what: str) -> None:
    raise ValueError(f"no {what}")


def boom_task(what: str) -> None:
    boom(what)


async def test_a_line_says_how_long_an_execution_has_lived(app: Durasleep, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def sleeper(ctx: Context) -> None:
        await ctx.sleep(1.1)

    async def failing_late(ctx: Context) -> None:
        await ctx.sleep(1.1)
        boom("luck")

    async def canceled_late(ctx: Context) -> None:
        await ctx.sleep(1.1)
        raise asyncio.CancelledError

    for fn in (sleeper, failing_late, canceled_late):
        app.workflow(fn)
    async with serving(app):
        handles = [
            await app.rpc("asleep", sleeper),
            await app.rpc("failed", failing_late),
            await app.rpc("canceled", canceled_late),
            await app.rpc("delayed", double, 1, delay=timedelta(seconds=1.1)),
        ]
        await app.gather(handles, return_exceptions=True)
        for id in ("asleep", "failed", "canceled", "delayed"):
            assert re.search(r"(resolved|rejected) after (1\.[1-9]|[2-9].*) s", await ending_of(caplog, id))


async def test_every_line_of_a_failure_names_its_execution_and_its_error(
    app: Durasleep, caplog: pytest.LogCaptureFixture
) -> None:
    async def workflow(ctx: Context) -> None:
        await ctx.run(boom, "step")

    app.task(boom_task)
    app.task(name="twice", retry=Retry(attempts=2, delay=0.01))(lambda: boom("second chance"))
    app.workflow(workflow)
    async with serving(app):
        handles = [await app.rpc("wf", workflow), await app.rpc("t", "boom_task", "task"), await app.rpc("r", "twice")]
        await app.gather(handles, return_exceptions=True)
        for id, error in (("wf", "no step"), ("t", "no task"), ("r", "no second chance")):
            assert re.fullmatch(rf"{id} rejected after .*: ValueError: {error}", await ending_of(caplog, id))
    assert "step 1 (boom) of wf failed: ValueError: no step" in caplog.messages
    assert "r: attempt 1 of 2 failed: ValueError: no second chance" in caplog.text


async def test_lines_of_a_workflow_name_it_whatever_its_id(app: Durasleep, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    @app.workflow
    async def talking(ctx: Context) -> None:
        ctx.logger.info("plainly 100%")
        ctx.logger.info("with %s", "arguments")
        ctx.logger.info("with %(names)s", {"names": "names"})

    async with serving(app):
        await (await app.rpc("50%s of it", talking))
    said = [record.getMessage() for record in caplog.records if record.name == "durasleep.workflow"]
    assert said == [f"50%s of it: {text}" for text in ("plainly 100%", "with arguments", "with names")]
    assert {record.funcName for record in caplog.records if record.name == "durasleep.workflow"} == {"talking"}


async def test_an_application_that_sets_up_its_log_late_hears_of_its_worker(
    app: Durasleep, caplog: pytest.LogCaptureFixture
) -> None:
    logging.config.dictConfig({"version": 1})  # this disables every logger that exists
    logging.getLogger("durasleep").disabled = True
    caplog.set_level(logging.INFO, "durasleep")
    async with serving(app, "w1"):
        pass
    assert "worker w1 of group workers is ready" in caplog.text


# -- tracebacks


async def test_a_remote_traceback_shows_the_code_of_users_and_counts_ours(app: Durasleep) -> None:
    async def async_boom(what: str) -> None:
        await asyncio.sleep(0)
        boom(what)

    async def workflow(ctx: Context, how: str) -> None:
        match how:
            case "step":
                await ctx.run(boom, "step")
            case "async step":
                await ctx.run(async_boom, "async step")
            case "group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(async_boom("group"))
            case "misuse":
                await ctx.sleep(-1)
            case _:
                boom("workflow")

    def task(what: str) -> None:
        boom(what)

    app.task(name="task")(task)
    app.task(name="async task")(async_boom)
    app.workflow(workflow)
    async with serving(app):
        calls = [("task", "task"), ("async task", "task")]
        calls += [("workflow", how) for how in ("", "step", "async step", "group", "misuse")]
        for index, (function, argument) in enumerate(calls):
            with pytest.raises(Exception) as failed:  # noqa: PT011 - each kind of them
                await (await app.rpc(f"f{index}", function, argument))
            shown = "".join(traceback.format_exception(failed.value)).rpartition("it was raised there:\n")[2]
            frames = re.findall(r'File "(.*?)"', shown.partition("frames of durasleep")[0])
            assert frames, shown
            assert set(frames) == {__file__}, shown
            assert argument == "group" or re.search(r"\n  \(\d+ frames? of durasleep left out\)", shown), shown


async def test_what_was_raised_by_durasleep_itself_shows_no_frames_of_it(app: Durasleep) -> None:
    over = threading.Event()

    def late() -> None:
        over.wait(60)

    async def late_workflow(ctx: Context) -> None:
        await ctx.run(late, timeout=0.2)

    app.task(timeout=0.2)(late)
    app.workflow(late_workflow)
    try:
        async with serving(app):
            for function in ("late", "late_workflow"):
                with pytest.raises(TimeoutError, match="took longer than") as failed:
                    await (await app.rpc(function, function))
                shown = "".join(traceback.format_exception(failed.value))
                there = [one.partition("left out)")[0] for one in shown.split("it was raised there:\n")[1:]]
                assert there, shown
                assert {*re.findall(r'File "(.*?)"', "".join(there))} <= {__file__}, shown
                assert all("of durasleep " in one for one in there), shown
            over.set()
    finally:
        over.set()


# -- names


@pytest.mark.parametrize("host", ["bücher", "日本語", "خادم", "a b/c{d}", "", "x" * 300, "ж" * 200, "bad\udcff"])
async def test_a_worker_runs_on_a_host_of_any_name(app: Durasleep, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    worker = app.worker()
    running = asyncio.create_task(worker.run())
    await asyncio.wait_for(worker.ready.wait(), 20)
    handle = await app.rpc("a", double, 1, target=f"poll://uni@workers/{worker.name}")
    assert await handle == 2
    worker.stop()
    await running


def test_hosts_of_other_alphabets_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    names: set[str] = set()
    for host in ("東京", "京都", "büro", "bäro", "bare"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        names.add(default_name())
    assert len(names) == 5
