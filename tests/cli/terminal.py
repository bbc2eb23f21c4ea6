"""Runs the real command and its workers, as a user would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "durasleep")
MODES = ("DURASLEEP_ALWAYS_SUSPEND", "DURASLEEP_DEBUG")
PATIENCE_S = 30.0
LOOK_S = 0.02


@dataclass(frozen=True)
class Done:
    """The end of a command: its exit code and output."""

    code: int
    out: str
    err: str


class Terminal:
    """A directory and an environment for commands."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self.directory = directory
        kept = {
            name: value
            for name, value in os.environ.items()
            if name in MODES or ("REDIS" not in name and "DURASLEEP" not in name)
        }
        self.environment = {**kept, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **environment}

    def run(self, *args: str, **environment: str) -> Done:
        """Run ``durasleep`` to its end: most of its time is Python's start, see ``quick`` in conftest.py."""
        done = subprocess.run(
            [*COMMAND, *args],
            cwd=self.directory,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def running(self, *args: str, until: str, keep: Path | None = None) -> Generator[subprocess.Popen[bytes]]:
        """Run ``durasleep`` during the block, which begins when its log says ``until``; SIGTERM at the end.

        The log is in ``keep``, if that is given.
        """
        descriptor, name = tempfile.mkstemp(prefix="durasleep-test-", suffix=".log")
        os.close(descriptor)
        log = keep or Path(name)
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*COMMAND, *args], cwd=self.directory, env=self.environment, stdout=out, stderr=subprocess.STDOUT
            )
        try:
            wait_for(lambda: until in log.read_text() or process.poll() is not None, until)
            assert until in log.read_text(), log.read_text()
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)
            Path(name).unlink()


def run_as_program(name: str, terminal: Terminal) -> subprocess.CompletedProcess[str]:
    """Run an example as a client, against the Redis of the terminal."""
    client = f"import asyncio, examples.{name} as e; e.app.connect({terminal.environment['REDIS_URL']!r})"
    return subprocess.run(
        [sys.executable, "-c", f"{client}; asyncio.run(e.main())"],
        cwd=ROOT,
        env=terminal.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def wait_for(look: object, what: str) -> None:
    """Wait until ``look()`` is true; fail with ``what``."""
    assert callable(look)
    give_up_at = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < give_up_at, f"waited in vain for {what}"
        time.sleep(LOOK_S)


def lines(text: str) -> Sequence[str]:
    return [line for line in text.splitlines() if line.strip()]
