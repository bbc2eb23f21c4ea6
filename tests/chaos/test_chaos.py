"""A short run of the chaos, with the plan of one seed; scripts/chaos runs longer, with another seed each time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.chaos import check
from harness.chaos.plan import FAULTS, plan
from harness.chaos.work import COUNTED

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("minutes", "fsync", "options"),
    [
        (0.5, "always", ""),
        (0.15, "everysec", "--faults kill-redis,black-hole,kill-worker,delay"),
        (0.15, "always", "--faults failover,kill-worker,cut"),
        (0.25, "always", "--faults kill-worker,full-redis,begin-while-full,begin-while-read-only --around"),
        (0.5, "everysec", "--cluster"),
    ],
)
def test_whatever_breaks_nothing_is_lost_early_or_done_twice_in_redis(minutes: float, fsync: str, options: str) -> None:
    command = [sys.executable, "-m", "harness.chaos", "--seed", "11", "--json"]
    done = subprocess.run(
        [*command, "--minutes", f"{minutes}", "--fsync", fsync, *options.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["violations"] == []
    assert done.returncode == 0
    assert sum(report["faults"].values()) >= 3
    assert sum(report["executions"].values()) >= (5 if "--around" in options else 20)


def test_the_same_seed_breaks_the_same() -> None:
    assert plan(7, 60, FAULTS, 3) == plan(7, 60, FAULTS, 3) != plan(8, 60, FAULTS, 3)


def test_the_checker_sees_what_must_not_be() -> None:
    shapes = {"a": 0, "b": 2, "c": 4, "d": 0}
    results = {"a": ["rested", "rested"], "b": ["3 runs"], "d": ["something else"]}
    effects = {"a lies down": [1.0], "a gets up": [1.2], "d lies down": [1.0] * 9, "d gets up": [9.0]}
    found = check.violations(shapes, results, effects, {"b": COUNTED + 1}, repeats_max=3)
    assert found == [
        "a slept 0.200 s, too short by 0.300",
        "the counter of b shows 16, not 15",
        "c was lost: nobody knows how it ended",
        "c hears: 0 times, at least 1 it must have been",
        "d ended with 'something else'",
        "d lies down: 9 times, with 3 faults that repeat a step",
    ]


def test_the_checker_sees_executions_that_overlap() -> None:
    effects = {
        "chaos-alone@1 begins": [1.0, 1.9],
        "chaos-alone@1 is over": [1.3, 2.2],
        "chaos-alone@2 begins": [2.0],
        "chaos-alone@2 is over": [3.1],
        "chaos-alone@3 begins": [3.0],
    }
    assert check.overlaps(effects) == ["chaos-alone@3 began 3.000, before chaos-alone@2 was over at 3.100"]
