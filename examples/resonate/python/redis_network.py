"""Resonate's Python SDK straight on Redis: what its server would do, the scripts of durasleep do.

    pip install resonate-sdk redis
    python -m durasleep.protocol.script lua      writes the scripts of the installed durasleep into the folder `lua`
    durasleep init                               makes the namespace, if it is new

    redis = RedisNetwork("redis://localhost:6379", scripts="lua", group="default")
    resonate = Resonate(network=redis, group="default", pid=redis.pid)

Gateways and other programs may use the namespace at the same time. Schedules need a gateway.
"""

import asyncio
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import redis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError
from resonate_base import ConnectorError

RETAIN_S = 60.0  # between two looks for what has settled long ago
WAIT_MS = 60_000  # at most, if no hint comes
LATE_MS = 5  # a gateway that looks on time makes what is due of schedules


class RedisNetwork:
    """The ``Network`` and the ``Source`` of the SDK. ValueError if the namespace has not one partition."""

    def __init__(self, url: str, *, scripts: str, group: str = "default", namespace: str = "durasleep") -> None:
        with redis.from_url(url, decode_responses=True) as asked:
            partitions = asked.hget(f"{{{namespace}}}:meta", "partitions")
        if partitions is None:
            raise ValueError(f"there is no namespace {namespace}: durasleep init makes it")
        if partitions != "1":
            raise ValueError(f"the namespace has {partitions} partitions: this needs one")
        patience = Retry(ExponentialBackoff(cap=1), 10)  # some seconds, as a gateway has
        pool = BlockingConnectionPool.from_url(
            url, max_connections=16, timeout=None, socket_timeout=10, decode_responses=True, retry=patience
        )
        self._redis = Redis(connection_pool=pool)
        self._own = f"{{{namespace}:0}}:r:"
        names = ("rpc", "tick", "take", "retain")
        self._scripts = {
            name: self._redis.register_script(Path(scripts, f"resonate_{name}.lua").read_text()) for name in names
        }
        self.pid = uuid.uuid4().hex
        self._group, self._receivers = group, list[Callable[[str], None]]()
        self._hint, self._running = asyncio.Event(), list[asyncio.Task[None]]()

    def unicast(self) -> str:
        return f"poll://uni@{self._group}/{self.pid}"

    def resolve_target(self, target: str) -> str:
        return f"poll://any@{target}"

    def recv(self, callback: Callable[[str], None]) -> None:
        self._receivers.append(callback)

    async def start(self) -> None:
        self._running = [asyncio.create_task(self._keep(one)) for one in (self._listen, self._deliver, self._retain)]

    async def stop(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._redis.aclose()

    async def send(self, req: str, headers: dict[str, str] | None = None) -> str:  # noqa: ARG002
        try:
            return (await self._call("rpc", req, "", ""))[1]
        except (RedisError, OSError) as error:
            raise ConnectorError(error) from error

    async def _call(self, name: str, *args: str) -> list:
        return await self._scripts[name](keys=[self._own, f"{self._own}timers"], args=args)

    async def _keep(self, work: Callable) -> None:
        """Go on when Redis is back."""
        while True:
            with suppress(RedisError, OSError):
                await work()
            await asyncio.sleep(1)

    async def _listen(self) -> None:
        """A script has written that something is ready, or due earlier."""
        last = "0"
        while True:
            for _, entries in await self._redis.xread({f"{self._own}wake": last}, block=5000) or []:
                last = entries[-1][0]
            self._hint.set()

    async def _deliver(self) -> None:
        """Do what is due, take what is ready, and wait until something else is."""
        addresses = self.resolve_target(self._group), self.unicast()
        while True:
            self._hint.clear()
            now_ms, _, _, next_ms, *_ = await self._call("tick", "100", "")
            taken = await self._call("take", "16", "", *addresses)
            for message in [body for messages in taken for body in messages[1::2]]:
                for receive in self._receivers:
                    receive(message)
            wait_ms = max(0, int(next_ms) - int(now_ms)) + LATE_MS if next_ms else WAIT_MS
            if not any(taken):
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._hint.wait(), min(wait_ms, WAIT_MS) / 1000)

    async def _retain(self) -> None:
        while True:
            await self._call("retain", "100", "")
            await asyncio.sleep(RETAIN_S)
