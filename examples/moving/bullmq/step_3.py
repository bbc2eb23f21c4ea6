"""Step 3 of moving mails from BullMQ: the flow is a workflow, and BullMQ is gone.

Worker:  durasleep worker examples.moving.bullmq.step_3:app
Mails:   python -m examples.moving.bullmq.step_3 ada bob
"""

import asyncio
import os
import sys
import time

from redis.asyncio import Redis

from durasleep import Context, Durasleep, Limit, Retry, progress

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


@app.task
async def collect(part: str, who: str) -> str:
    progress(1, 2)
    await done(f"collect-{part}", who)
    return part


@app.workflow
async def report(ctx: Context, who: str) -> None:
    parts = await asyncio.gather(*(ctx.rpc(collect, part, who) for part in PARTS))
    await ctx.run(done, f"report-{'-'.join(sorted(parts))}", who)


async def send(who: str) -> None:
    """What the web site calls when somebody has registered."""
    await app.options(delay=REMIND_AFTER_S).rpc(f"remind-{who}", remind, who)
    await app.start(newsletter, who)
    await app.start(report, who)


async def main() -> None:
    async with app:
        for who in sys.argv[1:]:
            await send(who)


if __name__ == "__main__":
    asyncio.run(main())
