"""``durasleep worker --processes``: one command, several workers, which live and die with it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import redis

from durasleep.app import EXIT_RESTART
from durasleep.protocol.keys import meta_key
from harness.servers import MakeServer
from tests.cli.conftest import NewProject, Quick
from tests.cli.terminal import Terminal, wait_for

APP = """
import asyncio, os
from durasleep import Durasleep
app = Durasleep()

@app.task
def where() -> int:
    return os.getpid()

@app.task
async def long() -> str:
    await asyncio.sleep(3)
    return "done"
"""


@pytest.fixture
def here(new_project: NewProject) -> Terminal:
    return new_project(computing=APP)


@pytest.fixture
def parent(here: Terminal) -> Iterator[subprocess.Popen[bytes]]:
    command = ("worker", "computing", "--name", "w", "--processes", "2")
    with here.running(*command, until="is ready") as process:
        wait_for(lambda: len(children_of(process)) == 2, "both workers")
        yield process


def children_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


def test_one_that_is_killed_is_started_again_and_all_leave_together(
    here: Terminal, quick: Quick, parent: subprocess.Popen[bytes]
) -> None:
    first, second = children_of(parent)
    pid = int(quick(here, "rpc", "a", "where").out)
    assert pid in (first.pid, second.pid)
    first.kill()
    wait_for(lambda: first.pid not in [child.pid for child in children_of(parent)], "the end of it")
    wait_for(lambda: len(children_of(parent)) == 2, "another one")
    replaced = children_of(parent)
    assert second in replaced
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(30) == 0
    assert not any(child.is_running() for child in replaced)


def test_a_signal_to_the_command_and_to_each_of_its_processes_lets_what_runs_finish(
    here: Terminal, quick: Quick, parent: subprocess.Popen[bytes]
) -> None:
    ids = [f"long-{number}" for number in range(4)]
    for id in ids:
        assert quick(here, "rpc", id, "long", "--no-wait").code == 0
    wait_for(lambda: all(describe(quick, here, id)["status"] != "queued" for id in ids), "all to run")
    for process in (psutil.Process(parent.pid), *children_of(parent)):  # as systemd does it
        process.send_signal(signal.SIGTERM)
    assert parent.wait(30) == 0
    assert [describe(quick, here, id)["state"] for id in ids] == ["resolved"] * 4


def describe(quick: Quick, here: Terminal, id: str) -> dict[str, Any]:
    return dict(json.loads(quick(here, "get", id, "--json").out))


def test_they_leave_when_the_command_was_killed(parent: subprocess.Popen[bytes]) -> None:
    children = children_of(parent)
    parent.kill()
    _, left = psutil.wait_procs(children, timeout=30)
    assert left == []


def test_what_keeps_one_from_beginning_is_said_once_and_ends_the_command(here: Terminal) -> None:
    done = here.run("worker", "nowhere", "--processes", "2")
    assert done.code == 2
    assert done.err.count("there is no module 'nowhere'") == 1


def test_a_url_is_not_among_the_arguments_of_the_workers(here: Terminal, quick: Quick) -> None:
    """Everybody on the machine can read these, and a URL may hold a password."""
    url = here.environment["DURASLEEP_REDIS_URL"]
    command = ("worker", "computing", "--processes", "2", "--url", url)
    elsewhere = Terminal(here.directory, DURASLEEP_REDIS_URL="redis://127.0.0.1:1")
    with elsewhere.running(*command, until="is ready") as process:
        wait_for(lambda: len(children_of(process)) == 2, "both workers")
        assert not [child for child in children_of(process) if url in " ".join(child.cmdline())]
        assert int(quick(here, "rpc", "a", "where").out) in [child.pid for child in children_of(process)]


FORKING = """
import multiprocessing, os, signal, time
from durasleep import Durasleep
app = Durasleep()

@app.task
def fork_and_end() -> int:
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(pid, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def square(number: int) -> int:
    return number * number

@app.task
def in_a_pool() -> int:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return sum(pool.map(square, range(10)))

@app.task
def where() -> int:
    return os.getpid()
"""


def test_the_signals_of_a_child_that_a_task_forks_are_its_own(here: Terminal, quick: Quick) -> None:
    """A pool ends its children with SIGTERM: the worker must not take it for its own, and leave."""
    (here.directory / "forking.py").write_text(FORKING)
    with here.running("worker", "forking", until="is ready") as process:
        pid = int(quick(here, "rpc", "where-1", "where").out)
        for number in range(3):
            assert int(quick(here, "rpc", f"fork-{number}", "fork_and_end").out) == -signal.SIGTERM
            assert int(quick(here, "rpc", f"pool-{number}", "in_a_pool").out) == 285
        assert int(quick(here, "rpc", "where-2", "where").out) == pid
        assert process.poll() is None


STUBBORN = """
import asyncio, time
from durasleep import Durasleep
app = Durasleep()

@app.lifespan
async def resources():
    yield
    if HANGS:
        await asyncio.Event().wait()

@app.task
async def in_a_thread() -> None:
    print("begun", flush=True)
    await asyncio.to_thread(time.sleep, 600)

@app.task
async def blocking() -> None:
    print("begun", flush=True)
    time.sleep(600)

@app.task
async def quick() -> None:
    print("begun", flush=True)
"""


@pytest.mark.parametrize(
    ("what", "hangs", "times"), [("in_a_thread", False, 2), ("blocking", False, 3), ("quick", True, 2)]
)
def test_whatever_holds_it_up_the_second_signal_ends_a_worker(
    here: Terminal, quick: Quick, what: str, hangs: bool, times: int
) -> None:
    """Threads that user code has begun; a blocked event loop, which reacts to the third signal; an endless lifespan."""
    (here.directory / "stubborn.py").write_text(STUBBORN.replace("HANGS", str(hangs)))
    with here.running("worker", "stubborn", until="is ready") as process:
        quick(here, "rpc", "a", what, "--no-wait")
        wait_for(
            lambda: '"running"' in (shown := quick(here, "get", "a", "--json").out) or '"done"' in shown, "its begin"
        )
        for _ in range(times):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)  # two signals at once are one for Python
        assert process.wait(20) in (0, 1)


USED_UP = """
import os, time
from durasleep import Durasleep, Settings
app = Durasleep(settings=Settings(threads_lost_s=0.3))

@app.task(timeout=0.2)
def for_ever() -> None:
    time.sleep(600)

@app.task
def where() -> int:
    return os.getpid()
"""


def test_a_worker_that_has_lost_all_its_threads_asks_for_a_new_start(here: Terminal, quick: Quick) -> None:
    (here.directory / "used_up.py").write_text(USED_UP)
    with here.running("worker", "used_up", "--concurrency", "1", until="is ready") as process:
        assert quick(here, "rpc", "lost", "for_ever").code == 1
        assert process.wait(20) == EXIT_RESTART


def test_one_that_asks_for_a_new_start_gets_it(here: Terminal, quick: Quick) -> None:
    (here.directory / "used_up.py").write_text(USED_UP)
    command = ("worker", "used_up", "--concurrency", "1", "--processes", "2")
    with here.running(*command, until="is ready") as process:
        wait_for(lambda: len(children_of(process)) == 2, "both workers")
        before = {child.pid for child in children_of(process)}
        assert quick(here, "rpc", "lost", "for_ever").code == 1
        wait_for(lambda: len(before & {child.pid for child in children_of(process)}) == 1, "the end of one")
        wait_for(lambda: len(children_of(process)) == 2, "another one")
        assert int(quick(here, "rpc", "where", "where").out) in {child.pid for child in children_of(process)}
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


OUTLIVING = """
import sys, threading, time
from durasleep import Durasleep, DurasleepError, Settings
from durasleep.app import CLEAN_UP_S, run_worker

threading.Thread(target=sys.stdin.read).start()
app = Durasleep(sys.argv[1], settings=Settings(grace_s=0.1))
try:
    run_worker(app.worker())
except DurasleepError as error:
    print(type(error).__name__)
time.sleep(2 * CLEAN_UP_S)  # of its own, which is none of the worker's
print("still here")
"""


def test_a_program_goes_on_whose_worker_could_not_serve(here: Terminal, make_server: MakeServer) -> None:
    """It does not count as a process that does not end: the time for threads begins when its main thread has ended."""
    server = make_server(persist=False)
    with redis.Redis.from_url(server.url) as client:
        client.hset(meta_key("durasleep"), mapping={"schema": "99", "partitions": "1"})
    (here.directory / "outliving.py").write_text(OUTLIVING)
    with subprocess.Popen(
        [sys.executable, "outliving.py", server.url],
        cwd=here.directory,
        env=here.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.wait(20) == 1
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read() == "SchemaMismatch\nstill here\n"
        assert "of user code: the thread" in process.stderr.read()
