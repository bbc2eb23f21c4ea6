"""Workers that a test can kill, stop and drain: real processes, or one in the test's own loop; and how to wait for
them.

Nothing here waits for an amount of time: each wait is for a line, a state or a file, and fails after ``PATIENCE_S``.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from durasleep import Durasleep, Worker
from durasleep.client.client import store_of
from durasleep.errors import NotFound
from durasleep.protocol import membership
from durasleep.protocol.keys import F, Keyspace
from durasleep.query.describe import Description
from durasleep.transport.batcher import Batcher
from durasleep.transport.connection import Link
from harness import versions
from tests.service.functions import NAMESPACE_VARIABLE, gate_of

PATIENCE_S = 30.0  # below the timeout of a test, so that it fails with a sentence
LOOK_S = 0.01
ROOT = Path(__file__).parents[2]


async def eventually(look: Callable[[], Any], what: str) -> Any:
    """The answer of ``look``, sync or async, when it is true; fails with ``what`` it waited for."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        found = look()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < give_up_at, f"waited in vain for {what}; last seen: {found!r}"
        await asyncio.sleep(LOOK_S)


def ended(threads: Iterable[threading.Thread]) -> bool:
    """Whether threads that were told to end have ended; their last act is to report it."""
    threads = [thread for thread in threads if thread is not threading.current_thread()]
    for thread in threads:
        thread.join(PATIENCE_S)
    return not any(thread.is_alive() for thread in threads)


def load_from_hash(client: Any, keys: Keyspace, id: str) -> None:
    """A queued execution gets an entry without data: the next worker reads the current data of its hash."""
    promise, queue = keys.promise(id), keys.queue("workers")
    entry, epoch = client.hmget(promise, F["entry"], F["epoch"])
    client.hset(promise, F["entry"], client.xadd(queue, {"i": id, "e": epoch}))
    client.xdel(queue, entry)


async def beats_of(app: Durasleep, consumer: str, count: int) -> None:
    """Wait until a worker has sent this many heartbeats from now on."""
    store, seen = await store_of(app), set[int | None]()

    async def look() -> bool:
        seen.add(await store.call(membership.read_beat(store.keyspaces[0], consumer)))
        return len(seen) > count

    await eventually(look, f"{count} beats of {consumer}")


async def until(app: Durasleep, id: str, status: str) -> Description:
    """The description of an execution, once it has this status. It may not be there yet: a call to another partition
    takes a moment.
    """
    last: Description | None = None

    async def is_so() -> bool:
        nonlocal last
        with contextlib.suppress(NotFound):
            last = await app.describe(id)
        return last is not None and last.status == status

    try:
        await eventually(is_so, f"{id} to be {status}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {last}") from None
    assert last is not None
    return last


async def batcher_of(app: Durasleep) -> Batcher:
    """What sends the calls of a client of a single server."""
    calls = (await store_of(app))._calls  # pyright: ignore[reportPrivateUsage]
    assert isinstance(calls, Batcher)
    return calls


async def link_of(app: Durasleep) -> Link:
    """The connection over which it sends them."""
    return (await batcher_of(app))._link  # pyright: ignore[reportPrivateUsage]


class Effects:
    """The lines that steps have written, and the gates at which they wait."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._path = path

    @classmethod
    def of(cls, path: str) -> Effects:
        """Those in a file of this name."""
        return cls(Path(path))

    def lines(self) -> list[str]:
        return self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []

    def count(self, start: str) -> int:
        """How many lines begin with this text."""
        return sum(line.startswith(start) for line in self.lines())

    async def standing(self, gate: str, times: int = 1) -> list[tuple[int, float]]:
        """Which processes came to a gate and when, as pid and time, when there were ``times``."""

        def look() -> list[tuple[int, float]] | None:
            found = re.findall(rf"^{re.escape(gate)} pid=(\d+) at=([\d.]+)$", "\n".join(self.lines()), re.MULTILINE)
            return [(int(pid), float(at)) for pid, at in found] if len(found) >= times else None

        return await eventually(look, f"{times} at gate {gate}")

    def open(self, gate: str) -> None:
        gate_of(self.path, gate).touch()


class WorkerProcess:
    """``durasleep worker`` in a process of its own, with its log in a file."""

    def __init__(
        self,
        url: str,
        namespace: str,
        name: str,
        log: Path,
        *,
        app: str,
        options: tuple[str, ...],
        package: Path | None = None,
        module: str = "functions",
    ) -> None:
        self.name = name
        self._log = log
        module = module if "." in module else f"tests.service.{module}"
        command = [*versions.command(package), "worker", f"{module}:{app}"]
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [*command, "--url", url, "--name", name, *options],
                cwd=ROOT,
                env={**os.environ, NAMESPACE_VARIABLE: namespace, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    async def line(self, pattern: str) -> str:
        """The first line of its log that matches, when there is one."""

        def look() -> str | None:
            found = re.search(f"^.*(?:{pattern}).*$", self.log(), re.MULTILINE)
            return found[0] if found else None

        try:
            return await eventually(look, f"{pattern!r} in the log of {self.name}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None

    async def ready(self) -> WorkerProcess:
        await self.line("is ready")
        return self

    async def exited(self) -> int:
        """Its exit code, when it has ended; negative for the signal that ended it."""
        await eventually(lambda: not self.alive, f"{self.name} to exit")
        return self._process.wait()

    async def kill(self) -> None:
        """kill -9, and wait for its end."""
        self.signal(signal.SIGKILL)
        await self.exited()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def clean_up(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()


class Workers:
    """Starts worker processes for one test; ``clean_up`` ends them all."""

    def __init__(self, url: str, namespace: str, directory: Path) -> None:
        self._url = url
        self._namespace = namespace
        self._directory = directory
        self._started: list[WorkerProcess] = []

    def begin(
        self, name: str, *options: str, app: str = "app", package: Path | None = None, module: str = "functions"
    ) -> WorkerProcess:
        """Start a worker, of the version in ``package`` if that is given; await its ``ready()``."""
        log = self._directory / f"{name}-{len(self._started)}.log"
        worker = WorkerProcess(
            self._url, self._namespace, name, log, app=app, options=options, package=package, module=module
        )
        self._started.append(worker)
        return worker

    async def start(self, *names: str, app: str = "app") -> list[WorkerProcess]:
        """Start workers at the same time, and wait until all are ready."""
        started = [self.begin(name, app=app) for name in names]
        return [await worker.ready() for worker in started]

    def of_pid(self, pid: int) -> WorkerProcess:
        return next(worker for worker in self._started if worker.pid == pid)

    def clean_up(self) -> None:
        for worker in self._started:
            worker.clean_up()


@asynccontextmanager
async def serving(
    app: Durasleep, name: str = "w1", *, concurrency: int = 100, **options: Any
) -> AsyncGenerator[Worker]:
    """A worker in this loop; it leaves at once at the end."""
    worker = app.worker(name=name, concurrency=concurrency, **options)
    running = asyncio.create_task(worker.run())
    ready = asyncio.create_task(worker.ready.wait())
    try:
        await asyncio.wait((running, ready), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not running.done():
            yield worker
    finally:
        worker.abort()
        await running
