"""What an execution publishes, for people: all of it, or in one line."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from durasleep.cli.output import console, json_values

if TYPE_CHECKING:
    from durasleep.codec.published import StepProgress
    from durasleep.query.view import StepView, View

_LINE_MAX = 200  # characters of a status among other lines


def as_json(view: View) -> str:
    """One line for programs."""
    document = asdict(view)
    document["status"] = view.status
    for shown, said in [(document, view), *((document["steps"][number], one) for number, one in view.steps.items())]:
        if said.progress is not None:
            shown["progress"]["fraction"] = said.progress.fraction
    return json_values.as_json(document)


def in_one_line(view: View) -> str | None:
    """Its status and its progress, as far as there are any; None if there is neither."""
    status = None if view.status is None else json_values.as_text(view.status).partition("\n")[0]
    if status is not None and len(status) > _LINE_MAX:
        status = f"{status[:_LINE_MAX]}..."
    progress = None if view.progress is None else describe_progress(view.progress)
    return "; ".join(part for part in (status, progress) if part) or None


def describe_progress(progress: StepProgress) -> str:
    """How far it has come, in a few words: ``42 of 100 (42 %), reading``."""
    done = f"{progress.done:,}"
    if progress.total is not None:
        done += f" of {progress.total:,}"
    if progress.fraction is not None:
        done += f" ({progress.fraction:.0%})".replace("%", " %")
    return f"{done}, {progress.text}" if progress.text else done


def rows(view: View) -> list[tuple[str, str, str]]:
    """Name, value and style of every line."""
    found: list[tuple[str, str, str]] = [
        ("id", view.id, "bold"),
        ("state", view.state.value, console.STATE_STYLE.get(view.state.value, "")),
    ]
    if view.progress is not None:
        found.append(("progress", describe_progress(view.progress), ""))
    found += [(name, json_values.as_text(value), "") for name, value in view.values.items()]
    found += [(f"step {number}", _describe_step(step), "dim") for number, step in view.steps.items()]
    return found


def _describe_step(step: StepView) -> str:
    values = ", ".join(f"{name}={json_values.as_json(value)}" for name, value in step.values.items())
    progress = "" if step.progress is None else describe_progress(step.progress)
    return "; ".join(part for part in (progress, values) if part)


@contextmanager
def following() -> Generator[Callable[[View], None]]:
    """Shows one view after the other: in place on a terminal, elsewhere with an empty line between two."""
    screen = console.console()
    if not screen.is_terminal:
        count = 0

        def show(view: View) -> None:
            nonlocal count
            if count:
                console.line()
            count += 1
            console.rows(rows(view))

        yield show
        return
    from rich.live import Live

    with Live(console=screen, auto_refresh=False) as live:
        yield lambda view: live.update(_drawn(view), refresh=True)


def _drawn(view: View) -> Any:
    """All lines, and a bar for the progress."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value, style in rows(view):
        table.add_row(Text(name, "dim"), Text(value, style))
    if view.progress is None:
        return table
    return Group(console.bar(view.progress.done, view.progress.total, ""), table)
