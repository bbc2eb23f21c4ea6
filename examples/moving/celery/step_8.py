"""Step 8 of moving a shop from Celery: Celery is gone, and every call has an id, so that an order placed twice is one.

Workers:  durasleep worker examples.moving.celery.step_8:app
          durasleep worker examples.moving.celery.step_8:app --group labels
Orders:   python -m examples.moving.celery.step_8 order-1 order-2
"""

import asyncio
import os
import sys
import time

from redis import Redis

from durasleep import Context, Durasleep, Limit, Retry, current
from durasleep.sync import Client

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
REVIEW_AFTER_S = float(os.environ.get("REVIEW_AFTER_S", "259200"))  # three days
COUNT_EVERY_S = float(os.environ.get("COUNT_EVERY_S", "900"))
ITEMS = ("tea", "cup")

store = Redis.from_url(REDIS_URL)
app = Durasleep(REDIS_URL, namespace="shop")
client = Client(REDIS_URL, namespace="shop")


class BankDown(Exception):
    """The bank did not answer."""


def done(*words: str) -> None:
    """Write down what was done, by which process and when."""
    store.rpush("shop:done", " ".join((*words, str(os.getpid()), f"{time.time():.3f}")))


@app.task(retry=Retry(attempts=6, delay=1, backoff=2, delay_max=600, retry_on=(BankDown,)))
def charge(order: str) -> None:
    if store.incr(f"shop:tries:{order}") == 1:
        raise BankDown(order)
    done("charge", order)


@app.task(limit=Limit("partner", rate="5/s"))
def inform_partner(order: str) -> None:
    done("partner", order)


@app.task
def print_label(order: str) -> None:
    done("label", order)


@app.workflow
async def send_parcel(ctx: Context, order: str) -> None:
    items = await asyncio.gather(*(ctx.rpc(pack, order, item) for item in ITEMS))
    await ctx.rpc(ship, items, order)


@app.task
def pack(order: str, item: str) -> str:
    done(f"pack-{item}", order)
    return item


@app.task
def ship(items: list[str], order: str) -> None:
    done(f"ship-{'-'.join(items)}", order)


@app.task
def ask_for_review(order: str) -> None:
    done("review", order)


@app.cron(every=COUNT_EVERY_S, name="count-stock", overlap="allow")
@app.task
def count_stock() -> None:
    at = current().scheduled_at
    assert at is not None  # only its schedule starts it
    time_s = at.timestamp()
    done("stock", str(int(time_s // COUNT_EVERY_S)))


def place(order: str) -> None:
    """What the web site calls."""
    client.rpc(f"charge-{order}", charge, order)
    client.rpc(f"partner-{order}", inform_partner, order)
    client.options(target="labels").rpc(f"label-{order}", print_label, order)
    client.rpc(f"parcel-{order}", send_parcel, order)
    client.options(delay=REVIEW_AFTER_S).rpc(f"review-{order}", ask_for_review, order)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        place(name)
