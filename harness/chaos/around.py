"""Other users of the server while things break.

Clients in threads, forks and event loops; schedules that nobody can read; workers of retired groups; waiters that give
up.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis.exceptions as redis_errors

from durasleep import Durasleep, DurasleepError
from durasleep.client.client import store_of
from durasleep.protocol.keys import F, S
from durasleep.protocol.keyspaces import Keyspaces
from harness.chaos import reach
from harness.chaos.work import EFFECTS, app, asks_briefly, echo, sought_after, tick

ROOT = Path(__file__).parents[2]
SOUGHT = "around-sought-after"
"""The execution that many wait for, and on which nearly all give up."""
WAITERS_BYTES_MAX = 64_000
PRESENCE_S = 100  # after its last heartbeat, until all keys of a worker have expired
GOOD, BAD = "around-good", "around-bad"
QUIET_S = 120.0


class Around:
    """All of them, beside the work whose results are checked."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._lines = directory / "clients"
        self._log = directory / "around.log"
        self._directory = directory
        self._chance = random.Random(seed + 2)
        self._clients: subprocess.Popen[bytes] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.gave_up = 0
        self.retired = 0
        self.races = 0

    async def start(self) -> None:
        with self._lines.open("wb") as lines, self._log.open("ab") as log:
            self._clients = subprocess.Popen(
                [sys.executable, "-m", "harness.chaos.clients"], cwd=ROOT, stdout=lines, stderr=log
            )
        for once, pause_s in (
            (self._give_up, 0.05),
            (self._race, 0.1),
            (self._spoil_schedules, 1.0),
            (self._retire, 0.5),
        ):
            self._tasks.append(asyncio.create_task(_again_and_again(once, pause_s)))

    async def stop(self) -> None:
        """Begin nothing new; the clients come to their end."""
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
        if self._clients and self._clients.poll() is None:
            self._clients.terminate()
            try:
                await asyncio.to_thread(self._clients.wait, QUIET_S)
            except subprocess.TimeoutExpired:
                self._clients.kill()

    # -- what goes on

    async def _give_up(self) -> None:
        """A client that lives for a moment, and waits even less."""
        async with Durasleep(reach.source()) as client:
            handle = await client.rpc(SOUGHT, sought_after)
            with suppress(TimeoutError):
                await handle.result(timeout=self._chance.uniform(0.01, 0.2))
            self.gave_up += 1

    async def _race(self) -> None:
        """A workflow that also waits for it, and gives up soon."""
        await app.rpc(f"around-race-{self.races}", asks_briefly, SOUGHT)
        self.races += 1

    async def _spoil_schedules(self) -> None:
        """Every second schedule has a time zone that does not exist; both kinds are due again and again."""
        for name in (GOOD, BAD):
            await app.schedule(name, "0 0 1 1 *", tick)
        spaces = (await store_of(app)).keyspaces
        async with reach.client() as client:
            await client.hset(spaces.of(BAD).schedule(BAD), S["zone"], "Mars/Base")
            for name in (GOOD, BAD):
                due, keys = int(time.time() * 1000), spaces.of(name)
                await client.hset(keys.schedule(name), S["due"], due)
                await client.zadd(keys.timers, {f"{name}~cron": due})

    async def _retire(self) -> None:
        """A worker of a group that is not used afterwards, killed while it serves."""
        command = [sys.executable, "-m", "durasleep", "worker", "harness.chaos.work:app"]
        with self._log.open("ab") as log:
            worker = subprocess.Popen(
                [*command, "--group", f"retired-{self.retired}"],
                cwd=ROOT,
                env=os.environ | {EFFECTS: str(self._directory / "retired-effects")},
                stdout=log,
                stderr=log,
            )
        try:
            await asyncio.sleep(self._chance.uniform(2.0, 6.0))
        finally:
            worker.kill()
            worker.wait()
        self.retired += 1

    # -- what must be true afterwards

    async def violations(self) -> list[str]:
        """When everything works again and the clients have ended."""
        async with reach.client() as client:
            return await self._violations(client, (await store_of(app)).keyspaces)

    async def _violations(self, client: Any, spaces: Keyspaces) -> list[str]:
        found = [line for line in self._lines.read_text().splitlines() if line.startswith("wrong: ")]
        if not self._told():
            found.append("the clients in threads, forks and loops did not come to their end")
        waiters = await client.hget(spaces.of(SOUGHT).promise(SOUGHT), F["waiters"]) or b""
        if len(waiters) > WAITERS_BYTES_MAX:
            found.append(f"{len(waiters)} bytes of waiters are left of those that gave up")
        await app.rpc(SOUGHT, sought_after)  # a failover may have lost it
        live = asyncio.create_task(_result_of(SOUGHT))
        await app.promises.resolve(f"{SOUGHT}~1", "found")
        if await live != "found":
            found.append(f"who waits for {SOUGHT} did not hear of it")
        ended = [await _result_of(f"around-race-{n}") for n in range(self.races)]
        found += [f"around-race-{n} ended with {one}" for n, one in enumerate(ended) if one != "gave up"]
        if not [key async for key in client.scan_iter(match=spaces.pattern(f"promise:{GOOD}@*"), count=1000)]:
            found.append("a schedule never ran beside one that cannot be read")
        for name in (GOOD, BAD):
            await app.unschedule(name)
        found += await self._stale_workers(client, spaces)
        answer = await (await app.rpc("around-last", echo, "last")).result(timeout=QUIET_S)
        if answer != "last":
            found.append(f"the last call was told {answer!r}")
        return found

    async def _stale_workers(self, client: Any, spaces: Keyspaces) -> list[str]:
        beats: list[tuple[bytes, float]] = []
        for keys in spaces:
            beats += await client.zrange(keys.workers, 0, -1, withscores=True)
        now_s = time.time()
        return [
            f"{name.decode()} is still called a worker, {now_s - beat / 1000:.0f} s after its last beat"
            for name, beat in beats
            if now_s - beat / 1000 > PRESENCE_S
        ]

    def report(self) -> dict[str, int]:
        """How often each of them happened."""
        return {**self._told(), "waited_in_vain": self.gave_up, "races": self.races, "retired_groups": self.retired}

    def _told(self) -> dict[str, int]:
        """What the clients report at their end."""
        lines = [line for line in self._lines.read_text().splitlines() if line.startswith("{")]
        return json.loads(lines[-1]) if lines else {}


async def _result_of(id: str) -> str:
    try:
        return await app.get(id, str).result(timeout=QUIET_S)
    except DurasleepError as error:
        return repr(error)


async def _again_and_again(once: Callable[[], Awaitable[None]], pause_s: float) -> None:
    """Repeat it later if Redis cannot do it now; any other error is one of this program."""
    while True:
        with suppress(DurasleepError, redis_errors.RedisError, OSError):
            await once()
        await asyncio.sleep(pause_s)
