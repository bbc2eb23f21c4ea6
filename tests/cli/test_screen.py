"""The output for a person at a terminal, which is never mixed with the data."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.cli.conftest import NewProject, Quick
from tests.cli.terminal import COMMAND, PATIENCE_S, Terminal, wait_for

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*3[0-7]")

APP = """
from durasleep import Context, Durasleep

app = Durasleep()

@app.workflow
async def sleep(ctx: Context, seconds: float) -> str:
    await ctx.sleep(seconds)
    return f"slept {seconds}"
"""


class OnScreen:
    """A command whose stderr is a terminal and whose stdout is read by a program."""

    def __init__(self, terminal: Terminal, *args: str, **environment: str) -> None:
        self._screen, theirs = pty.openpty()
        os.set_blocking(self._screen, False)
        self._seen = b""
        kept = {name: value for name, value in terminal.environment.items() if name != "NO_COLOR"}
        self.process = subprocess.Popen(
            [*COMMAND, *args],
            cwd=terminal.directory,
            env={**kept, "TERM": "xterm", "COLUMNS": "120", **environment},
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)

    @property
    def raw(self) -> str:
        """All that was ever written to the screen."""
        try:
            while chunk := os.read(self._screen, 65536):
                self._seen += chunk
        except (BlockingIOError, OSError):  # no new output, or the other end is closed
            pass
        return self._seen.decode()

    def wait_for(self, text: str) -> None:
        wait_for(lambda: text in ESCAPES.sub("", self.raw), f"{text!r} on the screen")

    def write(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def end(self) -> tuple[int, str, str]:
        """Its exit code, its stdout, and the screen."""
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        screen = self.raw
        os.close(self._screen)
        return self.process.returncode, out.decode(), screen


@pytest.fixture
def here(new_project: NewProject) -> Iterator[Terminal]:
    """An application and a worker of it."""
    terminal = new_project(shop=APP)
    with terminal.running("worker", "shop", until="is ready"):
        yield terminal


def test_a_spinner_says_what_it_waits_for_and_leaves_the_data_alone(here: Terminal) -> None:
    waiting = OnScreen(here, "rpc", "s", "sleep", "600")
    waiting.wait_for("s: asleep until ")
    waiting.process.send_signal(signal.SIGINT)
    code, out, screen = waiting.end()
    assert (code, out) == (130, "")
    assert "s goes on; the same command attaches to it again." in screen
    assert "Traceback" not in screen

    attached = OnScreen(here, "rpc", "s", "sleep", "600")
    attached.wait_for("s: asleep until ")
    assert here.run("promise", "resolve", "s~1").out == "resolved\n"
    code, out, _ = attached.end()
    assert (code, out) == (0, "slept 600.0\n")


def test_no_color_is_honoured_where_there_would_be_some(here: Terminal) -> None:
    code, out, screen = OnScreen(here, "get", "nobody").end()
    assert (code, out) == (1, "")
    assert COLOUR.search(screen)
    code, out, screen = OnScreen(here, "get", "nobody", NO_COLOR="1").end()
    assert (code, out) == (1, "")
    assert "error:" in screen
    assert not COLOUR.search(screen)


@pytest.mark.parametrize(("answer", "said", "code"), [("y", "s: woken\n", 0), ("", "", 1)])
def test_what_a_filter_finds_is_asked_about_first(
    here: Terminal, quick: Quick, answer: str, said: str, code: int
) -> None:
    quick(here, "rpc", "s", "sleep", "600", "--no-wait")
    wait_for(lambda: '"suspended"' in quick(here, "get", "s", "--json").out, "the sleep")
    asking = OnScreen(here, "wake", "--func", "sleep", COLUMNS="60")
    asking.wait_for("Wake this one? [y/N]:")
    asking.write(f"{answer}\n")
    ended, out, screen = asking.end()
    assert (ended, out) == (code, said)
    assert ("Nothing was done." in screen) == (code == 1)
    [row] = re.findall(r"^s .*?$", ESCAPES.sub("", screen.replace("\r", "")), re.MULTILINE)
    assert re.fullmatch(r"s   suspended  sleep     until .* \(.*\)", row), "what does not fit is the age"


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b1m\x7f\u202etxt"

FAILING = """
from durasleep import Context, Durasleep

app = Durasleep()
HOSTILE = "\\x1b]0;owned\\x07\\x1b[2J\\x9b1m\\x7f\\u202etxt"

@app.task
def fail() -> None:
    raise RuntimeError(HOSTILE)

@app.task
def say() -> str:
    return HOSTILE

@app.workflow
async def wait(ctx: Context) -> None:
    await ctx.run(fail)
"""


def test_no_text_of_others_writes_to_the_terminal_itself(new_project: NewProject, quick: Quick) -> None:
    """Titles, colours, a cleared screen, a reversed line: such characters are shown escaped."""
    here = new_project(failing=FAILING)
    with here.running("worker", "failing", "--verbose", until="is ready") as worker:
        failed = quick(here, "rpc", "a", "wait")
        shown = [failed, quick(here, "get", "a"), quick(here, "ls", "--status", "done"), quick(here, "fsck")]
        assert failed.code == 1
        assert quick(here, "rpc", "b", "say").out == f"{HOSTILE}\n"  # for a program, as it is
        code, out, screen = OnScreen(here, "rpc", "a", "wait").end()
        assert (code, out) == (1, "")
        worker.send_signal(signal.SIGTERM)
        worker.wait(PATIENCE_S)
    told = [*[done.out + done.err for done in shown], ESCAPES.sub("", screen)]
    assert r"\x1b[2J\x9b1m\x7f\u202etxt" in told[0]
    assert r"\x1b[2J" in told[1]
    for text in told:
        assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e]", text.replace("\r\n", "\n")), text
    assert "\x1b[2J" not in screen
