"""Step 5 of moving a shop from Celery: beat is gone, and the chord is a workflow.

Workers:  celery -A examples.moving.celery.step_5:celery worker --queues celery,labels
          durasleep worker examples.moving.celery.step_5:app
Orders:   python -m examples.moving.celery.step_5 order-1 order-2
"""

import asyncio
import os
import sys
import time
from typing import Any

from celery import Celery
from redis import Redis

from durasleep import Context, Durasleep, Retry, current
from durasleep.sync import Client
from examples.moving.celery.moved import moved

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
REVIEW_AFTER_S = float(os.environ.get("REVIEW_AFTER_S", "259200"))  # three days
COUNT_EVERY_S = float(os.environ.get("COUNT_EVERY_S", "900"))
ITEMS = ("tea", "cup")

store = Redis.from_url(REDIS_URL)
celery: Any = Celery("shop", broker=REDIS_URL, backend=REDIS_URL)  # it has no types
celery.conf.update(task_routes={"shop.print_label": {"queue": "labels"}})

app = Durasleep(REDIS_URL, namespace="shop")
client = Client(REDIS_URL, namespace="shop")


class BankDown(Exception):
    """The bank did not answer."""


def done(*words: str) -> None:
    """Write down what was done, by which process and when."""
    store.rpush("shop:done", " ".join((*words, str(os.getpid()), f"{time.time():.3f}")))


@moved(
    app,
    client,
    was=celery.task(name="shop.charge", autoretry_for=(BankDown,), max_retries=5, retry_backoff=True),
    retry=Retry(attempts=6, delay=1, backoff=2, delay_max=600, retry_on=(BankDown,)),
)
def charge(order: str) -> None:
    if store.incr(f"shop:tries:{order}") == 1:
        raise BankDown(order)
    done("charge", order)


@celery.task(name="shop.inform_partner", rate_limit="5/s")
def inform_partner(order: str) -> None:
    done("partner", order)


@celery.task(name="shop.print_label")
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


celery.task(name="shop.pack")(pack)  # for chords that have begun in Celery
celery.task(name="shop.ship")(ship)


@moved(app, client, was=celery.task(name="shop.ask_for_review"))
def ask_for_review(order: str) -> None:
    done("review", order)


@celery.task(name="shop.count_stock")
def count_stock_by_beat() -> None:
    count_stock_once(time.time())  # beat does not say for which time it has sent a task


@app.cron(every=COUNT_EVERY_S, name="count-stock", overlap="allow")
@app.task
def count_stock() -> None:
    at = current().scheduled_at
    assert at is not None  # only its schedule starts it
    count_stock_once(at.timestamp())


def count_stock_once(time_s: float) -> None:
    """Whoever comes first counts for this time; until beat is gone."""
    period = int(time_s // COUNT_EVERY_S)
    if store.set(f"shop:counted:{period}", 1, nx=True, ex=86_400):
        done("stock", str(period))


def place(order: str) -> None:
    """What the web site calls."""
    charge.delay(order)
    inform_partner.delay(order)
    print_label.delay(order)
    client.start(send_parcel, order)
    ask_for_review.apply_async((order,), countdown=REVIEW_AFTER_S)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        place(name)
