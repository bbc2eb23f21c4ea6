"""BullMQ: a delayed job on Redis, in JavaScript."""

from __future__ import annotations

import json
import shutil

from durasleep.errors import DurasleepError
from scripts.benchmarks.peers.running import ENVIRONMENTS, WORK, Peer, install


def prepare() -> tuple[list[str], str]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise DurasleepError("it needs node and npm, of the packages nodejs and npm")
    folder = ENVIRONMENTS / "bullmq"
    package, client = (folder / "node_modules" / name / "package.json" for name in ("bullmq", "ioredis"))
    if not package.exists() or not client.exists():
        folder.mkdir(parents=True, exist_ok=True)
        install([npm, "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(folder), "bullmq", "ioredis"])
    script = folder / "bullmq_work.cjs"  # beside its packages, where node finds them
    shutil.copyfile(WORK / script.name, script)
    return [node, str(script)], json.loads(package.read_text())["version"]


PEER = Peer(
    "bullmq",
    "addBulk of 1,000 with a delay; a worker with that concurrency, removeOnComplete, else as it comes",
    prepare,
    limit="setGlobalConcurrency",
    workflows_times_min=1.1,
    tasks_times_min=1.3,
)
