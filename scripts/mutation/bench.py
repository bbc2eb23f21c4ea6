"""Runs the tests of mutants of Python side by side, each process in a copy of the tree of its own.

A run is a fork of this process, which has already imported everything that is not ours: that saves half a second. A run
that takes too long is killed, with all processes it has started. Such a mutant counts as noticed.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from pathlib import Path

import pytest

from scripts.mutation.chosen import Stages, stages
from scripts.mutation.lines import Passing, Recorder
from scripts.mutation.mutant import Mutant

_COPIED = ("durasleep", "tests", "scripts", "examples", "docs", "pyproject.toml", "README.md")
_IMPORTED = (
    *("asyncio", "concurrent.futures", "sqlite3", "unittest.mock", "xml.etree", "zoneinfo"),
    *("redis.asyncio", "redis.asyncio.sentinel", "hiredis", "fakeredis", "lupa", "msgpack", "msgspec", "cronsim"),
    *("rich.console", "rich.table", "typer", "numpy", "pydantic", "time_machine", "psutil", "watchfiles"),
    *(
        "hypothesis",
        "anyio.pytest_plugin",
        "pytest_asyncio.plugin",
        "pytest_timeout",
        "xdist.plugin",
        "xdist.looponfail",
    ),
    *(
        "_hypothesis_pytestplugin",
        "_pytest.pytester",
        "_pytest.junitxml",
        "_pytest.doctest",
        "_pytest.unraisableexception",
    ),
)
_LOOK_S = 0.02
# Limits for a test. Most of the time of a run is waiting, so they are as short as possible.
_TEST_S = 15  # for a test of unknown duration: nearly all take less than a second
_WAIT_S, _WAIT_TIMES = 3.0, 4.0  # for a test of known duration: a time for the server, and so many times the duration
_SERVICE_TEST_S = 45  # for a test that starts and kills processes, on a machine that is busy with other mutants
# Limits for all tests of a mutant.
_SLACK = 3.0  # times their duration without a mutant
_START_S = 10.0  # and in addition this, for the server
_LINES = "lines.json"  # the file of a recorder, in a copy
_FOREIGN = 70  # the exit code of a run that has tested another tree than its copy


class UndisturbedFailure(Exception):
    """Tests fail without any mutant, so they show nothing."""


class Verdict(StrEnum):
    """The result for a mutant."""

    KILLED = "killed"
    TIMEOUT = "timeout"
    SURVIVED = "survived"


@dataclass(frozen=True, slots=True)
class _Undisturbed:
    """What is known about some tests from a run without any mutant."""

    took_s: float
    files: tuple[str, ...]
    passing: Passing
    """Who comes by which line; what other processes do of it nobody sees."""

    def longest_s(self, tests: Sequence[str]) -> float:
        """How long one of these tests may take with a mutant."""
        longest_s = _SERVICE_TEST_S if any("/service/" in test for test in tests) else _TEST_S
        took_s = self._each_s(tests)
        return min(longest_s, _WAIT_S + _WAIT_TIMES * max(took_s)) if took_s else longest_s

    def all_s(self, tests: Sequence[str]) -> float:
        """How long all of them may take together."""
        return _START_S + _SLACK * (sum(self._each_s(tests)) or self.took_s)

    def _each_s(self, tests: Sequence[str]) -> list[float]:
        """How long each of them took; empty where that is not known."""
        return [] if tuple(tests) == self.files else self.passing.took_s(tests)


@dataclass(slots=True)
class _Run:
    """A mutant on its way through the stages, in one copy."""

    mutant: Mutant
    copy: Path
    stages: Stages
    stage: int = 0
    pid: int = 0
    kill_at: float = 0.0


class Bench:
    """``prepare`` it, then ``run`` mutants."""

    def __init__(self, root: Path, directory: Path, processes: int, servers: str) -> None:
        self._root = root
        self._servers = servers
        self._copies = [directory / f"tree-{number}" for number in range(processes)]
        self._plain = directory / "plain"
        self._undisturbed: dict[tuple[str, tuple[str, ...]], _Undisturbed] = {}

    def prepare(self) -> None:
        """Make the copies, and import the modules that are not ours."""
        for name in _IMPORTED:
            with suppress(ImportError):
                import_module(name)
        gc.freeze()
        for copy in (self._plain, *self._copies):
            copy.mkdir(parents=True)
            for name in _COPIED:
                source = self._root / name
                if source.is_dir():
                    shutil.copytree(source, copy / name)
                else:
                    shutil.copy2(source, copy)

    def run(self, mutants: Sequence[Mutant]) -> Iterator[tuple[Mutant, Verdict]]:
        """Each mutant with its verdict, as soon as there is one."""
        left, free, running = list(reversed(mutants)), list(self._copies), list[_Run]()
        while left or running:
            while left and free:
                run = _Run(left.pop(), free.pop(), ())
                run.stages = stages(self._root, run.mutant.path)
                self._change(run)
                if self._go_on(run, 0) is None:
                    running.append(run)
                else:
                    self._restore(run)
                    free.append(run.copy)
                    yield run.mutant, Verdict.SURVIVED
            time.sleep(_LOOK_S)
            for run in tuple(running):
                verdict = self._look(run)
                if verdict is not None:
                    running.remove(run)
                    self._restore(run)
                    free.append(run.copy)
                    yield run.mutant, verdict

    def _go_on(self, run: _Run, stage: int) -> Verdict | None:
        """Go on with this stage, or with the first one after it that has tests for the mutant."""
        for number in range(stage, len(run.stages)):
            run.stage = number
            if self._begin(run):
                return None
        return Verdict.SURVIVED

    def _begin(self, run: _Run) -> bool:
        """Run the tests of its stage; false if none of them can notice it."""
        path, files = run.mutant.path, run.stages[run.stage]
        if (path, files) not in self._undisturbed:
            self._undisturbed[path, files] = self._run_undisturbed(path, files)
        known = self._undisturbed[path, files]
        tests = known.passing.tests(run.mutant.line)
        first = self._undisturbed[path, run.stages[0]]
        if not tests and not first.passing.tests(run.mutant.line):  # what runs as the file is imported, nobody comes by
            tests = list(files)
        run.kill_at = time.monotonic() + known.all_s(tests)
        run.pid = self._fork(run.copy, tests, longest_s=known.longest_s(tests)) if tests else 0
        return bool(tests)

    def _run_undisturbed(self, path: str, files: tuple[str, ...]) -> _Undisturbed:
        """These tests without any mutant; UndisturbedFailure if they fail even so."""
        began = time.monotonic()
        pid = self._fork(self._plain, files, longest_s=_SERVICE_TEST_S, traced=path)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != 0:
            log = (self._plain / "log").read_text(encoding="utf-8", errors="replace")
            raise UndisturbedFailure(f"without any mutant {' '.join(files)} ended with {code}:\n{log[-3000:]}")
        return _Undisturbed(time.monotonic() - began, files, Passing(self._plain / _LINES))

    def _look(self, run: _Run) -> Verdict | None:
        pid, status = os.waitpid(run.pid, os.WNOHANG)
        if pid == 0:
            if time.monotonic() < run.kill_at:
                return None
            os.killpg(run.pid, signal.SIGKILL)
            os.waitpid(run.pid, 0)
            return Verdict.TIMEOUT
        with suppress(ProcessLookupError):  # processes that its tests have left
            os.killpg(run.pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(status)
        if code == _FOREIGN:
            raise RuntimeError(f"the tests in {run.copy} have not tested what is there")
        if code != 0:
            return Verdict.KILLED
        return self._go_on(run, run.stage + 1)

    def _change(self, run: _Run) -> None:
        (run.copy / run.mutant.path).write_text(run.mutant.text, encoding="utf-8")

    def _restore(self, run: _Run) -> None:
        """Restore the file with its old time stamp, so that its compiled form is valid again."""
        shutil.copy2(self._root / run.mutant.path, run.copy / run.mutant.path)

    def _fork(self, copy: Path, tests: Sequence[str], *, longest_s: float, traced: str = "") -> int:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                code = _test(copy, tests, self._servers, longest_s, traced)
            except BaseException as error:  # noqa: BLE001 - this process must not go on as its parent
                print(repr(error), flush=True)
                code = 1
            os._exit(code)
        return pid


def _test(copy: Path, tests: Sequence[str], servers: str, longest_s: float, traced: str) -> int:
    """In the fork: run these tests in the copy, as a process there would; record which tests run the traced file."""
    os.setsid()
    os.chdir(copy)
    log = os.open(copy / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    sys.path[0] = str(copy)
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    recorder = Recorder(copy / traced)
    base = copy / "tmp"
    shutil.rmtree(base, ignore_errors=True)
    options = ["-x", "-q", "--no-header", "--tb=short", f"--timeout={longest_s}", f"--basetemp={base}"]
    options += ["--assert=plain", "-p", "no:randomly", "-p", "no:cacheprovider"]
    code = int(pytest.main([*options, f"--servers={servers}", *tests], plugins=[recorder] if traced else []))
    if traced:
        recorder.write(copy / _LINES)
    tested = sys.modules.get("durasleep")
    if tested is not None and not str(tested.__file__).startswith(str(copy)):
        return _FOREIGN
    return code
