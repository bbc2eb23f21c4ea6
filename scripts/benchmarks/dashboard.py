"""What the pages of the dashboard cost while very many executions sleep: CPU, and commands of the server.

The pages are asked for in this process, without a network, so the figures are those of the dashboard, its client and a
small part for the browser. Each is asked for twice, and the second one counts: the first one also compiles templates.
With ``--indexed`` the functions have an index.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace

import httpx

from durasleep import dashboard
from durasleep.dashboard.paths import quote_id
from durasleep.dashboard.views import VIEWS
from durasleep.errors import DurasleepError
from scripts.benchmarks import filling, workflows
from scripts.benchmarks.bench import Bench, bench_on
from scripts.benchmarks.report import Report

CPU_MS_MAX, COMMANDS_MAX = 200.0, 2_000
RARE = 5
_STEP_MS = 25_000  # between two dues: a hundred thousand of them fill a month


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--sleepers", type=int, default=100_000, help="how many sleep (%(default)s)")
    parser.add_argument("--ended", type=int, default=5_000, help="how many have ended (%(default)s)")
    parser.add_argument("--indexed", action="store_true", help="index the functions")


async def measure(options: Namespace) -> Report:
    async with bench_on(options.server) as bench:
        how = "with an index of functions" if options.indexed else "without an index"
        report = Report("dashboard", bench.name, f"pages while {options.sleepers} executions sleep, {how}")
        now_ms = time.time_ns() // 1_000_000
        await filling.put_to_sleep(bench, options.sleepers, lambda number: now_ms + 600_000 + number * _STEP_MS)
        rare = bench.client.options(labels={"customer": "rare"}, delay=filling.FAR)
        await rare.rpc_many(workflows.leaf, [(f"rare-{number}", number) for number in range(RARE)])
        gone = await bench.client.options(delay=filling.FAR).rpc_many(
            workflows.leaf, [(f"gone-{number}", number) for number in range(options.ended)]
        )
        for handle in gone:
            await handle.cancel(force=True)
        if options.indexed:
            await bench.client.indexes.build("func")
        site = dashboard.create_app(bench.client, show_values=True)
        transport = httpx.ASGITransport(app=site)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as browser:
            for name, path in _paths(options.sleepers).items():
                await _measure(bench, browser, report, name, path)
        return report


def _paths(sleepers: int) -> dict[str, str]:
    """The pages by names of figures."""
    paths = {view.section: view.path for view in VIEWS if "{" not in view.path}
    searches = {
        "last_page": "page=32&status=suspended",
        "canceled": "status=canceled&page=32",
        "rare_function": "func=leaf",
        "no_function": "func=nobody",
        "label": "label=customer=rare",
        "group": "group=nobody",
        "prefix": "id=rare",
        "wide_prefix": "id=s",
        "no_prefix": "id=nobody",
    }
    paths |= {name: f"/executions?{query}" for name, query in searches.items()}
    paths |= {f"calendar_{of}": f"/calendar?of={of}" for of in ("day", "month")}
    return paths | {"execution": f"/executions/{quote_id(f's{sleepers // 2}')}"}


async def _measure(bench: Bench, browser: httpx.AsyncClient, report: Report, name: str, path: str) -> None:
    await browser.get(path)
    before = await _commands(bench)
    began = time.process_time()
    answer = await browser.get(path)
    cpu_ms = (time.process_time() - began) * 1000
    if answer.status_code != 200:
        raise DurasleepError(f"{path}: {answer.status_code}")
    report.add(f"{name}_cpu_ms", cpu_ms, at_most=CPU_MS_MAX)
    report.add(f"{name}_commands", await _commands(bench) - before - 1, at_most=COMMANDS_MAX)


async def _commands(bench: Bench) -> int:
    return int((await bench.info("stats"))["total_commands_processed"])
