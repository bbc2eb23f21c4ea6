"""The benchmarks run and answer; what they answer is for people, not for tests."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.cli.terminal import ROOT


def test_lateness_is_measured_and_nothing_is_early() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/bench.py", "lateness", "--timers", "5", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["timers"] == 5
    assert found["early"] == 0
    assert 0 <= found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]


def test_a_month_in_the_test_kit_is_measured() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/bench.py", "month", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    found = json.loads(done.stdout)
    assert 0 < found["fakeredis_best_s"] <= found["fakeredis_p50_s"]
    assert 0 < found["server_best_s"] <= found["server_p50_s"]
