"""Runs a peer: its environment, which is made once and kept, then its worker and its client on a fresh server.

The processes communicate through two lists on that server. The worker writes ``bench:ready`` when it is ready, and
``bench:done`` with the lateness of each job when all have run. The client prints the time and the cost as JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from durasleep.errors import DurasleepError
from scripts.benchmarks.bench import bench_on, cpu_s
from scripts.benchmarks.stopwatch import Spent

WORK = Path(__file__).parent / "work"
ENVIRONMENTS = Path(tempfile.gettempdir()) / "durasleep-bench-peers"
READY_S = 30
JOBS_PER_S_MIN = 50  # a slower client stops with an error


@dataclass(frozen=True)
class Peer:
    """How to run a peer."""

    name: str
    what: str
    """The work of its client and its worker, shown beside the figures."""
    prepare: Callable[[], tuple[list[str], str]]
    """Makes its environment; answers the command that takes the role and its arguments, and the version."""
    workflows_times_min: float | None = None
    """Our sleeping workflows should have at least so many times its throughput."""
    limit: str = ""
    """Its own limit of the jobs that run at a time, by key if it has one; empty if it has none."""
    limits_by_key: bool = False
    """Whether that limit is one of each key, and not of all jobs together."""
    tasks_times_min: float | None = None
    """Our delayed tasks should have at least so many times its throughput."""


@dataclass(frozen=True)
class PeerWork:
    """The work of a peer: ``count`` jobs, the first due after ``delay_ms``, each next one ``every_ms`` later."""

    count: int
    delay_ms: int
    every_ms: float
    concurrency: int
    """Jobs that its worker runs at a time."""
    keys: int = 0
    """Job n has key n modulo this number; 0 for no limit, 1 for a limit of all jobs together."""
    held: int = 0
    """Jobs of one key that may run at a time."""

    @property
    def given_s(self) -> int:
        """The time after which the client gives up."""
        return round((self.delay_ms + self.every_ms * self.count) / 1000 + READY_S + self.count / JOBS_PER_S_MIN)


@dataclass(frozen=True)
class Measured:
    """The result of a peer."""

    version: str
    spent: Spent
    """Measured from sending the first job until the last one has run."""
    late_ms: list[float]


async def run(peer: Peer, kind: str, work: PeerWork) -> Measured:
    command, version = await asyncio.to_thread(peer.prepare)
    async with bench_on(kind) as bench:
        log = bench.directory / "peer.log"
        shared = bench.url, *(str(number) for number in (work.count, work.concurrency, work.keys, work.held))
        with log.open("ab") as output:
            worker = await asyncio.create_subprocess_exec(*command, "worker", *shared, stdout=output, stderr=output)
        try:
            ready = bench.redis.blpop(["bench:ready"], READY_S)
            if await ready is None:
                raise DurasleepError(f"its worker did not start: {_tail(log)}")
            processes = psutil.Process(worker.pid), bench.server_process
            before = [cpu_s(process) for process in processes]
            client = await asyncio.create_subprocess_exec(
                *command,
                "client",
                *(*shared, str(work.delay_ms), str(work.every_ms), str(work.given_s)),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            out, err = await client.communicate()
            worker_cpu_s, server_cpu_s = (
                cpu_s(process) - used for process, used in zip(processes, before, strict=True)
            )
        finally:
            if worker.returncode is None:
                worker.kill()
            await worker.wait()
        if client.returncode != 0:
            raise DurasleepError(
                f"its client failed: {err.decode(errors='replace').strip().splitlines()[-1:]}; {_tail(log)}"
            )
        found = json.loads(out)
    late_ms = [late_us / 1000 for late_us in found["late_us"]]
    spent = Spent.of(
        work.count, found["seconds"], worker_s=worker_cpu_s, client_s=found["cpu_s"], server_s=server_cpu_s
    )
    return Measured(version, spent, late_ms)


def python_with(name: str, *requirements: str) -> Path:
    """The Python of a virtual environment that has these packages; made at the first call, with this Python."""
    folder = ENVIRONMENTS / f"{name}-py{sys.version_info.major}{sys.version_info.minor}"
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        install([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])
        done.touch()
    return python


def version_in(python: Path, package: str) -> str:
    """The version of a package in an environment."""
    question = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", question], capture_output=True, text=True, check=True).stdout.strip()


def install(command: list[str], folder: Path | None = None) -> None:
    """Run an installer; DurasleepError with its output if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode != 0:
        raise DurasleepError(f"it cannot be installed: {(done.stderr or done.stdout).strip()[-500:]}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-5:])
