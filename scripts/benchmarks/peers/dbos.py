"""DBOS: a durable sleep on Postgres, in Python. It needs a Postgres, which BENCH_POSTGRES_URL names."""

from __future__ import annotations

import os

from durasleep.errors import DurasleepError
from scripts.benchmarks.peers.running import WORK, Peer, python_with, version_in

POSTGRES = "BENCH_POSTGRES_URL"


def prepare() -> tuple[list[str], str]:
    if POSTGRES not in os.environ:
        raise DurasleepError(f"it needs a Postgres; name one to be filled: {POSTGRES}=postgresql://user@host/database")
    python = python_with("dbos", "dbos", "redis")
    return [str(python), str(WORK / "dbos_work.py")], version_in(python, "dbos")


PEER = Peer(
    "dbos",
    "DBOSClient.enqueue_async, 100 at a time; workflows that DBOS.sleep_async, on a queue as it comes, whatever the"
    " concurrency; what its Postgres uses is not measured",
    prepare,
)
