"""docket: a delayed task on Redis streams, in Python."""

from __future__ import annotations

from scripts.benchmarks.peers.running import WORK, Peer, python_with, version_in


def prepare() -> tuple[list[str], str]:
    python = python_with("docket", "pydocket")
    return [str(python), str(WORK / "docket_work.py")], version_in(python, "pydocket")


PEER = Peer(
    "docket",
    "docket.add(..., when=...), 100 at a time; a worker with that concurrency and the connections it needs, else as it"
    " comes",
    prepare,
    limit="ConcurrencyLimit of an argument",
    limits_by_key=True,
    workflows_times_min=25,
)
