"""The benchmarks run and print results; the figures are for people, not for tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.servers import FAKE, found_kinds
from tests.cli.terminal import ROOT

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(found_kinds() == [FAKE], reason="there is no Redis to measure on"),
]

CPU = "worker_cpu_us client_cpu_us server_cpu_us sum_cpu_us cores_used"

# a benchmark -> its small arguments, the exact amount of work, and the figures it must print
EXPECTED: dict[str, tuple[str, dict[str, int], str]] = {
    "throughput": ("--count 20 --sleep 0.1 --floor-calls 1000", {"finished": 20}, f"finished_per_s {CPU}"),
    "rpc": ("--count 5", {"calls": 5}, "ping_p50_ms p50_ms"),
    "steps": ("--count 10", {"finished": 10}, f"finished_per_s {CPU}"),
    "tasks": (
        "--count 10",
        {"task_finished": 10, "delayed_finished": 10, "sync_finished": 10},
        "task_sum_cpu_us delayed_sum_cpu_us sync_sum_cpu_us",
    ),
    "cpu": ("--count 10 --what empty", {"finished": 10}, f"finished_per_s {CPU}"),
    "loop": ("--iterations 10", {"journal_entries": 23}, "first_half_s second_half_s"),
    "fanout": ("--count 10", {"finished": 10}, "children_per_s"),
    "storm": ("--count 200", {"finished_of_sample": 200, "sample": 200}, "ping_p99_ms longest_script_ms"),
    "idle": ("--sleepers 50 --seconds 1 --settle 0.5", {"sleepers": 50}, ""),
    "recover": ("--sleepers 50", {"sleepers": 50}, "first_timer_s takeover_s"),
    "growth": ("--timers 200 --base 100 --wake-ups 10 --lead 1.5", {"timers": 200}, "redis_ratio p50_ratio"),
    "month": ("--runs 1", {}, "fakeredis_best_s fakeredis_p50_s server_best_s server_p50_s"),
    "dashboard": ("--sleepers 50 --ended 5", {}, "overview_cpu_ms execution_cpu_ms"),
    "gateway": (
        "--count 3 --connections 2 --timers 3 --sleepers 3",
        {"requests": 27, "messages_of_sleepers": 0, "early": 0},
        "gateway_cpu_us server_cpu_us bare_cpu_us",
    ),
    "resonate": ("--count 64 --server redis7", {}, "redis7_bytes redis7_us_each_request"),
    "startup": ("--rounds 1", {}, "import_ratio application_ratio worker_ratio help_ratio get_help_ratio"),
}


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.benchmarks", *args, "--json"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )


def measure(*args: str) -> dict[str, Any]:
    done = bench(*args)
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


def test_processor_time_is_compared_with_that_of_another_checkout() -> None:
    found = measure("cpu", "--count", "10", "--what", "task", "--against", str(ROOT), "--pairs", "2")
    assert found["finished"] == 10
    for process in ("worker", "client", "server", "sum"):
        this, other, ratio = (found[f.format(process)] for f in ("{}_cpu_us", "against_{}_cpu_us", "{}_cpu_us_ratio"))
        assert min(this, other, ratio) > 0
    assert found["sum_ratio_least"] <= found["sum_cpu_us_ratio"] <= found["sum_ratio_most"]


@pytest.mark.parametrize("module", ["client/client", "cli/commands/worker"])
def test_client_and_worker_of_the_other_checkout_are_its_own(tmp_path: Path, module: str) -> None:
    shutil.copytree(ROOT / "durasleep", tmp_path / "durasleep", ignore=shutil.ignore_patterns("__pycache__"))
    broken = tmp_path / "durasleep" / f"{module}.py"
    broken.write_text("raise ImportError('the other checkout')")
    done = bench("cpu", "--count", "10", "--what", "task", "--against", str(tmp_path), "--pairs", "1")
    assert done.returncode == 1
    assert "the other checkout" in done.stderr


def test_nothing_is_compared_with_what_is_no_checkout(tmp_path: Path) -> None:
    assert "no checkout" in bench("cpu", "--against", str(tmp_path)).stderr
