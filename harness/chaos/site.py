"""The workers, and what every kind of site has; ``faults.py`` and ``cluster.py`` add servers and networks."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from harness import versions
from harness.chaos.plan import Fault
from harness.chaos.work import EFFECTS

ROOT = Path(__file__).parents[2]


class Site(ABC):
    """Everything that can break."""

    partitions: ClassVar[int]
    """How many the namespace has."""
    rolls_back: Sequence[str]
    """Faults after which Redis may not know a confirmed write any more."""

    def __init__(self, directory: Path, *, workers: int, other: Path | None = None) -> None:
        """Every second start of a worker uses the version in ``other``, if that is given."""
        self.effects = directory / "effects"
        self.log = directory / "workers.log"
        self.done: Counter[str] = Counter()
        """How often each fault happened."""
        self.deserted = 0
        """Workers that ended although nobody had killed them."""
        self._other = other
        self._starts = 0
        self._workers: list[subprocess.Popen[bytes] | None] = [None] * workers
        self._lasting: set[asyncio.Task[None]] = set()
        self._problems: list[BaseException] = []
        self._server_lock = asyncio.Lock()  # one fault of the servers' processes at a time

    @property
    @abstractmethod
    def environment(self) -> dict[str, str]:
        """How workers and clients reach Redis, see ``reach.py``: through proxies."""

    @abstractmethod
    async def start(self) -> None:
        """Start the servers and the network."""

    @abstractmethod
    async def stop_servers(self) -> None:
        """End them."""

    @abstractmethod
    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """What these keys have, from the servers themselves."""

    def start_workers(self) -> None:
        self.effects.touch()
        for n in range(len(self._workers)):
            self._start_worker(n)

    async def stop(self) -> None:
        for task in tuple(self._lasting):
            task.cancel()
        for worker in self._workers:
            if worker is not None:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
                worker.wait()
        await self.stop_servers()

    async def repair(self) -> None:
        """Repair everything: lasting faults have ended, and every worker runs."""
        await asyncio.gather(*self._lasting, return_exceptions=True)
        self._check()
        for n, worker in enumerate(self._workers):
            if worker is None or worker.poll() is not None:
                self.deserted += worker is not None
                self._start_worker(n)

    def can(self, _fault: Fault) -> bool:
        """Whether a fault can be done now; else it is left out."""
        return True

    async def do(self, fault: Fault) -> None:
        """Break something; a lasting fault goes on by itself."""
        self._check()
        if not self.can(fault):
            return
        act = getattr(self, fault.name.replace("-", "_"))
        task = asyncio.get_running_loop().create_task(act(fault))
        self._lasting.add(task)
        task.add_done_callback(self._note_end)
        self.done[fault.name] += 1

    def _check(self) -> None:
        """Raises if a fault could not be done: that is an error of this program."""
        if self._problems:
            raise self._problems[0]

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._lasting.discard(task)
        if not task.cancelled() and (problem := task.exception()):
            self._problems.append(problem)

    # -- workers

    def _start_worker(self, n: int) -> None:
        self._starts += 1
        durasleep = versions.command(self._other if self._starts % 2 else None)
        with self.log.open("ab") as log:
            self._workers[n] = subprocess.Popen(
                [*durasleep, "worker", "harness.chaos.work:app"],
                cwd=ROOT,
                env=os.environ | self.environment | {EFFECTS: str(self.effects)},
                stdout=log,
                stderr=log,
            )

    async def kill_worker(self, fault: Fault) -> None:
        """Kill -9; another worker takes its place."""
        n = fault.which % len(self._workers)
        if worker := self._workers[n]:
            worker.kill()
            await asyncio.to_thread(worker.wait)
        self._start_worker(n)

    async def pause_worker(self, fault: Fault) -> None:
        """SIGSTOP, for longer or shorter than it takes until others count the worker as dead."""
        worker = self._workers[fault.which % len(self._workers)]
        if worker is not None:
            worker.send_signal(signal.SIGSTOP)
            await asyncio.sleep(fault.lasts_s)
            worker.send_signal(signal.SIGCONT)
