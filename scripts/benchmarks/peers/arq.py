"""arq: a deferred job on a sorted set, in Python."""

from __future__ import annotations

from scripts.benchmarks.peers.running import WORK, Peer, python_with, version_in


def prepare() -> tuple[list[str], str]:
    python = python_with("arq", "arq")
    return [str(python), str(WORK / "arq_work.py")], version_in(python, "arq")


PEER = Peer(
    "arq",
    "enqueue_job(..., _defer_until=...), 100 at a time; a worker with that concurrency as max_jobs, else as it comes",
    prepare,
)
