"""Programs of two systems on one Redis: started as a reader of the pages would, waited for by what they print."""

from __future__ import annotations

import difflib
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from tests.cli.terminal import PATIENCE_S, ROOT, Terminal, wait_for

MODULES = {"celery": ("-m", "celery"), "durasleep": ("-m", "durasleep"), "python": ()}


class Program:
    """A process with its output in a file."""

    def __init__(
        self, words: Sequence[str], log: Path, environment: Mapping[str, str], *, has_input: bool = False
    ) -> None:
        self._log = log
        self._words = words
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                words,
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def until(self, text: str) -> Self:
        """Wait until its output has this text; fail if it ends before."""
        wait_for(lambda: text in self.log() or self.has_ended, f"{text!r} of {self._words}")
        assert text in self.log(), self.log()
        return self

    def write(self, text: str) -> None:
        """To its stdin, if it has one."""
        assert self._process.stdin
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def kill(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.kill()
        self._process.wait(PATIENCE_S)

    def stop(self) -> None:
        """SIGTERM, if it still runs, and wait for its end."""
        if not self.has_ended:
            self._process.send_signal(signal.SIGTERM)
        self.ended()

    def ended(self) -> int:
        """Its exit code, when it has ended."""
        return self._process.wait(PATIENCE_S)


@dataclass(frozen=True)
class Act:
    """One thing that the shop has done."""

    what: str
    whom: str
    pid: int
    at_s: float


class Place:
    """A Redis that both systems share, and the programs that run there; they are killed at the end."""

    def __init__(self, url: str, directory: Path, **environment: str) -> None:
        self.url = url
        kept = Terminal(directory, REDIS_URL=url).environment
        self.environment = {**kept, "PYTHONUNBUFFERED": "1", **environment}
        self.store: Any = redis.Redis.from_url(url, decode_responses=True)
        self.directory = directory
        self._programs: list[Program] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for program in self._programs:
            if error is not None:
                sys.stdout.write(program.log()[-3000:])
            program.kill()
        self.store.close()

    def start(self, command: str, *options: str, has_input: bool = False) -> Program:
        """Start a program; ``options`` are those that only a test needs."""
        log = self.directory / f"program-{len(self._programs)}.log"
        self._programs.append(Program(self._words(command, options), log, self.environment, has_input=has_input))
        return self._programs[-1]

    def run(self, command: str, code: int = 0) -> str:
        """Run a program to its end; the answer is what it prints to stdout."""
        done = subprocess.run(
            self._words(command),
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == code, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def _words(self, command: str, options: Sequence[str] = ()) -> list[str]:
        first, *rest = shlex.split(command)
        return [sys.executable, *MODULES[first], *rest, *options]

    def acts(self, key: str) -> list[Act]:
        """What was done, in its order."""
        lines = [line.split() for line in self.store.lrange(key, 0, -1)]
        return [Act(what, whom, int(pid), float(at_s)) for what, whom, pid, at_s in lines]

    def counts(self, key: str, whats: Sequence[str]) -> Counter[tuple[str, str]]:
        """How often each of these things was done for whom."""
        return Counter((act.what, act.whom) for act in self.acts(key) if act.what in whats)

    def once(self, key: str, whats: Sequence[str], whom: Sequence[str]) -> None:
        """Wait until each of these things was done for each of them; fail if one was done twice."""
        wanted = {(what, one) for what in whats for one in whom}
        wait_for(lambda: wanted <= self.counts(key, whats).keys(), f"{sorted(wanted - self.counts(key, whats).keys())}")
        assert {act: count for act, count in self.counts(key, whats).items() if count > 1} == {}


def commands_of(page: str) -> set[str]:
    """The commands of a page, with ``N`` for the number of a step."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    found = {line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")}
    return {re.sub(r"step_\d", "step_N", line) for line in found}


def wrong_diffs(page: str, steps: Path) -> list[str]:
    """Lines of the diffs of a page that are not so between the files they name, or not in this order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    wrong: list[str] = []
    for block in re.findall(r"```diff\n(.*?)```", text, re.DOTALL):
        names = re.findall(r"^(?:---|\+\+\+) (step_\d\.py)$", block, re.MULTILINE)
        before = steps / f"step_{int(names[-1][5]) - 1}.py"
        old, new = before.read_text().splitlines(), (steps / names[-1]).read_text().splitlines()
        real = iter([*difflib.unified_diff(old, new, lineterm="", n=10_000)][2:])
        shown = [line for line in block.splitlines() if line[1:] and not line.startswith(("---", "+++"))]
        wrong += [line for line in shown if line not in real]
    return wrong
