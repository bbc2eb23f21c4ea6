"""docket's worker and client."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from common import Tally, arguments, send_all
from docket import Docket, Worker

role, url, count, concurrency, delay_ms, every_ms, given_s = arguments()
tally = Tally(url, count)


async def job(due_ms: int) -> None:
    await tally.note(due_ms)


async def main() -> None:
    async with Docket(name="bench", url=f"{url}?max_connections={1_000 + concurrency}") as docket:
        docket.register(job)
        if role == "worker":
            async with Worker(docket, concurrency=concurrency) as worker:
                await tally.ready()
                await worker.run_forever()
        else:

            def send(due_ms: int) -> object:
                return docket.add(job, when=datetime.fromtimestamp(due_ms / 1000, UTC))(due_ms)

            await send_all(send, url, count, delay_ms, every_ms, given_s)


asyncio.run(main())
