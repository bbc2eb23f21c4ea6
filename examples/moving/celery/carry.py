"""Carries what waits in a queue of Celery over to durasleep: python -m examples.moving.celery.carry celery

For countdowns of days, which nobody wants to wait for. First stop the workers of the queue: with SIGTERM they put what
waits for a time back into it. One MULTI takes a message out of Celery and starts its function under the id of the
task, so each is carried once, whatever kills this program and however often it runs.
"""

import base64
import json
import os
import sys
from datetime import datetime
from typing import Any

from redis import Redis, WatchError

from durasleep.sync import Client
from examples.moving.celery.drained import PRIORITIES

FUNCTIONS = {"shop.ask_for_review": "ask_for_review"}
"""What each task is called in durasleep. The others stay where they are."""


def carry(store: Redis, client: Client, queue: str) -> int:
    """How many messages were carried over."""
    untyped: Any = store  # redis-py says that a client may be async
    lists = [queue + priority for priority in PRIORITIES]
    return sum(carry_one(untyped, client, name, message) for name in lists for message in untyped.lrange(name, 0, -1))


def carry_one(store: Any, client: Client, queue: str, message: bytes) -> bool:
    """Whether it was carried over; false if it is not ours, or not there any more."""
    if (task := task_of(json.loads(message))) is None:
        return False
    id, name, eta, args, kwargs = task
    with store.pipeline() as pipe:
        while True:
            pipe.watch(queue)
            if pipe.lpos(queue, message) is None:
                return False
            pipe.multi()
            pipe.lrem(queue, 1, message)
            client.options(delay=eta, pipeline=pipe).rpc(id, name, *args, **kwargs)
            try:
                pipe.execute()
            except WatchError:
                continue  # something came into the queue, or left it: look again
            return True


def task_of(message: dict[str, Any]) -> tuple[str, str, datetime | None, list[Any], dict[str, Any]] | None:
    """Its id, function, time and arguments; None for what must end in Celery, such as a part of a chain or chord."""
    headers = message["headers"]
    if (
        headers.get("task") not in FUNCTIONS
        or message["content-type"] != "application/json"
        or "compression" in headers
    ):
        return None
    args, kwargs, embedded = json.loads(base64.b64decode(message["body"]))
    if any(embedded.values()):
        return None
    eta = headers["eta"] and datetime.fromisoformat(headers["eta"])
    return headers["id"], FUNCTIONS[headers["task"]], eta or None, args, kwargs


if __name__ == "__main__":
    url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
    with Redis.from_url(url) as broker, Client(url, namespace="shop") as shop:
        print(f"carried over: {sum(carry(broker, shop, queue) for queue in sys.argv[1:] or ['celery'])}")
