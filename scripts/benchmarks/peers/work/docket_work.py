"""docket's worker and client."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from common import Tally, arguments, send_all
from docket import ConcurrencyLimit, Docket, Worker

given = arguments()
tally = Tally(given.url, given.count)


async def job(due_ms: int) -> None:
    await tally.note(due_ms)


async def limited_job(
    due_ms: int,
    key: int,
    limit: ConcurrencyLimit = ConcurrencyLimit("key", max_concurrent=max(given.held, 1)),  # noqa: B008 - their way
) -> None:
    await tally.note(due_ms)


async def main() -> None:
    async with Docket(name="bench", url=f"{given.url}?max_connections={1_000 + given.concurrency}") as docket:
        docket.register(job)
        docket.register(limited_job)
        if given.role == "worker":
            async with Worker(docket, concurrency=given.concurrency) as worker:
                await tally.ready()
                await worker.run_forever()
        else:

            def send(due_ms: int, key: int) -> object:
                when = datetime.fromtimestamp(due_ms / 1000, UTC)
                if given.keys:
                    return docket.add(limited_job, when=when)(due_ms, key)
                return docket.add(job, when=when)(due_ms)

            await send_all(send, given)


asyncio.run(main())
