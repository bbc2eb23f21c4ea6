"""One measurement for ``cpu``: ``python -m scripts.benchmarks.alone KIND SERVER COUNT CONCURRENCY`` prints it as JSON.

It is a process of its own because its durasleep may be that of another checkout. So it uses only the public interface,
and of the benchmarks only modules that do the same. It is the client, and starts the server and the worker.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

import durasleep
from durasleep.errors import DurasleepError
from scripts.benchmarks import work
from scripts.benchmarks.bench import bench_on


async def measure(kind: str, server: str, count: int, concurrency: int) -> dict[str, object]:
    async with bench_on(server) as bench:
        finished, spent = await work.run(bench, work.KINDS[kind], count=count, concurrency=concurrency)
    package = Path(durasleep.__file__).resolve().parent
    return {
        "server": bench.name,
        "package": str(package),
        "finished": finished,
        "spent": asdict(spent),
    }


def main() -> int:
    kind, server, count, concurrency = sys.argv[1:]
    try:
        print(json.dumps(asyncio.run(measure(kind, server, int(count), int(concurrency)))))
    except DurasleepError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
