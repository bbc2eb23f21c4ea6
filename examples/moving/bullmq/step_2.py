"""Step 2 of moving mails from BullMQ: priorities, the rate limit and the schedule.

Worker:  python -m examples.moving.bullmq.step_2 work
         durasleep worker examples.moving.bullmq.step_2:app
Mails:   python -m examples.moving.bullmq.step_2 ada bob
"""

import asyncio
import os
import sys
import time
from typing import Any

from bullmq import FlowProducer, Queue, Worker
from redis.asyncio import Redis

from durasleep import Durasleep, Limit, Retry

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
REMIND_AFTER_S = float(os.environ.get("REMIND_AFTER_S", "259200"))  # three days
DIGEST_EVERY_S = float(os.environ.get("DIGEST_EVERY_S", "3600"))
PARTS = ("orders", "visits")

store = Redis.from_url(REDIS_URL)
app = Durasleep(REDIS_URL, namespace="mails")
mail_server = Limit("mail-server", rate="20/s", burst=20)


async def done(what: str, whom: str) -> None:
    """Write down what was done, by which process and when."""
    await store.rpush("mails:done", f"{what} {whom} {os.getpid()} {time.time():.3f}")  # pyright: ignore[reportGeneralTypeIssues]


@app.task(retry=Retry(attempts=3, delay=0.2), limit=mail_server)
async def remind(who: str) -> None:
    if await store.incr(f"mails:tries:{who}") == 1:
        raise ConnectionError("the mail server is busy")
    await done("remind", who)


@app.task(priority=5, limit=mail_server)
async def newsletter(who: str) -> None:
    await done("newsletter", who)


@app.cron(every=DIGEST_EVERY_S)
@app.task
async def digest() -> None:
    await done("digest", "all")


async def process(job: Any, token: str) -> Any:
    match job.name:
        case "remind":
            await remind(job.data["who"])
        case "newsletter":
            await newsletter(job.data["who"])
        case "digest":
            await digest()
        case "collect":
            await job.updateProgress(50)
            await done(f"collect-{job.data['part']}", job.data["who"])
            return job.data["part"]
        case "report":
            parts = await job.getChildrenValues()
            await done(f"report-{'-'.join(sorted(parts.values()))}", job.data["who"])
        case _:
            raise ValueError(job.name)
    return None


async def send(queue: Queue, flows: FlowProducer, who: str) -> None:
    """What the web site calls when somebody has registered."""
    await app.options(delay=REMIND_AFTER_S).rpc(f"remind-{who}", remind, who)
    await app.start(newsletter, who)
    children = [{"name": "collect", "queueName": "mails", "data": {"who": who, "part": part}} for part in PARTS]
    await flows.add({"name": "report", "queueName": "mails", "data": {"who": who}, "children": children})


async def work() -> None:
    queue = Queue("mails", {"connection": REDIS_URL})
    await queue.removeJobScheduler("digest")
    make: Any = Worker  # its types know no limiter
    worker = make("mails", process, {"connection": REDIS_URL, "limiter": {"max": 20, "duration": 1000}})
    print("works", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await worker.close()


async def main() -> None:
    if sys.argv[1:] == ["work"]:
        await work()
    queue, flows = Queue("mails", {"connection": REDIS_URL}), FlowProducer({"connection": REDIS_URL})
    for who in sys.argv[1:]:
        await send(queue, flows, who)
    await queue.close()
    await flows.close()
    await app.aclose()


if __name__ == "__main__":
    asyncio.run(main())
