"""The benchmarks run and answer; what they answer is for people, not for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.cli.terminal import ROOT
from tests.servers import FAKE, found_kinds

pytestmark = pytest.mark.skipif(found_kinds() == [FAKE], reason="there is no Redis to measure on")

# a benchmark -> how little of it, what it must have done exactly, and what it must have measured
EXPECTED: dict[str, tuple[str, dict[str, int], str]] = {
    "throughput": ("--count 20 --sleep 0.1 --floor-calls 1000", {"finished": 20}, "finished_per_s"),
    "rpc": ("--count 5", {"calls": 5}, "ping_p50_ms p50_ms"),
    "steps": ("--count 10", {"finished": 10}, "finished_per_s"),
    "loop": ("--iterations 10", {"journal_entries": 23}, "first_half_s second_half_s"),
    "fanout": ("--count 10", {"finished": 10}, "children_per_s"),
    "storm": ("--count 200", {"finished_of_sample": 200, "sample": 200}, "ping_p99_ms longest_script_ms"),
    "idle": ("--sleepers 50 --seconds 1 --settle 0.5", {"sleepers": 50}, ""),
    "recover": ("--sleepers 50", {"sleepers": 50}, "first_timer_s takeover_s"),
    "growth": ("--timers 200 --base 100 --wake-ups 10 --lead 1.5", {"timers": 200}, "redis_ratio p50_ratio"),
    "month": ("--runs 1", {}, "fakeredis_best_s fakeredis_p50_s server_best_s server_p50_s"),
}


def measure(*args: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.benchmarks", *args, "--json"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["figures"]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_benchmark_does_all_of_its_work(name: str) -> None:
    options, exact, above_zero = EXPECTED[name]
    found = measure(name, *options.split())
    assert {name: found[name] for name in exact} == exact
    assert all(found[name] > 0 for name in above_zero.split())


@pytest.mark.parametrize(("options", "timers"), [("--timers 5", 5), ("--rate 20 --seconds 0.5 --lead 1", 10)])
def test_no_measured_timer_is_early(options: str, timers: int) -> None:
    found = measure("lateness", *options.split())
    assert found["timers"] == timers
    assert found["early"] == 0
    assert 0 <= found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]


def test_memory_is_measured_for_each_size_of_arguments() -> None:
    found = measure("memory", "--count", "100", "--server", found_kinds()[-1])
    assert [name.partition("_")[2] for name in found] == ["int", "0", "50", "200", "1000"]
    assert all(0 < size < 10_000 for size in found.values())
