"""The README is a promise: what it shows runs."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cli.terminal import ROOT, Terminal, wait_for

README = (ROOT / "README.md").read_text()


def block_after(text: str) -> str:
    """The first code block after a text."""
    found = re.search(r"```\w*\n(.*?)```", README[README.index(text) :], re.DOTALL)
    assert found is not None
    return found[1]


def test_the_first_workflow_runs_as_shown_and_outlives_its_server(tmp_path: Path) -> None:
    (tmp_path / "welcome.py").write_text(block_after("`welcome.py`:"))
    commands = [line.split()[1:] for line in block_after("`durasleep dev welcome` starts").splitlines()]
    assert [command[0] for command in commands] == ["rpc", "get"]
    terminal = Terminal(tmp_path)
    with terminal.running("dev", "welcome", until="is ready"):
        rpc = [*commands[0][:-1], "2"]
        assert terminal.run(*rpc, "--no-wait").code == 0
        wait_for(lambda: "asleep" in terminal.run(*commands[1]).out, "the sleep")
    with terminal.running("dev", "welcome", until="is ready"):
        assert terminal.run(*rpc).out == "ada@example.org was welcomed\n"


def test_every_command_it_shows_is_known_with_its_options(tmp_path: Path) -> None:
    shown = block_after("## The command line")
    for line in shown.splitlines():
        words = line.split()[1:]
        command = [words[0], "create"] if "|" in line else [words[0]]
        help_text = Terminal(tmp_path).run(*command, "--help", COLUMNS="200").out
        for option in re.findall(r"--[a-z-]+", line):
            if option == "--value":
                help_text += Terminal(tmp_path).run("promise", "resolve", "--help", COLUMNS="200").out
            assert option in help_text, f"{command} {option}"


def test_every_file_it_links_to_exists() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).exists(), link


def test_its_scripts_exist_and_can_be_run() -> None:
    for name in ("demo", "test", "check", "fix", "bench"):
        assert f"scripts/{name}" in README
        assert (ROOT / "scripts" / name).stat().st_mode & 0o111
