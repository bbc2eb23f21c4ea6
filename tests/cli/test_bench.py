"""The benchmarks run and answer; what they answer is for people, not for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.cli.terminal import ROOT


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


@pytest.mark.parametrize("mode", [["--timers", "5"], ["--rate", "20", "--seconds", "0.5"]], ids=["spread", "rate"])
def test_lateness_is_measured_and_nothing_is_early(mode: list[str]) -> None:
    found = measure("lateness", *mode)
    assert found["timers"] > 0
    assert found["early"] == 0
    assert 0 <= found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]


def test_throughput_is_measured_and_all_finish() -> None:
    found = measure("throughput", "--count", "20", "--sleep", "0.1", "--floor-calls", "1000")
    assert found["finished"] == 20
    assert found["finished_per_s"] > 0


def test_a_month_in_the_test_kit_is_measured() -> None:
    found = measure("month", "--runs", "1")
    assert 0 < found["fakeredis_best_s"] <= found["fakeredis_p50_s"]
    assert 0 < found["server_best_s"] <= found["server_p50_s"]
