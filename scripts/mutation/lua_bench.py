"""Shows mutants of Lua to the tests of the scripts.

One pytest collects these tests, once, and is forked for each mutant. The fork reads the changed file in the place of
the other one, and runs those tests that come by the changed line, on a server that stands already: first those that
have noticed others of this file, last the model.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from durasleep.protocol import script
from harness.servers import FAKE, Server, Servers
from scripts.mutation.bench import UndisturbedFailure, Verdict
from scripts.mutation.lua_lines import Line, Passing, Recorder
from scripts.mutation.lua_rules import LUA
from scripts.mutation.mutant import Mutant

Note = Callable[[Mutant, Verdict], None]

_TESTS = ("tests/store", "tests/model/test_scripts_follow_the_model.py")
_MODEL = "tests/model/"
_NOT_OF_SCRIPTS = ("tests/store/test_connection.py", "tests/store/test_batch.py")  # where they are of servers alone
_LOOK_S = 0.005
_ASK_S = 1.0  # between two looks at whether a server still answers
_BUSY_MS = 2000  # what a script takes that never ends
_TEST_S = 15  # of one test, and one that waits in vain: nearly all take less than one
_NEAR_MAX, _SHORT_S = 50, 1.0  # how many tests, and which of those at the end, are run for a first look
_SLACK = 3.0  # times what the tests take undisturbed, and
_START_S = 20.0  # so much for a busy machine
_SURVIVED, _KILLED, _BROKEN = 0, 1, 2  # what a fork ends with


class LuaBench:
    """``run`` mutants on one kind of server, so many side by side."""

    def __init__(self, directory: Path, processes: int, kind: str, *, is_quick: bool) -> None:
        self._directory = directory
        self._processes = processes
        self._kind = kind
        self._is_quick = is_quick

    def run(self, mutants: Sequence[Mutant], note: Note) -> None:
        """Each is noted as soon as its verdict is known."""
        loop = _Loop(self._directory, self._processes, self._kind, mutants, note, is_quick=self._is_quick)
        options = [
            "-qq",
            "-s",
            "--no-header",
            "--no-summary",
            f"--timeout={_TEST_S}",
            f"--basetemp={self._directory / 'tmp'}",
            "--assert=plain",
        ]
        options += ["-p", "no:randomly", "-p", "no:cacheprovider"]
        code = pytest.main(
            [*options, f"--servers={FAKE},{self._kind}", *(_TESTS[:1] if self._is_quick else _TESTS)], plugins=[loop]
        )
        if loop.problem:
            raise loop.problem
        if code != pytest.ExitCode.OK:
            raise UndisturbedFailure(f"the tests could not be collected: {code}")


@dataclass(slots=True)
class _Lane:
    """Room for one mutant at a time: a server, and a place for what its tests say."""

    directory: Path
    kind: str
    servers: Servers
    mutant: Mutant | None = None
    pid: int = 0
    kill_at: float = 0.0
    ask_at: float = 0.0

    @classmethod
    def made(cls, directory: Path, kind: str) -> _Lane:
        directory.mkdir(parents=True)
        lane = cls(directory, kind, Servers(directory))
        lane.clear()
        return lane

    @property
    def server(self) -> Server:
        return self.servers.get(self.kind)

    def said(self) -> str:
        """The end of what the tests have said."""
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")[-3000:]

    def clear(self) -> None:
        """As new for the next mutant."""
        with redis.Redis.from_url(self.server.url, socket_timeout=1.0) as client:
            client.config_set("lua-time-limit", _BUSY_MS)
            client.flushall()
            client.script_flush()

    def is_busy(self) -> bool:
        """Whether its server runs a script that does not end."""
        try:
            with redis.Redis.from_url(self.server.url, socket_timeout=0.1) as client:
                client.ping()
        except redis.TimeoutError:
            return False  # nobody knows yet
        except redis.ResponseError as problem:
            return "BUSY" in str(problem)
        return False

    def renew(self) -> None:
        """Another server in the place of one that hangs, or that a test may have left in any state."""
        assert self.server.running
        self.server.running.kill()
        self.servers = Servers(self.directory / f"again-{time.monotonic_ns()}")
        self.clear()


class _Loop:
    """A plugin of pytest: in the place of running what was collected, forks run parts of it."""

    def __init__(
        self, directory: Path, processes: int, kind: str, mutants: Sequence[Mutant], note: Note, *, is_quick: bool
    ) -> None:
        self.problem: BaseException | None = None
        self._directory = directory
        self._processes = processes
        self._kind = kind
        self._mutants = mutants
        self._note = note
        self._is_quick = is_quick
        self._failed: list[str] = []  # in a fork, what the tests say that have failed
        self._skipped = False
        self._items: dict[str, pytest.Item] = {}
        self._took_s: dict[str, float] = {}
        self._last: list[str] = []  # tests that every mutant is shown to, at the end
        self._short_last: list[str] = []
        self._killers: dict[str, list[str]] = {}  # file -> tests that have noticed a mutant of it, the latest first

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        lanes: list[_Lane] = []
        try:
            lanes += [_Lane.made(self._directory / f"lane-{n}", self._kind) for n in range(self._processes)]
            passing = self._run_undisturbed(session.items, lanes[0])
            self._run(passing, lanes)
        except BaseException as problem:  # noqa: BLE001 - pytest would make a text of it
            self.problem = problem
        finally:
            for lane in lanes:
                lane.servers.stop()
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._skipped |= report.skipped
        if report.failed:
            self._failed.append(f"{report.nodeid} ({report.when})\n{report.longreprtext}")

    # -- without any mutant

    def _run_undisturbed(self, items: Sequence[pytest.Item], lane: _Lane) -> Passing:
        """What each test comes by, and how long it takes."""
        traced: list[pytest.Item] = []
        for item in items:
            if f"[{FAKE}" not in item.nodeid:
                self._items[item.nodeid] = item
            elif not item.nodeid.startswith(_MODEL):
                traced.append(item)
        lines = self._measure(lane, "lines", lambda to: self._trace(traced, to))
        known = {self._on_server(name) for name in lines}
        unknown = [name for name in self._items if name not in known and not name.startswith(_NOT_OF_SCRIPTS)]
        self._items = {name: item for name, item in self._items.items() if name in known or name in unknown}
        self._took_s = self._measure(lane, "seconds", lambda to: self._time(lane, to))
        self._last = sorted(unknown, key=lambda name: (name.startswith(_MODEL), self._took_s[name]))
        self._short_last = [name for name in self._last if self._took_s[name] < _SHORT_S]
        return Passing({self._on_server(name): [(at[0], at[1]) for at in passed] for name, passed in lines.items()})

    def _on_server(self, name: str) -> str:
        return name.replace(f"[{FAKE}", f"[{self._kind}", 1)

    def _measure(self, lane: _Lane, what: str, measure: Callable[[Path], int]) -> dict[str, Any]:
        to = self._directory / f"{what}.json"
        pid = self._fork(lane, lambda: measure(to))
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != _SURVIVED:
            raise UndisturbedFailure(f"without any mutant tests fail:\n{lane.said()}")
        lane.clear()
        return json.loads(to.read_text(encoding="utf-8"))

    def _trace(self, items: Sequence[pytest.Item], to: Path) -> int:
        recorder, lines = Recorder(), dict[str, list[Line]]()

        def note(item: pytest.Item) -> None:
            passed = recorder.take()
            if not self._skipped:
                lines[item.nodeid] = passed
            self._skipped = False
            self._failed.clear()  # here everything is slow; who judges is the other server

        self._test(items, note)
        to.write_text(json.dumps(lines), encoding="utf-8")
        return _SURVIVED

    def _time(self, lane: _Lane, to: Path) -> int:
        self._use(lane)
        seconds, began = dict[str, float](), time.monotonic()

        def note(item: pytest.Item) -> None:
            nonlocal began
            seconds[item.nodeid], began = time.monotonic() - began, time.monotonic()

        code = self._test(list(self._items.values()), note)
        to.write_text(json.dumps(seconds), encoding="utf-8")
        return code

    # -- mutants

    def _run(self, passing: Passing, lanes: Iterable[_Lane]) -> None:
        left, free, running = list(reversed(self._mutants)), list(lanes), list[_Lane]()
        while left or running:
            while left and free:
                lane = free.pop()
                self._begin(lane, left.pop(), passing)
                running.append(lane)
            time.sleep(_LOOK_S)
            for lane in tuple(running):
                verdict = self._look(lane)
                if verdict is not None:
                    assert lane.mutant
                    running.remove(lane)
                    free.append(lane)
                    self._note(lane.mutant, verdict)

    def _begin(self, lane: _Lane, mutant: Mutant, passing: Passing) -> None:
        killers = self._killers.setdefault(mutant.path, [])
        name = Path(mutant.path).relative_to(LUA).with_suffix("").as_posix()
        own = f"tests/store/test_{Path(mutant.path).stem}.py"  # and those that come by much
        found = passing.tests(name, mutant.line)
        found.sort(key=lambda test: (not test.startswith(own), -passing.counts[test], self._took_s[test]))
        found.sort(key=lambda test: killers.index(test) if test in killers else len(killers))
        tests = [*found[:_NEAR_MAX], *self._short_last] if self._is_quick else [*found, *self._last]
        lane.mutant = mutant
        lane.kill_at = time.monotonic() + _START_S + _SLACK * sum(self._took_s[test] for test in tests)
        lane.ask_at = time.monotonic() + _ASK_S
        lane.pid = self._fork(lane, lambda: self._test_mutant(lane, name, mutant.text, tests))

    def _test_mutant(self, lane: _Lane, name: str, text: str, tests: Sequence[str]) -> int:
        self._use(lane)
        read = script._read
        script._read = lambda asked: text if asked == name else read(asked)
        script.load.cache_clear()
        last = ""

        def note(item: pytest.Item) -> None:
            nonlocal last
            last = item.nodeid

        code = self._test([self._items[test] for test in tests], note)
        (lane.directory / "killer").write_text(last, encoding="utf-8")
        return code

    def _look(self, lane: _Lane) -> Verdict | None:
        pid, status = os.waitpid(lane.pid, os.WNOHANG)
        if pid == 0 and time.monotonic() > lane.ask_at:
            lane.ask_at = time.monotonic() + _ASK_S
            if time.monotonic() > lane.kill_at or lane.is_busy():
                os.killpg(lane.pid, signal.SIGKILL)
                os.waitpid(lane.pid, 0)
                lane.renew()
                return Verdict.TIMEOUT
        if pid == 0:
            return None
        with suppress(ProcessLookupError):  # what its tests have left
            os.killpg(lane.pid, signal.SIGKILL)
        try:
            lane.clear()
        except redis.RedisError:
            lane.renew()
        code = os.waitstatus_to_exitcode(status)
        if code == _SURVIVED:
            return Verdict.SURVIVED
        if code != _KILLED:
            raise RuntimeError(f"a run ended with {code}:\n{lane.said()}")
        assert lane.mutant
        killers, killer = self._killers[lane.mutant.path], (lane.directory / "killer").read_text(encoding="utf-8")
        if killer in killers:
            killers.remove(killer)
        killers.insert(0, killer)
        return Verdict.KILLED

    # -- forks

    def _fork(self, lane: _Lane, work: Callable[[], int]) -> int:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            code = _BROKEN
            try:
                os.setsid()
                log = os.open(lane.directory / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
                os.dup2(log, 1)
                os.dup2(log, 2)
                code = work()
                print(*self._failed, sep="\n", flush=True)
            except BaseException:  # noqa: BLE001 - this process must not go on as its parent
                traceback.print_exc()
            os._exit(code)
        return pid

    def _use(self, lane: _Lane) -> None:
        """In a fork: its server stands in for the one that tests would start."""
        server, get = lane.server, Servers.get
        Servers.get = lambda self, kind: server if kind == lane.kind else get(self, kind)

    def _test(self, items: Sequence[pytest.Item], note: Callable[[pytest.Item], None]) -> int:
        """In a fork: run these, until one fails."""
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            note(item)
            if self._failed:
                return _KILLED
        return _SURVIVED
