"""What an execution has called, as a table: when, for how long, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from durasleep import humanize
from durasleep.cli.output import console, json_values, tables
from durasleep.cli.output.tables import Cell
from durasleep.query.history import Call, History

_ERROR_MAX = 200  # characters of an error, and of a value, in a row
NAMES = ["#", "CALL", "BEGAN", "TOOK", "STATE", "DETAILS"]


def document(history: History | None) -> dict[str, Any]:
    """For programs; empty if it is no execution."""
    if history is None:
        return {}
    calls = [asdict(call) | {"took_ms": call.took_ms} for call in history.calls]
    return {"calls": calls, "calls_total": history.total}


def show(history: History, created_ms: int, *, with_values: bool) -> None:
    """The calls, one a line, below an empty line."""
    if not history.calls:
        return
    console.line()
    if (hidden := history.total - len(history.calls)) > 0:
        console.note(f"{hidden:,} earlier call{' is' if hidden == 1 else 's are'} not shown.")
    tables.show(NAMES, rows(history, created_ms, with_values=with_values), spare=())


def rows(history: History, created_ms: int, *, with_values: bool = False) -> list[list[Cell]]:
    """The cells of each call."""
    return [
        [
            (call.number, "dim"),
            (_what(call), "bold"),
            (began(call, created_ms), ""),
            (took(call, history.at_ms), "" if call.state != "pending" else "dim"),
            (call.state, console.STATE_STYLE.get(call.state, "blue" if call.state == "pending" else "")),
            (_details(call, history.at_ms, with_values=with_values), ""),
        ]
        for call in history.calls
    ]


def _what(call: Call) -> str:
    name = call.name if len(call.name) <= tables.NAMED_MAX else f"{call.name[: tables.NAMED_MAX - 1]}…"
    return f"{call.kind} {name}".rstrip()


def began(call: Call, created_ms: int) -> str:
    """When it began, from the beginning of the execution on."""
    if not call.is_exact:
        return "at once"
    return f"+{humanize.describe_ms(call.began_at_ms - created_ms)}"


def took(call: Call, now_ms: int) -> str:
    """How long it took, or has lasted; at most so long, if its beginning is not known."""
    if call.ended_at_ms is None and call.state != "pending":
        return ""
    ms = max(0, (call.ended_at_ms or now_ms) - call.began_at_ms)
    return f"{'' if call.is_exact or ms >= _ROUGH_MS else '≤ '}{humanize.describe_ms(ms)}"


_ROUGH_MS = 60_000  # what a call of the first second took is known to a second: enough, if it took longer than this


def _details(call: Call, now_ms: int, *, with_values: bool) -> str:
    parts: Sequence[str] = (
        f"{call.attempts} attempts" if call.attempts > 1 else "",
        f"to {call.to}" if call.to else "",
        f"late by {humanize.describe_ms(call.late_ms)}" if call.late_ms else "",
        humanize.describe_until(call.due_at_ms, now_ms) if call.due_at_ms and not call.late_ms else "",
        _short(call.error.partition("\n")[0]) if call.error and call.state != "canceled" else "",
        _short(json_values.as_json(call.value)) if with_values and _has_value(call) else "",
    )
    return ", ".join(part for part in parts if part)


def _has_value(call: Call) -> bool:
    return call.state == "resolved" and (call.kind != "timer" or call.value is not None)


def _short(text: str) -> str:
    return text if len(text) <= _ERROR_MAX else f"{text[:_ERROR_MAX]}…"
