"""``durasleep demo``: a worker is killed in the middle of a sleep, and the workflow finishes all the same."""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from durasleep.cli.output import console
from durasleep.errors import DurasleepError

if TYPE_CHECKING:
    from durasleep.app import Durasleep

ID = "sleep-workflow-1"
SHOWN_ID = "bill-42"
SLEEP_S = 5
_KILL_AFTER_S = 2.0
_START_LIMIT_S = 20.0
_RESULT_LIMIT_S = 30.0
_LOOK_S = 0.5  # how often it is checked that the worker lives
_PAUSE_S = 4.0  # without any worker, so that there is time to see that the sleep is still there
_EXIT_TOLD_TO_STOP = 128 + signal.SIGTERM
_LATE_MAX_MS = 1_000  # if it is later, the demo has failed


@contextlib.contextmanager
def _ended_by_signals() -> Generator[None]:
    """Ctrl-C and SIGTERM end the block: it has no other end."""

    def end(_number: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    with contextlib.suppress(KeyboardInterrupt):
        yield


def demo(
    ui: Annotated[
        bool, typer.Option("--ui", help="Show a sleep of thirty days in the dashboard, until Ctrl-C.")
    ] = False,
) -> int:
    """Kill a worker while its workflow sleeps, and show that the workflow finishes all the same.

    Exit code 0 only if it does. With --ui you see it in a browser, and you kill the worker and end the sleep yourself.
    """
    import asyncio

    from durasleep.devserver import DevServer

    if ui:
        from durasleep import dashboard

        dashboard.check_installed()
    console.log_to_stderr(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="durasleep-demo-") as directory, DevServer(Path(directory)) as server:
        console.event(f"a {server.binary.kind} server of its own is up at {server.url}")
        if ui:
            with _ended_by_signals():
                _show(server.url)
            return 0
        try:
            return asyncio.run(_notify(server.url))
        except asyncio.CancelledError:
            return _EXIT_TOLD_TO_STOP


def _show(url: str) -> None:
    """Keep a worker and the dashboard alive, and say what to try; it ends by an exception."""
    import asyncio

    from durasleep.app import Durasleep
    from durasleep.cli.commands import ui

    workers = _Workers(url)

    async def run(page: str) -> None:
        async with Durasleep(url) as client:
            await _show_of(client, workers, page)

    with ui.running(url, Durasleep(url).namespace) as page:
        try:
            asyncio.run(run(page))
        finally:
            workers.end()


async def _show_of(client: Durasleep, workers: _Workers, page: str) -> None:
    import asyncio

    from durasleep.sample import bill_after_a_month

    worker = workers.start()
    handle = await client.rpc(SHOWN_ID, bill_after_a_month, "the order")
    console.event(f'rpc("{SHOWN_ID}", bill_after_a_month, "the order")')
    console.event(f"see it sleep for thirty days: {page}executions/{SHOWN_ID}")
    console.event(f"worker {worker.pid} serves it; try kill -9 {worker.pid}, and then click Wake; Ctrl-C ends the demo")
    is_reported = False
    while True:
        await asyncio.sleep(_LOOK_S)
        if worker.poll() is not None:
            console.event(f"worker {worker.pid} is gone, and the sleep goes on; another one starts in {_PAUSE_S:.0f} s")
            await asyncio.sleep(_PAUSE_S)
            worker = workers.start()
            console.event(f"worker {worker.pid} starts, and knows nothing of the first")
        if not is_reported and await handle.done():
            is_reported = True
            result = (await asyncio.gather(handle.result(), return_exceptions=True))[0]
            console.event(f"{SHOWN_ID} has ended: {result!r}")


def _show_prints(process: subprocess.Popen[str]) -> None:
    """Show what its workflows print among the lines of the demo."""
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            console.event(line.rstrip())


class _Workers:
    """Worker processes, which end with the demo."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._processes: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "durasleep", "worker", "durasleep.sample", "--url", self._url]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        threading.Thread(target=_show_prints, args=(process,), daemon=True).start()
        self._processes.append(process)
        return process

    def end(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _notify(url: str) -> int:
    import asyncio

    from durasleep.app import Durasleep

    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):  # where there are no such signals
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    workers = _Workers(url)
    try:
        async with Durasleep(url) as client:
            return await _notify_of(client, workers)
    finally:
        workers.end()


async def _notify_of(client: Durasleep, workers: _Workers) -> int:
    import asyncio

    from durasleep.humanize import describe_ms, describe_until
    from durasleep.sample import sleeping_workflow

    first = workers.start()
    console.event(f"worker {first.pid} starts")
    handle = await client.rpc(ID, sleeping_workflow, SLEEP_S)
    console.event(f'rpc("{ID}", sleeping_workflow, {SLEEP_S})')
    due_ms = await _until_asleep(client)
    console.event(
        f"{ID} sleeps {describe_until(due_ms, due_ms - SLEEP_S * 1000)}: "
        f"a timer in Redis, and nothing at all in worker {first.pid}"
    )
    await asyncio.sleep(_KILL_AFTER_S)
    first.kill()
    first.wait()
    console.event(f"kill -9 {first.pid}: no worker is left, in the middle of the sleep")
    second = workers.start()
    console.event(f"worker {second.pid} starts, and knows nothing of the first")
    result = await handle.result(_RESULT_LIMIT_S)
    late_ms = ((await client.describe(ID)).settled_at_ms or 0) - due_ms
    console.event(f"{ID} resolved: {result!r}, {describe_ms(late_ms)} after its timer was due")
    return 0 if _went_so(result, late_ms, first, second) else 1


async def _until_asleep(client: Durasleep) -> int:
    """When the sleep is due; returns once the sleep has begun."""
    import asyncio

    try:
        async with asyncio.timeout(_START_LIMIT_S):
            while True:
                description = await client.describe(ID)
                if description.status == "suspended" and description.waiting_on and description.waiting_on[0].due_ms:
                    return description.waiting_on[0].due_ms
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise DurasleepError(f"the worker did not begin within {_START_LIMIT_S:.0f} s: the demo has failed") from None


def _went_so(result: str, late_ms: int, first: subprocess.Popen[str], second: subprocess.Popen[str]) -> bool:
    """Whether the demo went well: right result, not early, not late, one worker killed, the other alive."""
    problems = [
        text
        for is_wrong, text in (
            (result != f"Slept for {SLEEP_S} seconds", f"the result is {result!r}"),
            (late_ms < 0, f"it woke {-late_ms} ms early"),
            (late_ms > _LATE_MAX_MS, f"it woke {late_ms} ms late"),
            (first.returncode != -signal.SIGKILL, "the first worker was not killed"),
            (second.poll() is not None, "the second worker has ended"),
        )
        if is_wrong
    ]
    for problem in problems:
        console.error(problem)
    return not problems
