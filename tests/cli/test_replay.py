"""``durasleep export`` and ``durasleep replay``: a check that a deployment does not break sleeping workflows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import NewProject, Quick
from tests.cli.terminal import Terminal, wait_for

BEFORE = """
from durasleep import Context, Durasleep

app = Durasleep()

@app.workflow
async def fulfil(ctx: Context, order: str) -> str:
    await ctx.run(charge, order)
    await ctx.sleep(3600)
    return "sent"

@app.workflow
async def greet(ctx: Context, name: str) -> str:
    return f"Hello {name}"

@app.workflow
async def lost(ctx: Context) -> None:
    await ctx.promise()

def charge(order: str) -> None: ...
def check_stock(order: str) -> None: ...
"""
AFTER = (
    BEFORE.replace("    await ctx.sleep", "    await ctx.run(check_stock, order)\n    await ctx.sleep")
    .replace("Hello", "Hi")
    .replace("@app.workflow\nasync def lost", "async def lost")
)
PATCHED = BEFORE.replace(
    "    await ctx.sleep",
    "    if ctx.patched('stock'):\n        await ctx.run(check_stock, order)\n    await ctx.sleep",
)


@pytest.fixture
def terminal(new_project: NewProject, quick: Quick) -> Terminal:
    """With one sleeping execution, one finished one, and one whose function will be removed."""
    terminal = new_project(before=BEFORE, after=AFTER, patched=PATCHED)
    with terminal.running("worker", "before", until="is ready"):
        started = [
            ("rpc", "order-1", "fulfil", "tea", "--no-wait"),
            ("rpc", "hello-1", "greet", "Ada"),
            ("rpc", "lost-1", "lost", "--no-wait"),
        ]
        assert [quick(terminal, *command).code for command in started] == [0, 0, 0]
        for name in ("order-1", "lost-1"):
            wait_for(lambda name=name: '"suspended"' in quick(terminal, "get", name, "--json").out, f"{name} to wait")
    return terminal


def test_exported_journals_are_replayed_against_todays_code(terminal: Terminal, quick: Quick) -> None:
    exported = quick(terminal, "export", "order-1", "hello-1", "lost-1")
    assert exported.code == 0
    assert [json.loads(line)["id"] for line in exported.out.splitlines()] == ["order-1", "hello-1", "lost-1"]
    file = terminal.directory / "sleepers.jsonl"
    file.write_text(exported.out)
    del terminal.environment["DURASLEEP_REDIS_URL"]  # from here on no server is used

    same = quick(terminal, "replay", "sleepers.jsonl", "before")
    assert same.code == 0, same.err
    words = [line.split()[:3] for line in same.out.splitlines()]
    assert words == [["ok", "order-1", "fulfil"], ["ok", "hello-1", "greet"], ["ok", "lost-1", "lost"]]
    assert quick(terminal, "replay", "sleepers.jsonl", "patched").code == 0

    other = quick(terminal, "replay", "sleepers.jsonl", "after")
    assert other.code == 1
    assert "error: 3 of 3 would not go on as before" in other.err
    for line in (
        "differs order-1  fulfil  ",
        "    - 2      timer       '' (pending)",
        "    + 2      step        'check_stock'",
        "differs hello-1  greet  it ended differently:",
        "    - resolved: 'Hello Ada'",
        "    + resolved: 'Hi Ada'",
        "differs lost-1  lost  the function 'lost' is not here",
    ):
        assert line in other.out, other.out
    verdicts = json.loads(quick(terminal, "replay", "sleepers.jsonl", "after", "--json").out)
    assert [(verdict["id"], verdict["ok"]) for verdict in verdicts] == [
        ("order-1", False),
        ("hello-1", False),
        ("lost-1", False),
    ]


def test_one_execution_is_replayed_from_the_server(terminal: Terminal, quick: Quick) -> None:
    assert quick(terminal, "replay", "order-1", "before").out.startswith("ok      order-1")
    assert quick(terminal, "replay", "order-1", "after").code == 1
    missing = quick(terminal, "replay", "order-2", "before")
    assert (missing.code, missing.err) == (1, "error: there is no execution order-2\n")
    assert quick(terminal, "export", "order-2").code == 1


def test_a_filter_finds_what_is_exported(terminal: Terminal, quick: Quick) -> None:
    def exported(*options: str) -> set[str]:
        return {json.loads(line)["id"] for line in quick(terminal, "export", *options).out.splitlines()}

    assert exported("--status", "suspended") == {"order-1", "lost-1"}
    assert exported("--func", "fulfil") == {"order-1"}
    assert exported("--func", "nothing") == set()
    assert len(exported("--status", "suspended", "--limit", "1")) == 1
    assert "more than these 1" in quick(terminal, "export", "--status", "suspended", "--limit", "1").err
    for wrong in ((), ("order-1", "--func", "fulfil")):
        refused = quick(terminal, "export", *wrong)
        assert (refused.code, refused.err.partition("?")[0]) == (2, "error: what to export")


def test_what_is_no_recording_is_one_sentence(tmp_path: Path, quick: Quick) -> None:
    terminal = Terminal(tmp_path)
    (tmp_path / "before.py").write_text(BEFORE)
    for content in ("", "{}", "garbage"):
        (tmp_path / "file").write_text(content)
        done = quick(terminal, "replay", "file", "before")
        assert done.code == 2
        assert "recording" in done.err
        assert len(done.err.splitlines()) == 1
