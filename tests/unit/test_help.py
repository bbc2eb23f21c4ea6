"""The help of the commands: each says which ids it takes, and a screen breaks the lines itself."""

from __future__ import annotations

import re
from typing import Any, cast

from typer.main import get_command

from durasleep.cli.app import app

COMMANDS: dict[str, Any] = cast("Any", get_command(app)).commands
CONTROL = ("wake", "reschedule", "cancel", "halt", "resume", "retry")


def help_of(command: str, parameter: str) -> str:
    [one] = [one for one in COMMANDS[command].params if one.name == parameter]
    return one.help


def test_each_command_on_executions_says_which_ids_it_takes() -> None:
    assert len({help_of(name, "ids") for name in CONTROL}) == len(CONTROL)


def test_the_options_of_a_filter_stand_together() -> None:
    for name in (*CONTROL, "ls"):
        panels = {one.name: one.rich_help_panel for one in COMMANDS[name].params if hasattr(one, "rich_help_panel")}
        assert {panels[option] for option in ("status", "group", "function")} == {"Filter"}


def test_no_paragraph_brings_line_breaks_of_its_own() -> None:
    groups = [command.commands for command in COMMANDS.values() if hasattr(command, "commands")]
    found = [*COMMANDS.values(), *(command for group in groups for command in group.values())]
    assert len(found) > 20
    for command in found:
        assert not re.search(r"[^\n]\n[^\n]", command.help), command.name
