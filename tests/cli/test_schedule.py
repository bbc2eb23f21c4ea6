"""``durasleep schedule``, and the page about schedules."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import NewProject, Quick
from tests.cli.terminal import Terminal

APP = """
from durasleep import Durasleep
app = Durasleep()

@app.task
def double(number: int) -> int:
    return 2 * number
"""


@pytest.fixture
def here(new_project: NewProject) -> Terminal:
    return new_project(computing=APP)


def test_a_schedule_is_put_shown_paused_and_removed(here: Terminal, quick: Quick) -> None:
    options = ["--cron", "@daily", "--cron", "30 12 * * 1-5", "--zone", "Europe/Berlin", "--jitter", "30s"]
    options += [
        "--overlap",
        "queue",
        "--catch-up",
        "all",
        "--window",
        "forever",
        "--note",
        "for Ada",
        "--remaining",
        "9",
    ]
    options += ["--start", "2026-01-01T00:00Z", "--end", "2990-01-01T00:00Z", "--retention", "forever"]
    made = quick(here, "schedule", "put", "nightly", "double", "4", *options)
    assert made.code == 0
    lines = dict(line.split(maxsplit=1) for line in made.out.splitlines() if not line.startswith(" "))
    assert lines["times"] == "0 0 * * *; 30 12 * * 1-5 Europe/Berlin"
    assert (lines["overlap"], lines["left"], lines["note"]) == ("queue", "9 starts", "for Ada")
    found = json.loads(quick(here, "schedule", "get", "nightly", "--json").out)
    assert (found["catch_up"], found["window_ms"], found["retention_ms"]) == ("all", None, -1)
    assert len(found["next_at_ms"]) == 5
    assert "paused" in quick(here, "schedule", "pause", "nightly").out
    row = quick(here, "schedule", "ls").out.splitlines()[1]
    assert row.split()[0] == "nightly"
    assert row.endswith("paused")
    listed = json.loads(quick(here, "schedule", "ls", "--json").out)
    assert [one["name"] for one in listed["schedules"]] == ["nightly"]
    assert (listed["is_all"], listed["notes"]) == (True, [])
    assert "paused" not in quick(here, "schedule", "resume", "nightly").out
    assert quick(here, "schedule", "delete", "nightly").out == "nightly: deleted\n"
    gone = quick(here, "schedule", "delete", "nightly")
    assert (gone.code, gone.err) == (1, "error: there is no schedule nightly\n")
    assert quick(here, "schedule", "ls").err == "There is none.\n"


def test_executions_are_started_by_hand(here: Terminal, quick: Quick) -> None:
    quick(here, "schedule", "put", "s", "double", "4", "--every", "1d", "--end", "2026-01-01T00:00Z")
    id = quick(here, "schedule", "trigger", "s").out.strip()
    assert id.startswith("s@2")
    span = ["--start", "2024-05-01T00:00Z", "--end", "2024-05-03T00:00Z"]
    ids = [f"s@2024-05-0{day}T00:00:00+00:00" for day in (1, 2, 3)]
    assert quick(here, "schedule", "backfill", "s", *span).out.split() == ids
    assert json.loads(quick(here, "schedule", "backfill", "s", *span, "--json").out) == {"ids": ids}
    none = quick(here, "schedule", "backfill", "s", "--start", "2024-05-01T01:00Z", "--end", "2024-05-01T02:00Z")
    assert (none.out, none.err) == ("", "There are no times between them.\n")
    assert "next      never" in quick(here, "schedule", "get", "s").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["put", "s", "double"], "a schedule needs either cron lines or every="),
        (["put", "s", "double", "--cron", "x"], "'x' is not a cron line"),
        (["put", "s", "double", "--every", "1h", "--overlap", "x"], "overlap 'x': use one of skip"),
        (["put", "s", "double", "--every", "1h", "--start", "2026-01-01T00:00"], "has no zone"),
        (["put", "s", "double", "--every", "0"], "every=0 s is too short: it is at least a second"),
        (["put", "s", "double", "--cron", "@daily", "--zone", "Mars/X"], "'Mars/X' is not a time zone: this machine"),
        (["put", "a b", "double", "--every", "1h"], "schedule name 'a b'"),
        (["backfill", "s", "--start", "now", "--end", "now"], "'now' is not a time"),
    ],
)
def test_a_mistake_is_one_sentence(here: Terminal, quick: Quick, words: list[str], said: str) -> None:
    done = quick(here, "schedule", *words)
    assert (done.code, done.out) == (2, "")
    assert said in " ".join(done.err.split())


def test_what_is_not_there_is_said(here: Terminal, quick: Quick) -> None:
    for verb in ("get", "pause", "resume", "trigger"):
        done = quick(here, "schedule", verb, "s")
        assert (done.code, done.err) == (1, "error: there is no schedule s\n")
