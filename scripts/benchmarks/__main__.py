"""The command: ``scripts/bench NAME [options]``."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from rich.console import Console

from durasleep.errors import DurasleepError
from scripts.benchmarks import (
    channels,
    cpu,
    dashboard,
    fairness,
    fanout,
    find,
    gateway,
    growth,
    idle,
    lateness,
    limits,
    loop,
    memory,
    month,
    nodes,
    priorities,
    recover,
    resonate,
    rpc,
    scale,
    schedules,
    spans,
    startup,
    steps,
    storm,
    tasks,
    throughput,
    wakeups,
)
from scripts.benchmarks.bench import KINDS, found_kinds
from scripts.benchmarks.report import Report


class Benchmark(Protocol):
    """The functions of a benchmark's module."""

    __doc__: str | None

    @property
    def add_arguments(self) -> Callable[[argparse.ArgumentParser], None]: ...

    @property
    def measure(self) -> Callable[[argparse.Namespace], Coroutine[Any, Any, Report]]: ...


BENCHMARKS: dict[str, Benchmark] = {
    "throughput": throughput,
    "lateness": lateness,
    "rpc": rpc,
    "steps": steps,
    "tasks": tasks,
    "cpu": cpu,
    "loop": loop,
    "fanout": fanout,
    "memory": memory,
    "storm": storm,
    "idle": idle,
    "recover": recover,
    "growth": growth,
    "month": month,
    "startup": startup,
    "scale": scale,
    "schedules": schedules,
    "limits": limits,
    "fairness": fairness,
    "find": find,
    "priorities": priorities,
    "nodes": nodes,
    "wakeups": wakeups,
    "channels": channels,
    "dashboard": dashboard,
    "spans": spans,
    "resonate": resonate,
    "gateway": gateway,
}


def main() -> int:
    kinds = found_kinds()
    if not kinds:
        print("there is no Redis or Valkey to measure on: apt-get install redis-server", file=sys.stderr)
        return 1
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures durasleep on a server of its own.")
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, benchmark in BENCHMARKS.items():
        said = (benchmark.__doc__ or "").strip()
        sub = names.add_parser(name, help=said.splitlines()[0], description=said)
        sub.add_argument("--server", choices=KINDS, default=kinds[0], help="the kind of server (%(default)s)")
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        benchmark.add_arguments(sub)
    options = parser.parse_args()
    try:
        report = asyncio.run(BENCHMARKS[options.name].measure(options))
    except KeyboardInterrupt:
        return 130
    except DurasleepError as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(report.to_json()))
    else:
        report.show(Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
