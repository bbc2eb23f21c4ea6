"""Carries the delayed reminders of BullMQ over to durasleep: python -m examples.moving.bullmq.carry

One MULTI removes a job from BullMQ and starts its function in durasleep, so each is in one of both at any time,
whatever kills this program and however often it runs. The workers of both may run meanwhile: a job whose time has come
in between stays in BullMQ.
"""

import asyncio
import json
import os
from datetime import UTC, datetime
from typing import Any

from bullmq import Queue
from redis.asyncio import Redis, WatchError

from durasleep import Durasleep

FUNCTIONS = {"remind": "remind"}
"""What each job is called in durasleep. The others stay where they are."""


async def carry(store: Any, queue: Any, app: Durasleep) -> int:
    """How many jobs were carried over, with a client of redis-py and a queue of BullMQ."""
    delayed = await store.zrange(queue.keys["delayed"], 0, -1)
    return sum([await carry_one(store, queue, app, id.decode()) for id in delayed])


async def carry_one(store: Any, queue: Any, app: Durasleep, id: str) -> bool:
    """Whether it was carried over; false if it is not ours, or waits for its time no more."""
    async with store.pipeline() as pipe:
        while True:
            await pipe.watch(queue.toKey(id))  # BullMQ writes there when the time of the job has come
            score = await pipe.zscore(queue.keys["delayed"], id)
            job = {name.decode(): value for name, value in (await pipe.hgetall(queue.toKey(id))).items()}
            is_of_others = "rjk" in job or "parentKey" in job  # of a job scheduler, or of a flow
            if score is None or is_of_others or job["name"].decode() not in FUNCTIONS:
                return False
            due = datetime.fromtimestamp(int(score) // 4096 / 1000, UTC)
            pipe.multi()
            remove = queue.scripts.commands["removeJob"]
            await remove(keys=[queue.toKey(id), queue.keys["repeat"]], args=[id, 0, queue.keys[""]], client=pipe)
            caller = app.options(delay=due, pipeline=pipe)
            name, data = FUNCTIONS[job["name"].decode()], json.loads(job["data"])
            await caller.rpc(f"mails-{id}" if id.isdigit() else id, name, **data)
            try:
                await pipe.execute()
            except WatchError:
                continue  # its time has come, or somebody has changed it: look again
            return True


async def main() -> None:
    url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
    queue = Queue("mails", {"connection": url})
    async with Redis.from_url(url) as store, Durasleep(url, namespace="mails") as app:
        print(f"carried over: {await carry(store, queue, app)}")
    await queue.close()


if __name__ == "__main__":
    asyncio.run(main())
