"""Sleepers of Resonate's protocol: their bytes in Redis on each kind of server, and what a request costs it.

The requests are those of an SDK that runs a function with its own process preferred, without a gateway between: make a
task that is acquired already, make the timer of its sleep by a fence, suspend. Ids and arguments are short, as in its
examples. The processor time is that of
the server, with the reading of the command and its answer.
"""

from __future__ import annotations

import base64
import json
import time
from argparse import ArgumentParser, Namespace
from typing import Any

from durasleep.protocol import resonate, script
from durasleep.protocol.keys import Keyspace
from scripts.benchmarks.bench import Bench, bench_on, cpu_s, found_kinds
from scripts.benchmarks.memory import ALL, NO_SLOWLOG
from scripts.benchmarks.report import Report

BYTES_MAX = {"redis7": 1000.0}
FIRST = 512
AT_ONCE = 64
HEAD = {"corrId": "sr-0123456789abcdef0123456789abcdef", "version": resonate.VERSION}
PID = "0123456789abcdef0123456789abcdef"
TARGET = f"poll://any@default/{PID}"
CALL: dict[str, Any] = {"func": "sleeping_workflow", "args": [5], "kwargs": {}, "version": 1}
PARAM = {"data": base64.b64encode(json.dumps(CALL).encode()).decode()}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=5_000, help="sleepers (%(default)s)")
    parser.set_defaults(server=ALL)


async def measure(options: Namespace) -> Report:
    kinds = found_kinds() if options.server == ALL else [options.server]
    report = Report("resonate", ", ".join(kinds), f"{options.count} sleepers of Resonate's protocol")
    for kind in kinds:
        async with bench_on(kind, extra_args=NO_SLOWLOG) as bench:
            keys = bench.keys
            await _sleep(bench, keys, "first", FIRST)
            before, cpu = await _used(bench), cpu_s(bench.server_processes[0])
            requests = await _sleep(bench, keys, "sleep", options.count)
            spent_us = (cpu_s(bench.server_processes[0]) - cpu) * 1e6
            report.add(f"{kind}_bytes", (await _used(bench) - before) / options.count, at_most=BYTES_MAX.get(kind))
            report.add(f"{kind}_us_each_request", spent_us / requests)
    return report


async def _used(bench: Bench) -> int:
    await bench.redis.script_flush("SYNC")  # the amount of Lua garbage changes from time to time
    return int((await bench.info("memory"))["used_memory"])


async def _sleep(bench: Bench, keys: Keyspace, prefix: str, count: int) -> int:
    """Put some to sleep; answers how many requests that took."""
    await bench.redis.script_load(script.load("resonate_rpc").source.decode())
    far_ms = time.time_ns() // 1_000_000 + 86_400_000
    requests = 0
    for at in range(0, count, AT_ONCE):
        ids = [f"{prefix}-{number}" for number in range(at, min(at + AT_ONCE, count))]
        for step in (_create, _fence, _suspend):
            asking: Any = bench.redis.pipeline(transaction=False)  # buffers of many connections would count as memory
            for id in ids:
                asking.execute_command(*resonate.rpc(keys, _request(*step(id, far_ms))).args)
            answers = await asking.execute()
            if not all(int(status) == 200 for status, _ in answers):
                raise AssertionError(f"{step.__name__} was refused: {answers}")
            requests += len(ids)
    return requests


def _request(kind: str, data: dict[str, Any]) -> bytes:
    return json.dumps({"kind": kind, "head": HEAD, "data": data}).encode()


def _tags(id: str, **more: str) -> dict[str, str]:
    root = id.partition(":")[0]
    given = {"origin": root, "branch": id, "parent": root, "scope": "global", "target": TARGET, **more}
    return {f"resonate:{name}": value for name, value in given.items()}


def _create(id: str, far_ms: int) -> tuple[str, dict[str, Any]]:
    made = {"id": id, "timeoutAt": far_ms, "param": PARAM, "tags": _tags(id)}
    return "task.create", {
        "pid": PID,
        "ttl": 60_000,
        "action": {"kind": "promise.create", "head": HEAD, "data": made},
    }


def _fence(id: str, far_ms: int) -> tuple[str, dict[str, Any]]:
    timer = {"id": f"{id}:1", "timeoutAt": far_ms, "param": {}, "tags": _tags(f"{id}:1", timer="true")}
    return "task.fence", {"id": id, "version": 1, "action": {"kind": "promise.create", "head": HEAD, "data": timer}}


def _suspend(id: str, _: int) -> tuple[str, dict[str, Any]]:
    wait = {"kind": "promise.register_callback", "head": HEAD, "data": {"awaited": f"{id}:1", "awaiter": id}}
    return "task.suspend", {"id": id, "version": 1, "actions": [wait]}
