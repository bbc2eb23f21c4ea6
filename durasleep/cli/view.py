"""Everything the command line shows: data on stdout, all else on stderr. The only importer of rich."""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from typing import Any, cast

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from durasleep import telemetry
from durasleep.store.calls import Description

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)

STATUS_STYLE = {
    "queued": "cyan",
    "running": "bold cyan",
    "suspended": "blue",
    "delayed": "blue",
    "halted": "bold red",
    "done": "green",
}


def data(text: str) -> None:
    """A result on stdout, as it is."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def as_json(value: object) -> str:
    """JSON for people and programs; what JSON lacks becomes text."""
    return json.dumps(_plain(value), ensure_ascii=False, default=str)


def as_text(value: object) -> str:
    """A result: text raw, anything else as JSON."""
    return value if isinstance(value, str) else as_json(value)


def _plain(value: object) -> Any:
    match value:
        case Enum():
            return _plain(value.value)
        case str() | int() | float() | None:
            return value
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return base64.b64encode(value).decode()
        case datetime():
            return value.isoformat()
        case dict():
            return {str(key): _plain(item) for key, item in cast("Mapping[object, object]", value).items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in cast("Iterable[object]", value)]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        case _:
            return str(value)


def note(text: str) -> None:
    """A line for the person at the terminal."""
    _err.print(escape(text))


def error(text: str) -> None:
    """What went wrong, in one sentence."""
    _err.print(f"[bold red]error:[/] {escape(text)}")


def warning(text: str) -> None:
    """What must not be overlooked."""
    _err.print(f"[bold yellow]warning:[/] {escape(text)}")


def story(text: str) -> None:
    """One line of a story told as it happens."""
    _out.print(f"[dim]{datetime.now().astimezone():%H:%M:%S}[/] {escape(text)}")


@contextmanager
def waiting(text: str) -> Generator[Status | None]:
    """A spinner on a terminal, nothing elsewhere."""
    if not _err.is_terminal:
        yield None
        return
    with _err.status(escape(text)) as status:
        yield status


def update(status: Status, text: str) -> None:
    status.update(escape(text))


def log_to_stderr(verbose: bool) -> None:
    """Log lines of durasleep on stderr: short on a terminal, dated elsewhere."""
    if _err.is_terminal:
        handler: logging.Handler = RichHandler(console=_err, show_path=False, log_time_format="%H:%M:%S", markup=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("durasleep")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False


def instant(ms: int | None) -> str:
    """An instant in the local zone; a dash for never."""
    return "-" if ms is None else datetime.fromtimestamp(ms / 1000).astimezone().isoformat(" ", "milliseconds")


def describe_waiting(description: Description, now_ms: int) -> str:
    """What an execution waits for, in a few words."""
    if description.status == "halted":
        return f"halted: {description.reason}"
    if description.status == "running":
        return f"running on {description.worker}"
    if not description.waiting_on:
        return description.status
    first = description.waiting_on[0]
    more = f" and {len(description.waiting_on) - 1} more" if len(description.waiting_on) > 1 else ""
    if first.due_ms is not None and first.kind == "timer":
        what = "asleep" if description.status == "suspended" else description.status
        return f"{what} {telemetry.describe_until(first.due_ms, now_ms)}{more}"
    return f"waiting for {first.kind} {first.id}{more}"


def show(description: Description, now_ms: int) -> None:
    """A promise as a small table."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    style = STATUS_STYLE.get(description.status, "")
    table.add_row("id", f"[bold]{escape(description.id)}[/]")
    table.add_row("state", f"[{style}]{escape(_state_text(description, now_ms))}[/]")
    for name, value in (
        ("function", description.func),
        ("group", description.group),
        ("worker", description.worker),
        ("created", instant(description.created_at_ms)),
        ("timeout", instant(description.timeout_at_ms) if description.timeout_at_ms else None),
        ("settled", instant(description.settled_at_ms) if description.settled_at_ms else None),
        ("value", as_text(description.value) if description.state == "resolved" else None),
        ("error", description.error),
        ("reason", description.reason),
    ):
        if value is not None:
            table.add_row(name, escape(value))
    for index, pending in enumerate(description.waiting_on):
        due = f", due {telemetry.describe_until(pending.due_ms, now_ms)}" if pending.due_ms else ""
        name = f" ({pending.name})" if pending.name else ""
        table.add_row("waits for" if index == 0 else "", escape(f"{pending.kind} {pending.id}{name}{due}"))
    _out.print(table)


def _state_text(description: Description, now_ms: int) -> str:
    if description.status == "done":
        return description.state
    return f"{description.state}, {describe_waiting(description, now_ms)}"
