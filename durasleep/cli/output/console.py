"""Everything that people see of the command line: notes and errors on stderr, results on stdout, lists in tables.

Only this folder imports rich, and only when there is something to show: rich takes as long to import as asyncio.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from durasleep.cli.output import json_values

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.status import Status

    from durasleep.observe.logs import ExecutionIds
    from durasleep.query.describe import Description

STATUS_STYLE = {
    "queued": "cyan",
    "running": "bold cyan",
    "suspended": "blue",
    "delayed": "yellow",
    "halted": "bold red",
}
STATE_STYLE = {"resolved": "green", "rejected": "bold red", "canceled": "yellow", "timedout": "yellow"}

_PROGRESS_S = 10.0
_BAR_WIDTH = 30
_CHANNELS_MAX = 20  # that are named
_SHOWN_VALUE_MAX = 2_000  # characters of a value in a table; --json prints it all


@cache
def _console(*, stderr: bool):  # noqa: ANN202 - a rich Console; naming its type would import it
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment

    class SafeConsole(Console):
        """Escapes control characters: texts come from anywhere, and none of them may control the terminal."""

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else json_values.visible(text), style, control)

    return SafeConsole(stderr=stderr, highlight=False, soft_wrap=True)


def _out():  # noqa: ANN202 - as above
    return _console(stderr=False)


def _err():  # noqa: ANN202 - as above
    return _console(stderr=True)


def console(*, on_stderr: bool = False):  # noqa: ANN201 - as above
    """The console for results, or the one for messages beside them."""
    return _err() if on_stderr else _out()


def note(text: str) -> None:
    """A line for the person at the terminal."""
    _err().print(text, markup=False)


def error(text: str) -> None:
    """An error in one sentence, with the next step."""
    _print_labeled("error:", "bold red", text)


def warning(text: str) -> None:
    """A message that must not be overlooked."""
    _print_labeled("warning:", "bold yellow", text)


def _print_labeled(word: str, style: str, text: str) -> None:
    from rich.text import Text

    _err().print(Text.assemble((word, style), " ", text))


def ask(question: str) -> bool:
    """Whether the person at the terminal says yes; stdout is kept for results."""
    _err().print(f"{question} [y/N]:", end=" ", markup=False)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def line(*parts: tuple[str, str]) -> None:
    """One line on stdout, made of texts and their styles."""
    from rich.text import Text

    _out().print(Text.assemble(*parts))


def event(text: str) -> None:
    """One line of the demo, with the time."""
    from rich.text import Text

    from durasleep import humanize

    _out().print(Text.assemble((f"{humanize.local(time.time_ns() // 1_000_000):%H:%M:%S}", "dim"), "  ", text))


class Spinner:
    """What ``waiting`` shows."""

    is_seen = False
    """Whether there is anybody to see it."""

    def show(self, text: str) -> None:
        """Change its text."""

    def show_progress(self, text: str, done: float, total: float | None) -> None:
        """Change its text, and show how much is done."""


class _SeenSpinner(Spinner):
    is_seen = True

    def __init__(self, status: Status) -> None:
        self._status = status

    def show(self, text: str) -> None:
        from rich.markup import escape

        self._status.update(escape(text))

    def show_progress(self, text: str, done: float, total: float | None) -> None:
        self._status.update(bar(done, total, text))


@contextmanager
def waiting(text: str) -> Generator[Spinner]:
    """A spinner on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield Spinner()
        return
    from rich.markup import escape

    with _err().status(escape(text)) as status:
        yield _SeenSpinner(status)


def bar(done: float, total: float | None, text: str) -> RenderableType:
    """A bar with a text behind it; it only moves to and fro if the total is not known."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    part = "" if not total else f"{min(max(done / total, 0), 1):.0%}".replace("%", " %")
    drawn = ProgressBar(total=total or None, completed=done, width=_BAR_WIDTH, pulse=not total)
    grid.add_row(drawn, Text(part), Text(text, overflow="ellipsis", no_wrap=True))
    return grid


@contextmanager
def progress() -> Generator[Callable[[str], None]]:
    """Shows how far a long command has come: in place on a terminal, elsewhere a line at most each ten seconds."""
    if sys.stderr.isatty():
        from rich.live import Live
        from rich.text import Text

        # Results go to stdout meanwhile. If that is no screen, they must not be drawn on the screen.
        with Live(console=_err(), transient=True, redirect_stdout=sys.stdout.isatty()) as live:
            yield lambda text: live.update(Text(text))
        return
    shown_at = time.monotonic()

    def show(text: str) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at > _PROGRESS_S:
            shown_at = time.monotonic()
            note(text)

    yield show


def log_to_stderr(level: int, *, as_json: bool = False) -> ExecutionIds:
    """See ``log_lines.log_to_stderr``, which imports what few commands need."""
    from durasleep.cli.output import log_lines

    return log_lines.log_to_stderr(level, as_json=as_json)


def instant(ms: int) -> str:
    """An instant in the local zone."""
    from durasleep import humanize

    return humanize.local(ms).isoformat(" ", "milliseconds")


def describe_waiting(description: Description, now_ms: int) -> str:
    """What an execution waits for, in a few words."""
    from durasleep import humanize

    first = description.waiting_on[0] if description.waiting_on else None
    due = humanize.describe_until(first.due_ms, now_ms) if first and first.due_ms else ""
    match description.status:
        case "halted":
            return f"halted: {_first_line(description.reason)}"
        case "running":
            return f"running on {description.worker}"
        case "delayed":
            why = f": {_first_line(description.reason)}" if description.reason else ""
            return f"delayed {due}{why}".replace("  ", " ")
        case "suspended" if first:
            more = f" and {len(description.waiting_on) - 1} more" if len(description.waiting_on) > 1 else ""
            if first.kind == "timer" and due:
                return f"asleep {due}{more}"
            return f"waiting for {first.text}{f', {due}' if due else ''}{more}"
        case "suspended" if description.kind == "timer" and description.timeout_at_ms:
            return f"asleep {humanize.describe_until(description.timeout_at_ms, now_ms)}"
        case status:
            return status


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]


def show(description: Description, now_ms: int, *, with_values: bool = False, published: str | None = None) -> None:
    """A promise with all that is known of it, and what it publishes, in one line. Lines are not cut, so that they can
    be copied.
    """
    found = description_rows(description, now_ms, with_values=with_values)
    if published is not None:
        found.insert(2, ("says", published, ""))
    rows(found)


def rows(shown: Sequence[tuple[str, str, str]]) -> None:
    """Names, values and styles, one or more lines each. Lines are not cut, so that they can be copied."""
    from rich.text import Text

    width = max(len(name) for name, _, _ in shown) + 2
    for name, value, style in shown:
        for index, line in enumerate(value.splitlines() or [""]):
            label = name if index == 0 else ""
            _out().print(Text.assemble((f"{label:<{width}}", "dim"), (line, style)))


def description_rows(description: Description, now_ms: int, *, with_values: bool = False) -> list[tuple[str, str, str]]:
    """Name, value and style of every line that is not empty."""
    from durasleep import humanize
    from durasleep.model import PRIORITY

    state = description.state
    if description.status == "halted":  # the reason has its own lines
        state = f"{state}, halted"
    elif description.status != "done":
        state = f"{state}, {describe_waiting(description, now_ms)}"
    is_execution = description.kind == "execution"
    is_pending = description.state == "pending"
    value = json_values.as_text(description.value) if description.state == "resolved" else None
    crash_count = f"{description.crash_count} workers in a row, while running it" if description.crash_count else None
    rows: list[tuple[str, str | None, str]] = [
        ("id", description.id, "bold"),
        ("state", state, STATE_STYLE.get(description.state) or STATUS_STYLE.get(description.status, "")),
        ("function" if is_execution else "name", description.func, ""),
        ("kind", None if is_execution else description.kind, ""),
        ("group", description.group, ""),
        ("worker", description.worker, ""),
        ("paused", _pause(description), "yellow"),
        ("limit", _limit(description), ""),
        ("paused", _limit_pause(description), "yellow"),
        ("priority", None if description.priority in (None, PRIORITY) else f"{description.priority}", ""),
        ("labels", " ".join(f"{name}={value}" for name, value in description.labels.items()) or None, ""),
        ("called with", _arguments(description) if with_values else None, ""),
        ("fork of", description.forked_from, ""),
        ("created", instant(description.created_at_ms), ""),
        ("since", instant(description.since_ms) if is_pending else None, ""),
        ("due" if description.kind == "timer" else "timeout", _instant_or_none(description.timeout_at_ms), ""),
        ("settled", _instant_or_none(description.settled_at_ms), ""),
        ("took", _lifetime(description) if is_execution else None, ""),
        ("value", value if value is None or with_values else _shown(value), ""),
        ("error", description.error if description.state == "rejected" else None, ""),
        ("reason", description.reason, ""),
        ("died", crash_count, "red"),
    ]
    for index, pending in enumerate(description.waiting_on):
        due = f", {humanize.describe_until(pending.due_ms, now_ms)}" if pending.due_ms else ""
        since = f", since {humanize.describe_ms(max(0, now_ms - pending.since_ms))}"
        rows.append(("waits for" if index == 0 else "", f"{pending.text}{due}{since}", ""))
    if description.is_unserved:
        rows.append(("waits for", f"a worker of group {description.group}: none that may run it is alive", "yellow"))
    rows.append(("unread", _unread(description), ""))
    for index, failed in enumerate(description.failed_attempts):
        line = f"{failed.name} at {instant(failed.at_ms)}, {_first_line(failed.error)} ({failed.id})"
        rows.append(("failed" if index == 0 else "", line, ""))
    rows.append(("traceback", description.traceback, "dim"))
    return [(name, value, style) for name, value, style in rows if value is not None]


def _unread(description: Description) -> str | None:
    from durasleep import humanize

    if description.unread is None:
        return None
    unread = [f"{name!r} {count:,}" for name, count in description.unread.channels.items()]
    more = len(unread) - _CHANNELS_MAX
    named = ", ".join([*unread[:_CHANNELS_MAX], *([f"{more} more"] if more > 0 else [])])
    messages = "1 message" if description.unread.messages == 1 else f"{description.unread.messages:,} messages"
    return f"{messages}, {humanize.describe_bytes(description.unread.bytes)}: {named}"


def _pause(description: Description) -> str | None:
    if description.paused_since_ms is None:
        return None
    by = f"since {instant(description.paused_since_ms)}, by {description.paused_by}"
    return f"its group, {by}: `durasleep group resume {description.group}` lets it go on"


def _limit(description: Description) -> str | None:
    if description.limit is None:
        return None
    key = f", key {description.limit_key}" if description.limit_key else ""
    before = f", number {description.place_in_line:,} in line" if description.place_in_line else ""
    return f"{description.limit}{key}{before}"


def _limit_pause(description: Description) -> str | None:
    if description.limit_paused_since_ms is None:
        return None
    since = f"since {instant(description.limit_paused_since_ms)}"
    return f"its limit, {since}: `durasleep limit resume {description.limit}` lets it go on"


def _arguments(description: Description) -> str | None:
    if description.args is None:
        return None
    named = [f"{name}={json_values.as_json(value)}" for name, value in (description.kwargs or {}).items()]
    return ", ".join([*map(json_values.as_json, description.args), *named]) or "nothing"


def _lifetime(description: Description) -> str | None:
    from durasleep import humanize

    if description.settled_at_ms is None:
        return None
    return humanize.describe_ms(max(0, description.settled_at_ms - description.created_at_ms))


def _instant_or_none(ms: int | None) -> str | None:
    return None if ms is None else instant(ms)


def _shown(text: str) -> str:
    more = len(text) - _SHOWN_VALUE_MAX
    return text if more <= 0 else f"{text[:_SHOWN_VALUE_MAX]}... ({more} more characters: --json shows all)"
