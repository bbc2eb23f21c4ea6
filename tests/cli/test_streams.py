"""Commands whose stdin, stdout or stderr is closed or has no reader any more: they still do their work."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.cli.conftest import NewProject, Quick
from tests.cli.terminal import COMMAND, PATIENCE_S, Terminal, wait_for

APP = """
import sys
from durasleep import Context, Durasleep

app = Durasleep()

@app.workflow
async def greet(ctx: Context, name: str) -> str:
    print(f"greeting {name}")
    print(f"greeting {name}", file=sys.stderr)
    return await ctx.run(say, name)

@app.workflow
async def wait(ctx: Context) -> None:
    await ctx.sleep(600)

@app.task
def say(name: str) -> str:
    sys.stdout.write("hello " * 10_000)
    sys.stdout.flush()
    return f"hello {name}"
"""

SHELL = {
    "all closed": 'exec "$@" <&- >&- 2>&-',
    "broken stdout": 'exec "$@" >&{nobody}',
    "broken stderr": 'exec "$@" 2>&{nobody}',
    "both broken": 'exec "$@" >&{nobody} 2>&{nobody}',
}


@pytest.fixture
def nobody() -> Iterator[BinaryIO]:
    """A pipe that nobody reads."""
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb") as pipe:
        yield pipe


@pytest.fixture
def here(new_project: NewProject) -> Terminal:
    return new_project(shop=APP, persist=False)


@contextmanager
def begun(terminal: Terminal, how: str, nobody: BinaryIO, *args: str) -> Generator[subprocess.Popen[bytes]]:
    """Run a command with streams as ``how`` says; their remaining output is dropped."""
    with subprocess.Popen(
        ["/bin/bash", "-c", SHELL[how].format(nobody=nobody.fileno()), "bash", *COMMAND, *args],
        cwd=terminal.directory,
        env=terminal.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[nobody.fileno()],
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.mark.timeout(180)  # it starts many commands, one after the other
@pytest.mark.parametrize("how", list(SHELL)[:3])
def test_a_command_ends_as_it_would_have(here: Terminal, quick: Quick, nobody: BinaryIO, how: str) -> None:
    for id in ("a", "b"):
        assert quick(here, "rpc", id, "wait", "--no-wait").code == 0
    said_on_stdout = {
        ("--help",): 0,
        ("--version",): 0,
        ("ls",): 0,
        ("ls", "--json"): 0,
        ("get", "a"): 0,
        ("tree", "a"): 0,
        ("timers",): 0,
        ("fsck",): 0,
        ("doctor",): 1,  # its server keeps no data
        ("export", "a", "b"): 0,
        ("promise", "create", how.replace(" ", "-")): 0,
    }
    said_on_stderr = {
        ("get", "nobody"): 1,
        ("nope",): 2,
        ("rpc", "a", "wait", "--timeout", "200ms"): 3,
        ("cancel", "--func", "wait"): 2,  # without --yes nothing is done, because nobody can be asked
        ("get", "a", "--url", "redis://127.0.0.1:1"): 4,
    }
    expected = {"broken stdout": said_on_stdout, "broken stderr": said_on_stderr}
    for args, code in expected.get(how, said_on_stdout | said_on_stderr).items():
        with begun(here, how, nobody, *args) as command:
            assert command.wait(PATIENCE_S) == code, args


@pytest.mark.parametrize("how", ["all closed", "both broken"])
@pytest.mark.parametrize("options", [(), ("--processes", "2")], ids=str)
def test_a_worker_serves_on_whoever_reads_what_it_says(
    here: Terminal, nobody: BinaryIO, how: str, options: tuple[str, ...], quick: Quick
) -> None:
    with begun(here, how, nobody, "worker", "shop", *options) as worker:
        for name in ("Ada", "Grace"):
            assert quick(here, "rpc", name, "greet", name).out == f"hello {name}\n"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_S) == 0


def test_a_worker_outlives_the_reader_of_its_log(here: Terminal, quick: Quick) -> None:
    with subprocess.Popen(
        [*COMMAND, "worker", "shop"],
        cwd=here.directory,
        env=here.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as worker:
        assert worker.stdout is not None
        while b"is ready" not in worker.stdout.readline():
            pass
        worker.stdout.close()
        assert quick(here, "rpc", "a", "greet", "Ada").out == "hello Ada\n"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_S) == 0


def test_a_dev_server_starts_and_ends_where_nothing_can_be_said(tmp_path: Path, nobody: BinaryIO, quick: Quick) -> None:
    (tmp_path / "shop.py").write_text(APP)
    terminal = Terminal(tmp_path)
    for how in ("all closed", "both broken"):
        with begun(terminal, how, nobody, "dev", "shop") as dev:
            wait_for((tmp_path / ".durasleep" / "server.json").exists, "the server")
            assert quick(terminal, "rpc", how, "greet", "Ada").out == "hello Ada\n"
            dev.send_signal(signal.SIGTERM)
            assert dev.wait(PATIENCE_S) == 0
