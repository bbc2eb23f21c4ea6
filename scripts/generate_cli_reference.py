"""Writes the commands of docs/reference/cli.md, below its heading "Commands", from the help of ``durasleep``.

``--check`` writes nothing, and fails if the page differs.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer.main

from durasleep.cli.app import app

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"
BEGIN = "\n## Commands\n"
COMMON = ("--url", "--namespace", "--explain-address")
"""Options that nearly every command has: the page explains them once."""


def commands() -> list[tuple[str, Any]]:
    """Every command that people see, by its words."""
    found: list[tuple[str, Any]] = []

    def walk(words: str, command: Any) -> None:
        for name, child in getattr(command, "commands", {}).items():
            if not child.hidden:
                if hasattr(child, "commands"):
                    walk(f"{words} {name}", child)
                else:
                    found.append((f"{words} {name}", child))

    walk("durasleep", typer.main.get_command(app))
    return found


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def usage(words: str, params: list[Any]) -> str:
    """How a command is called, as its help says it."""
    arguments = [one for one in params if is_argument(one)]
    parts = [f"{name_of(one)}{'...' if one.nargs < 0 else ''}" for one in arguments]
    shown = [part if one.required else f"[{part}]" for part, one in zip(parts, arguments, strict=True)]
    return " ".join([words, *shown, "[OPTIONS]"])


def is_argument(param: Any) -> bool:
    return not param.opts[0].startswith("-")


def name_of(param: Any) -> str:
    """An argument, or an option with its value, as users write it."""
    value = str(param.metavar or param.name.rpartition("_")[2].upper())
    if is_argument(param):
        return value.removeprefix("[").removesuffix("...").removesuffix("]") if value.startswith("[") else value
    names = ", ".join((*param.opts, *param.secondary_opts))
    return names if param.is_flag or getattr(param, "count", False) else f"{names} {value}"


def choices(param: Any) -> str:
    """The values of an option that has only some, as its annotation names them."""
    kind: object = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    if not isinstance(kind, type) or not issubclass(kind, StrEnum):
        return ""
    values: type[StrEnum] = kind
    return f" One of {', '.join(f'`{one.value}`' for one in values)}."


def explained(param: Any) -> str:
    text = f"{param.help or ''}{choices(param)}"
    default = param.default
    is_told = "default" in text.lower() or default in (None, False, True, "", ()) or callable(default)
    return text if is_told or is_argument(param) else f"{text} By default `{default}`."


def section(words: str, command: Any) -> Iterator[str]:
    """What the page says of one command."""
    params = [one for one in command.params if not getattr(one, "hidden", False) and one.name != "help"]
    yield f"### {words}\n"
    yield f"```text\n{usage(words, params)}\n```\n"
    for paragraph in (command.help or "").strip().split("\n\n"):
        yield textwrap.fill(" ".join(paragraph.split()), 120, break_long_words=False, break_on_hyphens=False) + "\n"
    rows = [one for one in params if not set(one.opts) & set(COMMON) or "this application" in str(one.help)]
    if rows:
        yield "| argument or option | means |\n| --- | --- |"
        yield "\n".join(f"| `{cell(name_of(one))}` | {cell(explained(one))} |" for one in rows) + "\n"


def page() -> str:
    """The page as it should be."""
    head, found, _ = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    if not found:
        raise SystemExit(f"{PAGE} has no heading {BEGIN.strip()!r}")
    all_commands = commands()
    listed = [
        f"| [`{words}`](#{words.replace(' ', '-')}) | {cell((command.help or '').split(chr(10) * 2)[0])} |"
        for words, command in all_commands
    ]
    lines = [
        f"{head}{BEGIN}",
        "This part of the page is the help of the commands; `scripts/fix` writes it.\n",
        "| command | does |\n| --- | --- |",
        "\n".join(listed) + "\n",
    ]
    for words, command in all_commands:
        lines += section(words, command)
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    wanted = page()
    if "--check" not in sys.argv:
        PAGE.write_text(wanted, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != wanted:
        raise SystemExit(f"{PAGE} is not what the help of the commands says; scripts/fix writes it")


if __name__ == "__main__":
    main()
