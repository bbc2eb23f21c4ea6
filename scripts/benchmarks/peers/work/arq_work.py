"""arq's worker and client."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker
from common import Tally, arguments, send_all

given = arguments()
tally = Tally(given.url, given.count)


async def job(ctx: dict[str, Any], due_ms: int) -> None:
    await tally.note(due_ms)


async def main() -> None:
    settings = RedisSettings.from_dsn(given.url)
    if given.role == "worker":
        worker = Worker([job], redis_settings=settings, max_jobs=given.concurrency, on_startup=lambda _: tally.ready())
        await worker.async_run()
    else:
        pool = await create_pool(settings)

        def send(due_ms: int, _key: int) -> object:
            return pool.enqueue_job("job", due_ms, _defer_until=datetime.fromtimestamp(due_ms / 1000, UTC))

        await send_all(send, given)
        await pool.aclose()


asyncio.run(main())
