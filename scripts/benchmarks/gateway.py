"""What requests of Resonate's protocol cost the gateway, and how late a sleep ends at a process that polls.

The requests are those of a workflow that sleeps once, as an SDK sends them, over connections that are kept. A second
server, which only reads a request and answers, gets as many requests: it shows what asyncio costs on this machine at
this time. The lateness is from the instant at which a timer is due until its message is read from the stream of the
poll; server, gateway and client are on one machine, with one clock.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

import psutil

from durasleep.errors import DurasleepError
from scripts.benchmarks.bench import LOOK_S, ROOT, START_S, Bench, bench_on, cpu_s
from scripts.benchmarks.report import Report, add_spread, percentile

PER_CPU_S_MIN, LATE_P99_MS_MAX = 10_000, 5.0
SPREAD_MS, LEAD_MS = 20, 1_000
FAR_MS = 86_400_000
_HEAD = {"corrId": "sr-0123456789abcdef0123456789abcdef", "version": "2026-04-01"}
_PARAM = {"data": base64.b64encode(b'{"func":"sleeping_workflow","args":[5],"kwargs":{},"version":1}').decode()}
_VALUE = {"data": base64.b64encode(b'"Slept for 5 seconds"').decode()}
_REQUEST = (
    b"POST / HTTP/1.1\r\nHost: localhost:8001\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
    b"User-Agent: Python/3.12 aiohttp/3.14.5\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=1_000, help="how many workflows, of nine requests (%(default)s)")
    parser.add_argument("--connections", type=int, default=32, help="over how many connections (%(default)s)")
    parser.add_argument("--timers", type=int, default=200, help="how many sleeps, 20 ms apart (%(default)s)")
    parser.add_argument("--sleepers", type=int, default=1_000, help="how many sleep far beyond the end (%(default)s)")


async def measure(options: Namespace) -> Report:
    async with bench_on(options.server) as bench, _gateway(bench) as (port, gateway), _bare() as (bare_port, bare):
        report = Report("gateway", bench.name, f"{options.count} workflows of nine requests that sleep once")
        await _run(port, 50, options.connections)
        best: dict[str, float] = {}
        for _ in range(3):
            began = time.perf_counter(), cpu_s(gateway), cpu_s(bench.server_process), cpu_s(bare)
            count = await _run(port, options.count, options.connections)
            seconds = time.perf_counter() - began[0]
            used = cpu_s(gateway) - began[1], cpu_s(bench.server_process) - began[2]
            await _repeat(bare_port, count, options.connections)
            figures = {
                "seconds": seconds,
                "gateway_cpu_us": used[0] * 1e6 / count,
                "server_cpu_us": used[1] * 1e6 / count,
                "bare_cpu_us": (cpu_s(bare) - began[3]) * 1e6 / count,
            }
            if not best or figures["gateway_cpu_us"] < best["gateway_cpu_us"]:
                best = {"requests": count, **figures}
        for name, value in best.items():
            report.add(name, value)
        report.add("per_gateway_cpu_s", 1e6 / best["gateway_cpu_us"], at_least=PER_CPU_S_MIN)
        report.add("times_a_bare_server", best["gateway_cpu_us"] / best["bare_cpu_us"])
        report.notes.append("the best of three runs, by the processor time of the gateway")
        messages, late_ms, plain_ms = await _lateness(port, options.sleepers, options.timers)
        report.add("messages_of_sleepers", messages, at_most=0)
        report.add("early", sum(ms < 0 for ms in late_ms), at_most=0)
        add_spread(report, late_ms, p50_max=None, p99_max=LATE_P99_MS_MAX)
        report.add("plain_p99_ms", percentile(plain_ms, 0.99))
        report.notes.append("plain: timers of this program's own event loop, at the same instants")
    return report


# -- servers


@asynccontextmanager
async def _gateway(bench: Bench) -> AsyncGenerator[tuple[int, psutil.Process]]:
    log = bench.directory / "gateway.log"
    command = [sys.executable, "-m", "durasleep", "serve", "--url", bench.url, "--port", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        give_up_at = time.monotonic() + START_S
        while not (found := re.search(rb"the gateway is at http://[^ ]*:(\d+)/", log.read_bytes())):
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise DurasleepError(f"the gateway did not start; its log says:\n{log.read_text(errors='replace')}")
            await asyncio.sleep(LOOK_S)
        yield int(found[1]), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(START_S)


@asynccontextmanager
async def _bare() -> AsyncGenerator[tuple[int, psutil.Process]]:
    command = [sys.executable, "-m", "scripts.benchmarks.bare_http"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None, "it was given a pipe"
    try:
        yield int(await asyncio.to_thread(process.stdout.readline)), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


# -- clients


class _Client(asyncio.Protocol):
    """One connection, on which one request is under way."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answered: asyncio.Future[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self._answered.done():
            self._answered.set_exception(exc)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head, body = self._buffer[:end].lower(), self._buffer[end + 4 :]
        if len(body) >= int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            self._buffer = b""
            self._answered.set_result(body)

    async def post(self, body: bytes) -> bytes:
        """The body of the answer."""
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(_REQUEST % (len(body), body))
        return await self._answered

    async def ask(self, kind: str, **data: Any) -> Any:
        """The data of the answer to a request of the protocol."""
        answer = json.loads(await self.post(json.dumps({"kind": kind, "head": _HEAD, "data": data}).encode()))
        if answer["head"]["status"] not in (200, 300):
            raise DurasleepError(f"{kind}: {answer}")
        return answer["data"]

    def close(self) -> None:
        self._transport.close()


@asynccontextmanager
async def _clients(port: int, count: int) -> AsyncGenerator[list[_Client]]:
    loop = asyncio.get_running_loop()
    clients = [(await loop.create_connection(_Client, "127.0.0.1", port))[1] for _ in range(count)]
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


def _tags(id: str, **more: str) -> dict[str, str]:
    root = id.partition(":")[0]
    own = {"origin": root, "branch": id, "parent": root, "scope": "global", "target": "poll://any@bench"}
    return {f"resonate:{name}": value for name, value in {**own, **more}.items()}


def _action(kind: str, **data: Any) -> dict[str, Any]:
    return {"kind": kind, "head": _HEAD, "data": data}


def _timer(id: str, due_ms: int) -> dict[str, Any]:
    return _action("promise.create", id=id, timeoutAt=due_ms, param={}, tags=_tags(id, timer="true"))


async def _workflow(client: _Client, id: str) -> int:
    """The requests of one workflow; returns how many they are."""
    far_ms, timer = now_ms() + FAR_MS, f"{id}:1"
    await client.ask("promise.create", id=id, timeoutAt=far_ms, param=_PARAM, tags=_tags(id))
    await client.ask("promise.register_listener", awaited=id, address="poll://uni@bench/client")
    for version in (1, 2):
        await client.ask("task.acquire", id=id, version=version - 1, pid="p", ttl=60_000)
        await client.ask("task.fence", id=id, version=version, action=_timer(timer, far_ms))
        if version == 1:
            wait = _action("promise.register_callback", awaited=timer, awaiter=id)
            await client.ask("task.suspend", id=id, version=version, actions=[wait])
            await client.ask("promise.settle", id=timer, state="resolved", value={})  # stands for its firing
    end = _action("promise.settle", id=id, state="resolved", value=_VALUE)
    await client.ask("task.fulfill", id=id, version=2, action=end)
    return 9


async def _run(port: int, count: int, connections: int) -> int:
    """Run so many workflows; returns the number of requests."""
    numbers, run = iter(range(count)), time.time_ns()

    async def work(client: _Client, numbers: Iterator[int]) -> int:
        return sum([await _workflow(client, f"w{run}-{number}") for number in numbers])

    async with _clients(port, connections) as clients:
        return sum(await asyncio.gather(*[work(client, numbers) for client in clients]))


async def _repeat(port: int, count: int, connections: int) -> None:
    """Send so many requests to the server that only answers."""
    far_ms = now_ms() + FAR_MS
    request = json.dumps(_action("promise.create", id="w", timeoutAt=far_ms, param=_PARAM, tags=_tags("w"))).encode()
    numbers = iter(range(count))

    async def work(client: _Client) -> None:
        for _ in numbers:
            await client.post(request)

    async with _clients(port, connections) as clients:
        await asyncio.gather(*[work(client) for client in clients])


async def _lateness(port: int, sleepers: int, timers: int) -> tuple[int, list[float], list[float]]:
    """How many messages there were of those that sleep on, how late the others came, and timers of our own, in ms."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /poll/bench/p HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    async with _clients(port, 1) as [client]:
        for number in range(sleepers):
            await _put_to_sleep(client, f"far{number}", now_ms() + FAR_MS)
        first_ms = now_ms() + LEAD_MS + 5 * timers
        dues = {f"s{number}": first_ms + number * SPREAD_MS for number in range(timers)}
        for id, due_ms in dues.items():
            await _put_to_sleep(client, id, due_ms)
    if now_ms() >= first_ms:
        raise DurasleepError("the first fell due before all were asleep: this machine is too busy")
    loop, plain_ms = asyncio.get_running_loop(), list[float]()
    for due_ms in dues.values():
        loop.call_later(due_ms / 1e3 - time.time(), lambda due_ms=due_ms: plain_ms.append(time.time() * 1e3 - due_ms))
    messages, late_ms = 0, list[float]()
    while len(late_ms) < timers:
        line = await reader.readuntil(b"\n")
        at_ms = time.time_ns() / 1e6
        if line.startswith(b"data: "):
            due_ms = dues.get(json.loads(line[6:])["data"]["task"]["id"])
            messages += due_ms is None
            late_ms += [] if due_ms is None else [at_ms - due_ms]
    writer.close()
    return messages, late_ms, plain_ms


async def _put_to_sleep(client: _Client, id: str, due_ms: int) -> None:
    asked = _action("promise.create", id=id, timeoutAt=due_ms + FAR_MS, param=_PARAM, tags=_tags(id))
    await client.ask("task.create", pid="p", ttl=60_000, action=asked)
    await client.ask("task.fence", id=id, version=1, action=_timer(f"{id}:1", due_ms))
    wait = _action("promise.register_callback", awaited=f"{id}:1", awaiter=id)
    await client.ask("task.suspend", id=id, version=1, actions=[wait])


def now_ms() -> int:
    return time.time_ns() // 1_000_000
