"""Lists, trees and control from the command line, with a real worker."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis

from tests.cli.conftest import NewProject, Quick
from tests.cli.terminal import Terminal, lines, wait_for

APP = """
import asyncio

from durasleep import Context, Durasleep, Limit

app = Durasleep()

@app.task
def charge(cents: int) -> str:
    return "paid"

@app.task(limit=Limit("mail", total=5))
def mail() -> None: ...

@app.task
def refund(cents: int, to: str) -> str:
    raise ValueError(f"nobody is called {to}")

@app.workflow
async def sleep(ctx: Context, seconds: float) -> str:
    await ctx.sleep(seconds, name="nap")
    return "awake"

@app.workflow
async def order(ctx: Context) -> None:
    await ctx.run(charge, 5)
    await asyncio.gather(
        ctx.rpc(sleep, 180_000), ctx.promise(name="approval"), ctx.sleep(3600, name="grace"), ctx.sleep(60)
    )
"""


@pytest.fixture
def here(new_project: NewProject) -> Iterator[Terminal]:
    """An application and a worker of it."""
    terminal = new_project(shop=APP, persist=False)
    with terminal.running("worker", "shop", "--name", "w1", until="is ready"):
        yield terminal


def start(here: Terminal, quick: Quick, *ids: str, function: str = "sleep", args: tuple[str, ...] = ("600",)) -> None:
    """Start executions, and wait until all are asleep."""
    for id in ids:
        assert quick(here, "rpc", id, function, *args, "--no-wait").code == 0
    for each in ids:
        wait_for(lambda each=each: status(here, quick, each) == "suspended", f"{each} to sleep")


def status(here: Terminal, quick: Quick, id: str) -> str:
    return json.loads(quick(here, "get", id, "--json").out)["status"]


def listed(here: Terminal, quick: Quick, *args: str) -> dict[str, Any]:
    """What `ls --json` finds, by id."""
    found = json.loads(quick(here, "ls", "--json", *args).out)
    assert found["is_all"]
    assert found["notes"] == []
    return {one["id"]: one for one in found["executions"]}


def test_a_list_says_which_worker_an_execution_is_for(here: Terminal, quick: Quick) -> None:
    quick(here, "rpc", "own", "sleep", "5", "--target", "poll://uni@gpu/w9", "--no-wait")
    assert re.search(r"^own +queued .* for worker w9 of group gpu$", quick(here, "ls").out, re.MULTILINE)
    assert listed(here, quick)["own"]["target_worker"] == "w9"


def test_lists_say_what_runs_and_what_falls_due(here: Terminal, quick: Quick) -> None:
    assert quick(here, "ls").err == "There is none.\n"
    assert quick(here, "timers").err == "There is none.\n"
    start(here, quick, "s-1")
    start(here, quick, "o-1", function="order", args=())
    quick(here, "rpc", "lonely", "sleep", "5", "--target", "gpu", "--no-wait")
    found = listed(here, quick)
    assert {id: one["status"] for id, one in found.items()} == {
        "lonely": "queued",
        "s-1": "suspended",
        "o-1": "suspended",
        "o-1~2": "suspended",
    }
    assert listed(here, quick, "--group", "gpu").keys() == {"lonely"}
    assert listed(here, quick, "--func", "order").keys() == {"o-1"}
    assert listed(here, quick, "--status", "queued", "--status", "running").keys() == {"lonely"}
    assert listed(here, quick, "--status", "done") == {}
    shown = quick(here, "ls").out
    assert re.search(r"^ID +STATUS +FUNCTION +GROUP +AGE +DETAILS$", shown, re.MULTILINE), shown
    assert re.search(
        r"^s-1 +suspended +sleep +workers +[\d.]+ m?s +until .* \(\d+ min( \d+ s)?\)$", shown, re.MULTILINE
    )
    assert re.search(r"^lonely +queued +sleep +gpu .*for a worker of group gpu$", shown, re.MULTILINE), shown
    cut = quick(here, "ls", "--limit", "1")
    assert (len(lines(cut.out)), cut.code) == (2, 0)
    assert "Not all are shown" in cut.err

    timers = json.loads(quick(here, "timers", "--next", "2", "--json").out)
    assert [(one["id"], one["kind"], one["func"], one["name"]) for one in timers] == [
        ("o-1~5", "timer", "order", ""),
        ("s-1~1", "timer", "sleep", "nap"),
    ]
    assert re.search(r"^o-1~4 +timer +order +grace +until ", quick(here, "timers").out, re.MULTILINE)


def test_what_a_list_leaves_out_is_said(here: Terminal, quick: Quick) -> None:
    assert quick(here, "rpc", "c", "charge", "5").code == 0
    assert quick(here, "rpc", "f", "charge", "five").code == 1
    said = "Finished and not shown: 2, 1 of them failed; --status done shows them."
    nothing = quick(here, "ls")
    assert (nothing.out, nothing.err) == ("", f"None is pending.\n{said}\n")
    start(here, quick, "s-1", "s-2", "s-3")
    assert quick(here, "ls").err == f"{said}\n"
    assert json.loads(quick(here, "ls", "--json").out)["not_shown"] == 2
    assert quick(here, "ls", "--func", "sleep").err == ""
    assert quick(here, "ls", "--group", "gpu").err == "There is none.\n"
    assert quick(here, "ls", "--func", "charge").err == f"None is pending.\n{said}\n"
    everything = quick(here, "ls", "--status", "done")
    assert (len(lines(everything.out)), everything.err) == (3, "")
    assert quick(here, "timers", "--next", "2").err == "1 more falls due later: --next shows more.\n"
    assert quick(here, "timers", "--next", "1").err == "2 more fall due later: --next shows more.\n"
    assert quick(here, "timers").err == ""


def test_what_has_failed_is_not_resumed(here: Terminal, quick: Quick) -> None:
    start(here, quick, "s", "d")
    assert quick(here, "rpc", "f", "charge", "five").code == 1
    assert quick(here, "cancel", "s", "--force").code == 0
    assert quick(here, "rpc", "c", "charge", "5").code == 0
    assert quick(here, "halt", "d").code == 0
    done = quick(here, "resume", "f", "s", "c", "d")
    assert (done.code, done.out) == (1, "c: resolved already\nd: resumed\n")
    assert lines(done.err) == [
        "error: f is rejected, and stays so: `durasleep retry f` runs it again",
        "error: s is canceled, and stays so: `durasleep retry s` runs it again",
    ]


def test_a_tree_is_drawn_whole_where_there_is_no_screen(here: Terminal, quick: Quick) -> None:
    start(here, quick, "o-1", function="order", args=())
    drawn = [
        r"o-1  order  suspended  for \d+ m?s",
        r"├── o-1~1  step charge  resolved  at [\d:]{8}",
        r"├── o-1~2  sleep  (suspended|queued|running on w1)  for \d+ m?s",
        r"│   └── o-1~2~1  timer nap  for \d+ m?s, until [-\d]{10} [\d:.]{12} \(2 d \d h\)",
        r"├── o-1~3  promise approval  pending  for \d+ m?s",
        r"├── o-1~4  timer grace  for \d+ m?s, until .* \(59 min( \d+ s)?\)",
        r"└── o-1~5  timer  for \d+ m?s, until .* \(\d+ s\)",
    ]
    wait_for(lambda: status(here, quick, "o-1~2") == "suspended", "the child to sleep")
    shown = quick(here, "tree", "o-1").out.splitlines()
    root = json.loads(quick(here, "tree", "o-1", "--json").out)["root"]
    assert [child["kind"] for child in root["children"]] == ["step", "execution", "promise", "timer", "timer"]
    assert root["children"][1]["children"][0]["due_at_ms"]
    for line, pattern in zip(shown, drawn, strict=True):
        assert re.fullmatch(pattern, line), line
    assert quick(here, "tree", "nobody").code == 1


def test_ids_are_controlled_each_and_a_failure_stops_none(here: Terminal, quick: Quick) -> None:
    start(here, quick, "a", "b", "c", "d")
    start(here, quick, "o", function="order", args=())
    done = quick(here, "wake", "a", "nobody", "o", "b~1")
    assert (done.code, done.out) == (1, "a: woken\nb~1: woken\n")
    assert lines(done.err) == [
        "error: there is no promise nobody",
        "error: o waits for 2 timers, name one: o~5, o~4 (grace)",
    ]
    wait_for(lambda: status(here, quick, "a") == "done", "a to end")
    assert quick(here, "wake", "a").out == "a: resolved already\n"

    at = (datetime.now(UTC) + timedelta(days=2)).isoformat(timespec="seconds")
    assert quick(here, "reschedule", "c", "--at", at).out == "c: rescheduled\n"
    [timer] = json.loads(quick(here, "get", "c", "--json").out)["waiting_on"]
    assert timer["due_ms"] == datetime.fromisoformat(at).timestamp() * 1000
    assert quick(here, "reschedule", "c", "--in", "10ms").code == 0
    wait_for(lambda: status(here, quick, "c") == "done", "c to end")

    assert quick(here, "halt", "d", "--reason", "let me look").out == "d: halted\n"
    assert listed(here, quick, "--status", "halted")["d"]["reason"] == "let me look"
    assert quick(here, "resume", "d").out == "d: resumed\n"
    wait_for(lambda: status(here, quick, "d") == "suspended", "d to sleep again")
    assert quick(here, "resume", "d").out == "d: not halted\n"
    assert quick(here, "cancel", "d").out == "d: canceling\n"
    wait_for(lambda: status(here, quick, "d") == "done", "d to end")
    assert quick(here, "cancel", "o", "d", "--force").out == "o: canceled\nd: canceled already\n"
    assert listed(here, quick) == {}


def test_wrong_use_is_said_in_a_sentence_and_nothing_is_done(here: Terminal, quick: Quick) -> None:
    start(here, quick, "a")
    wrong = {
        ("wake",): "what to wake? Give IDs",
        ("wake", "a", "--func", "sleep"): "not both",
        ("reschedule", "a"): "until when?",
        ("reschedule", "a", "--in", "1h", "--at", "2030-01-01T00:00Z"): "until when?",
        ("reschedule", "a", "--at", "2030-01-01T00:00"): "has no zone: write 2030-01-01T00:00Z",
        ("reschedule", "a", "--at", "tomorrow"): "not a time",
        ("reschedule", "a", "--in", "soon"): "not a duration",
        ("cancel", "--status", "asleep"): "status 'asleep': there are ",
        ("ls", "--status", "asleep"): "status 'asleep': there are ",
        ("ls", "--limit", "0"): "--limit",
        ("timers", "--next", "1001"): "--next",
    }
    for args, says in wrong.items():
        done = quick(here, *args)
        assert (done.code, done.out) == (2, ""), args
        assert says in done.err, args
        assert len(lines(done.err)) == 1, done.err
    unasked = here.run("cancel", "--func", "sleep")
    assert (unasked.code, unasked.out) == (2, "")
    assert re.search(r"^a +suspended +sleep", unasked.err, re.MULTILINE)
    assert lines(unasked.err)[-1] == "error: nothing was done; to cancel this one, add --yes"
    assert status(here, quick, "a") == "suspended"
    assert quick(here, "wake", "--group", "nowhere").err == "There is nothing to wake.\n"


def test_what_has_failed_is_listed_shown_and_tried_again(here: Terminal, quick: Quick) -> None:
    assert quick(here, "rpc", "r1", "refund", "5", "Nobody").code == 1
    start(here, quick, "s1")
    assert quick(here, "cancel", "s1", "--force").code == 0
    assert quick(here, "ls").out == ""
    listed = quick(here, "ls", "--status", "failed")
    assert re.search(r"^r1 +rejected +refund .* ago: ValueError: nobody is called Nobody", listed.out, re.MULTILINE)
    assert "s1" not in listed.out
    assert re.search(r"^s1 +canceled +sleep", quick(here, "ls", "--status", "canceled").out, re.MULTILINE)
    shown = quick(here, "get", "r1", "--values").out
    for line in (r"^called with +5, \"Nobody\"$", r"^error +ValueError: nobody", r"^traceback +"):
        assert re.search(line, shown, re.MULTILINE), shown
    assert 'raise ValueError(f"nobody is called {to}")' in shown
    told = json.loads(quick(here, "get", "r1", "--json").out)
    assert (told["args"], told["kwargs"], told["deaths"]) == ([5, "Nobody"], {}, 0)
    assert "nobody is called" in told["traceback"]
    assert quick(here, "retry", "r1").out == "r1: retrying\n"
    wait_for(lambda: status(here, quick, "r1") == "done", "it to fail again")
    tried = quick(here, "retry", "--status", "failed", "--status", "canceled", "--yes")
    assert sorted(lines(tried.out)) == ["r1: retrying", "s1: retrying"]
    wait_for(lambda: status(here, quick, "s1") == "suspended", "it to sleep again")
    again = quick(here, "retry", "s1")
    assert (again.code, again.out) == (0, "s1: has not ended\n")
    refused = quick(here, "retry", "s1~1")
    assert (refused.code, "not an execution" in refused.err) == (1, True)


def test_what_a_filter_finds_is_shown_and_done_with_yes(here: Terminal, quick: Quick) -> None:
    ids = [f"s-{number}" for number in range(25)]
    start(here, quick, *ids)
    start(here, quick, "o", function="order", args=())
    done = quick(here, "halt", "--func", "sleep", "--yes")
    assert sorted(lines(done.out)) == sorted(f"{id}: halted" for id in [*ids, "o~2"])
    assert "and 6 more" in done.err
    assert len(lines(done.err)) == 23
    assert lines(done.err)[-1] == "halt: 26 done"
    assert listed(here, quick, "--status", "halted").keys() == {*ids, "o~2"}
    done = quick(here, "resume", "--group", "workers", "--yes")
    assert sorted(lines(done.out)) == sorted(f"{id}: resumed" for id in [*ids, "o~2"])
    wait_for(lambda: len(listed(here, quick, "--status", "suspended")) == 27, "all to sleep again")
    assert len(lines(quick(here, "cancel", "--group", "workers", "--force", "--yes").out)) == 27
    assert listed(here, quick) == {}


def test_each_verb_says_its_results_as_json(here: Terminal, quick: Quick) -> None:
    start(here, quick, "a", "b")
    told = json.loads(quick(here, "halt", "--func", "sleep", "--yes", "--json").out)
    found = sorted(told.pop("executions"), key=lambda one: one["id"])
    assert told == {"verb": "halt", "changed": 2, "unchanged": 0, "failed": 0}
    assert found == [{"id": id, "word": "halted", "error": None} for id in ("a", "b")]
    done = quick(here, "resume", "a", "a", "nobody", "--json")
    told = json.loads(done.out)
    assert (done.code, told["changed"], told["unchanged"], told["failed"]) == (1, 1, 1, 1)
    assert told["executions"][2] == {"id": "nobody", "word": None, "error": "there is no promise nobody"}
    nothing = json.loads(quick(here, "retry", "--func", "nothing", "--yes", "--json").out)
    assert nothing == {"verb": "retry", "changed": 0, "unchanged": 0, "failed": 0, "executions": []}


def test_the_audit_says_who_has_done_what(here: Terminal, quick: Quick) -> None:
    assert quick(here, "audit").err == "There is none.\n"
    start(here, quick, "a", "b")
    assert quick(here, "halt", "a", "--by", "ada").code == 0
    here.environment["DURASLEEP_USER"] = "grace"
    assert quick(here, "resume", "a").code == 0
    assert quick(here, "resume", "a").code == 0  # it is not halted: nothing was changed
    assert quick(here, "cancel", "--func", "sleep", "--force", "--yes").code == 0
    del here.environment["DURASLEEP_USER"]
    assert quick(here, "namespace", "release-clock").code == 0
    told = json.loads(quick(here, "audit", "--json").out)
    assert [(one["verb"], one["id"], one["word"], one["count"]) for one in told] == [
        ("release-clock", "", "", None),
        ("force", "", "", 2),
        ("resume", "a", "resumed", None),
        ("halt", "a", "halted", None),
    ]
    assert "--func sleep" in told[1]["filter"]
    assert "@" in told[0]["by"]
    assert [one["by"] for one in told[1:]] == ["grace", "grace", "ada"]
    shown = lines(quick(here, "audit", "--limit", "1", "--since", "1h").out)
    assert len(shown) == 2
    assert "release-clock" in shown[1]
    assert quick(here, "audit", "--since", "2999-01-01T00:00Z").err == "There is none.\n"
    assert quick(here, "halt", "a", "--by", "a\nb").code == 2


def test_what_is_done_to_schedules_limits_and_indexes_is_in_the_audit(here: Terminal, quick: Quick) -> None:
    for words in (
        ("schedule", "put", "s", "charge", "5", "--cron", "@yearly"),
        ("schedule", "pause", "s"),
        ("schedule", "resume", "s"),
        ("schedule", "delete", "s"),
        ("index", "build", "team"),
        ("index", "drop", "team"),
        ("index", "drop", "team"),  # there is none
        ("limit", "set", "mail", "--total", "7"),
        ("limit", "pause", "mail"),
        ("limit", "resume", "mail"),
        ("limit", "reset", "mail"),
    ):
        assert quick(here, *words, "--by", "ada").code == 0, words
    told = json.loads(quick(here, "audit", "--json").out)
    assert [(one["verb"], one["id"]) for one in reversed(told) if one["by"] == "ada"] == [
        *((f"{verb}-schedule", "s") for verb in ("put", "pause", "resume", "delete")),
        *(("build-index", "team"), ("drop-index", "team")),
        *((f"{verb}-limit", "mail") for verb in ("set", "pause", "resume", "reset")),
    ]
    assert [one["word"] for one in told if one["verb"] == "set-limit"] == ["total=7"]


def test_a_filter_takes_labels_and_refuses_what_no_verb_changes(here: Terminal, quick: Quick) -> None:
    for id, team in (("a", "x"), ("b", "y")):
        assert quick(here, "rpc", id, "sleep", "600", "--no-wait", "--label", f"team={team}").code == 0
    assert "1 done" in quick(here, "cancel", "--label", "team=y", "--since", "1h", "--force", "--yes").err
    assert status(here, quick, "a") != "done"
    assert status(here, quick, "b") == "done"
    assert "labels    team=y" in quick(here, "get", "b").out
    refused = quick(here, "retry", "--status", "resolved", "--yes")
    assert refused.code == 2
    assert "--status resolved: there is nothing to retry; use failed" in " ".join(refused.err.split())
    assert [one["verb"] for one in json.loads(quick(here, "audit", "--json").out)] == ["force"]


def test_an_execution_is_forked_before_a_step(here: Terminal, quick: Quick) -> None:
    start(here, quick, "o", function="order", args=())
    assert quick(here, "fork", "o", "o2", "--before", "charge", "--by", "ada").out == "o2: forked\n"
    assert quick(here, "fork", "o", "o2", "--before", "1").out == "o2: forked already\n"
    again = quick(here, "fork", "o", "o2", "--before", "o~1", "--json")
    assert json.loads(again.out) == {"id": "o2", "disposition": "attached"}
    wait_for(lambda: status(here, quick, "o2") == "suspended", "the fork to wait")
    assert re.search(r"^fork of +o$", quick(here, "get", "o2").out, re.MULTILINE)
    early = quick(here, "fork", "o", "o3", "--before", "end")
    assert (early.code, early.err) == (
        1,
        "error: o has not ended: fork before one of its steps, or halt it first\n",
    )
    taken = quick(here, "fork", "o", "o2", "--before", "grace")
    assert (taken.code, taken.err) == (1, "error: id o2 is in use by something else: nothing was forked\n")
    [told] = json.loads(quick(here, "audit", "--json").out)
    assert (told["verb"], told["id"], told["word"], told["by"]) == ("fork", "o2", "of o before charge", "ada")


def test_a_group_is_paused_and_goes_on(here: Terminal, quick: Quick) -> None:
    assert quick(here, "group", "pause", "workers", "--by", "ada").out == "workers: paused\n"
    assert quick(here, "group", "pause", "workers").out == "workers: paused already\n"
    [group] = json.loads(quick(here, "group", "ls", "--json").out)
    assert (group["name"], group["workers"], group["paused_by"]) == ("workers", ["w1"], "ada")
    assert re.search(r"^workers +0 +since .*, by ada +w1$", quick(here, "group", "ls").out, re.MULTILINE)
    assert "group 'workers' was paused" in quick(here, "doctor").out
    assert quick(here, "group", "resume", "workers").out == "workers: resumed\n"
    told = json.loads(quick(here, "group", "resume", "workers", "--json").out)
    assert told == {"group": "workers", "word": "not paused", "changed": False}
    told = json.loads(quick(here, "audit", "--json").out)
    assert [(one["verb"], one["id"]) for one in told] == [("resume-group", "workers"), ("pause-group", "workers")]


def test_data_is_checked_and_mended(here: Terminal, quick: Quick) -> None:
    start(here, quick, "a", "b")
    assert quick(here, "fsck").code == 0
    redis = Redis.from_url(here.environment["DURASLEEP_REDIS_URL"])
    redis.delete("{durasleep:0}:timers")
    broken = quick(here, "fsck")
    assert broken.code == 1
    assert re.search(r"^a~1 +repairable +no timer +is due some time, but has no timer$", broken.out, re.MULTILINE)
    assert "durasleep fsck --repair" in broken.err
    assert broken.err.startswith("Checked 2 executions and promises, ")
    repaired = json.loads(quick(here, "fsck", "--repair", "--json").out)
    assert [(one["id"], one["repaired"]) for one in sorted(repaired["findings"], key=lambda one: one["id"])] == [
        ("a~1", True),
        ("b~1", True),
    ]
    assert quick(here, "fsck").code == 0
    assert len(lines(quick(here, "timers").out)) == 3  # a header and both


def test_a_clock_that_was_put_right_is_released_by_hand(here: Terminal, quick: Quick) -> None:
    said = quick(here, "namespace", "release-clock")
    assert said.code == 0
    assert re.fullmatch(r"timers fire by the clock of Redis: [\d-]{10} [\d:]{8} UTC\n", said.err)
    assert quick(here, "namespace").code == 2


def test_the_part_before_the_problem_is_enough_to_strike_a_name(here: Terminal, quick: Quick) -> None:
    client = Redis.from_url(here.environment["DURASLEEP_REDIS_URL"])
    names = ["schedule:bad: 'x' is (not) a line", "timers:x~1: CORRUPT a", "timers:x~1: CORRUPT b: c", "timers:x~12: d"]
    client.zadd("{durasleep:0}:halted", dict.fromkeys(names, 1))
    discarded = quick(here, "namespace", "discard", "schedule:bad")
    assert (discarded.code, discarded.out) == (0, "schedule:bad: discarded\n")
    several = quick(here, "namespace", "discard", "timers:x~1")
    assert several.code == 1
    assert "timers:x~1: CORRUPT a; timers:x~1: CORRUPT b: c" in several.err
    assert "x~12" not in several.err
    assert quick(here, "namespace", "discard", "timers:x").code == 1
    assert client.zcard("{durasleep:0}:halted") == 3
    assert quick(here, "namespace", "discard", "timers:x~1: CORRUPT b", "timers:x~1", "timers:x~12").code == 0
    assert client.zcard("{durasleep:0}:halted") == 0


def test_what_was_quarantined_is_discarded_by_name(here: Terminal, quick: Quick) -> None:
    name = "timers:x~1: CORRUPT x is not a promise"
    start(here, quick, "a")
    assert quick(here, "halt", "a").code == 0
    Redis.from_url(here.environment["DURASLEEP_REDIS_URL"]).zadd("{durasleep:0}:halted", {name: 1})
    assert f"quarantined: {name}" in quick(here, "ls").err
    assert "durasleep namespace discard" in quick(here, "fsck").out
    discarded = quick(here, "namespace", "discard", name)
    assert (discarded.code, discarded.out) == (0, f"{name}: discarded\n")
    assert quick(here, "fsck").code == 0
    again = quick(here, "namespace", "discard", name, "a")
    assert again.code == 1
    assert "was not quarantined" in again.err
    assert "a is an execution" in again.err
    assert listed(here, quick, "--status", "halted").keys() == {"a"}
