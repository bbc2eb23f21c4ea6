"""Step 2 of moving a shop from Celery: what waits for a time begins in durasleep.

Workers:  celery -A examples.moving.celery.step_2:celery worker --queues celery,labels
          celery -A examples.moving.celery.step_2:celery beat
          durasleep worker examples.moving.celery.step_2:app
Orders:   python -m examples.moving.celery.step_2 order-1 order-2
"""

import os
import sys
import time
from typing import Any

from celery import Celery, chord
from redis import Redis

from durasleep import Durasleep
from durasleep.sync import Client
from examples.moving.celery.moved import moved

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
REVIEW_AFTER_S = float(os.environ.get("REVIEW_AFTER_S", "259200"))  # three days
COUNT_EVERY_S = float(os.environ.get("COUNT_EVERY_S", "900"))
ITEMS = ("tea", "cup")

store = Redis.from_url(REDIS_URL)
celery: Any = Celery("shop", broker=REDIS_URL, backend=REDIS_URL)  # it has no types
celery.conf.update(
    task_routes={"shop.print_label": {"queue": "labels"}},
    beat_schedule={"count-stock": {"task": "shop.count_stock", "schedule": COUNT_EVERY_S}},
)

app = Durasleep(REDIS_URL, namespace="shop")
client = Client(REDIS_URL, namespace="shop")


class BankDown(Exception):
    """The bank did not answer."""


def done(*words: str) -> None:
    """Write down what was done, by which process and when."""
    store.rpush("shop:done", " ".join((*words, str(os.getpid()), f"{time.time():.3f}")))


@celery.task(name="shop.charge", autoretry_for=(BankDown,), max_retries=5, retry_backoff=True)
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


@celery.task(name="shop.pack")
def pack(order: str, item: str) -> str:
    done(f"pack-{item}", order)
    return item


@celery.task(name="shop.ship")
def ship(items: list[str], order: str) -> None:
    done(f"ship-{'-'.join(items)}", order)


@moved(app, client, was=celery.task(name="shop.ask_for_review"))
def ask_for_review(order: str) -> None:
    done("review", order)


@celery.task(name="shop.count_stock")
def count_stock() -> None:
    done("stock", "counted")


def place(order: str) -> None:
    """What the web site calls."""
    charge.delay(order)
    inform_partner.delay(order)
    print_label.delay(order)
    chord(pack.s(order, item) for item in ITEMS)(ship.s(order))
    ask_for_review.apply_async((order,), countdown=REVIEW_AFTER_S)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        place(name)
