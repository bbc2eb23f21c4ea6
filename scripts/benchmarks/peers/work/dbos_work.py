"""DBOS's worker and client; a workflow sleeps in it as ours do."""

from __future__ import annotations

import asyncio
import os
import time

from common import Tally, arguments, send_all
from dbos import DBOS, DBOSClient

given = arguments()
postgres = os.environ["BENCH_POSTGRES_URL"]
tally = Tally(given.url, given.count)


@DBOS.workflow(name="job")
async def job(due_ms: int) -> None:
    await DBOS.sleep_async(max(0, due_ms / 1000 - time.time()))
    await tally.note(due_ms)


async def work() -> None:
    DBOS(config={"name": "bench", "system_database_url": postgres, "run_admin_server": False})
    DBOS.launch()
    await DBOS.register_queue_async("bench")
    await tally.ready()
    await asyncio.Event().wait()


async def send() -> None:
    client = DBOSClient(system_database_url=postgres)

    def one(due_ms: int, _key: int) -> object:
        return client.enqueue_async({"queue_name": "bench", "workflow_name": "job"}, due_ms)

    await send_all(one, given)


asyncio.run(work() if given.role == "worker" else send())
