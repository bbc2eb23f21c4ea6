"""Measures durasleep on a server of its own: figures to compare within one run, never a test.

scripts/bench lateness [--timers 200] [--json]
scripts/bench month [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from durasleep import Context, Durasleep, testing
from durasleep.devserver import DevServer

WOKEN_US: dict[str, int] = {}

app = Durasleep()


@app.workflow
async def sleeper(ctx: Context, ms: int) -> None:
    await ctx.sleep(ms / 1000)
    WOKEN_US[ctx.info.id] = time.time_ns() // 1000


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def lateness(url: str, timers: int) -> dict[str, float]:
    """Spread timers on an idle worker: from the due time to the line after the sleep, in ms."""
    app.connect(url)
    worker = app.worker()
    serving = asyncio.ensure_future(worker.run())
    await worker.ready.wait()
    async with app:
        handles = [await app.rpc(f"sleeper-{n}", sleeper, 500 + 20 * n) for n in range(timers)]
        dues: dict[str, int] = {}
        for handle in handles:
            while handle.id not in dues:
                waiting = (await app.describe(handle.id)).waiting_on
                if waiting and waiting[0].due_ms:
                    dues[handle.id] = waiting[0].due_ms
                elif handle.id in WOKEN_US:
                    break
        for handle in handles:
            await handle
        late = [(WOKEN_US[id] - due * 1000) / 1000 for id, due in dues.items()]
        worker.stop()
        await serving
    return {
        "timers": len(late),
        "early": sum(ms < 0 for ms in late),
        "p50_ms": round(statistics.median(late), 2),
        "p99_ms": round(percentile(late, 0.99), 2),
        "max_ms": round(max(late), 2),
    }


@app.workflow
async def daily(ctx: Context, days: int) -> int:
    for day in range(days):
        await ctx.sleep(timedelta(days=1))
        await ctx.run(abs, day)
    return days


async def month(url: str) -> dict[str, float]:
    """Thirty days with a daily step in the test kit, in seconds of real time: the best and the median of seven."""
    found: dict[str, float] = {}
    for name, source in (("fakeredis", None), ("server", url)):
        took: list[float] = []
        async with testing.env(app, redis=source) as env:
            for _ in range(7):
                began = time.perf_counter()
                await env.run(daily, 30)
                took.append(time.perf_counter() - began)
        found[f"{name}_best_s"], found[f"{name}_p50_s"] = round(min(took), 3), round(statistics.median(took), 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("what", choices=["lateness", "month"])
    parser.add_argument("--timers", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="durasleep-bench-") as directory, DevServer(Path(directory)) as server:
        found = asyncio.run(month(server.url) if options.what == "month" else lateness(server.url, options.timers))
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:>16}  {value}")


if __name__ == "__main__":
    main()
