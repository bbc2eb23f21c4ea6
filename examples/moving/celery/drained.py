"""What Celery still has in its Redis: python -m examples.moving.celery.drained celery labels

Names the queues, of which each priority has one of its own. Exit code 1 while something is left. A task that is
running now is not among it: its message is gone already. A worker that gets SIGTERM finishes it before it ends.
"""

import os
import sys
from typing import Any

from redis import Redis

PRIORITIES = ("", "\x06\x163", "\x06\x166", "\x06\x169")
"""What follows the name of a queue in the names of its lists."""


def left(store: Redis, queues: list[str]) -> dict[str, int]:
    """How many messages wait in each queue, and how many are with a worker: for a countdown, a retry or a rate limit.

    Those of a worker that was killed are with it, too, until the visibility timeout.
    """
    untyped: Any = store  # redis-py says that a client may be async
    found = {queue: sum(untyped.llen(queue + priority) for priority in PRIORITIES) for queue in queues}
    return found | {"unacked": untyped.hlen("unacked")}


if __name__ == "__main__":
    with Redis.from_url(os.environ.get("REDIS_URL", "redis://localhost:6379/0")) as store:
        counts = left(store, sys.argv[1:] or ["celery"])
    for name, count in counts.items():
        print(f"{name}: {count}")
    sys.exit(1 if any(counts.values()) else 0)
