"""The texts of ``durasleep top``: the numbers in its head, the chart, and the rows of each pane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from durasleep import humanize
from durasleep.cli.output import console, histories, load_tables
from durasleep.cli.output.json_values import visible
from durasleep.cli.output.tables import Cell
from durasleep.cli.top.looking import Seen, SeenExecution
from durasleep.model import owner_of
from durasleep.query.overview import LimitLoad
from durasleep.query.search import DueItem, Summary
from durasleep.query.stats import MinuteStats

_CHART_ROWS = 3
_CHART_BLOCKS = " ▁▂▃▄▅▆▇█"
_EIGHTHS = len(_CHART_BLOCKS) - 1
_LATE_S = 3.0  # a timer that is due settles within that time, also if its firer has just died


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a pane."""

    key: str
    """What tells it from the others."""
    cells: list[Cell]
    opens: str | None = None
    """The execution that it names."""


@dataclass(frozen=True, slots=True)
class Table:
    """A pane: its title, its columns and its rows."""

    title: str
    columns: list[str]
    rows: list[Row]
    total: int
    """How many rows there are, also those that are not listed."""


def cell(text: str, style: str = "") -> Text:
    """A text from anywhere, in one line, which does not control the terminal."""
    return Text(visible(text.partition("\n")[0]), style=style, no_wrap=True, end="")


def keys() -> Text:
    """The keys that are used most, for the last line."""
    text = Text(no_wrap=True, end="")
    for key, does in (
        ("enter", "open"),
        ("tab", "next pane"),
        ("/", "filter"),
        ("p", "pause"),
        ("?", "help"),
        ("q", "quit"),
    ):
        text.append(key, "bold cyan").append(f" {does}   ", "dim")
    return text


def tiles(seen: Seen) -> Text:
    """The numbers that matter, in a line or two."""
    now = seen.overview
    late = now.overdue_s if now.overdue_s > _LATE_S else 0.0
    shown = [
        ("queued", f"{now.queued:,}", "yellow" if now.queued else ""),
        ("running", f"{now.running:,}", "cyan" if now.running else ""),
        ("sleeping", f"{now.sleepers:,}", "blue" if now.sleepers else ""),
        ("parked", f"{now.parked:,}", "yellow" if now.parked else ""),
        ("halted", f"{now.halted:,}", "bold red" if now.halted else ""),
        *([("quarantined", f"{now.quarantined:,}", "bold red")] if now.quarantined else []),
        ("workers", f"{len(now.workers):,}", "" if now.workers else "bold red"),
        ("next due", _next_due(seen), ""),
    ]
    text = Text(" · ", style="dim", end="").join(
        [
            Text.assemble((value, style or "bold"), " ", (name, "dim"))
            if name != "next due"
            else Text.assemble(("next due ", "dim"), (value, "bold"))
            for name, value, style in shown
        ]
    )
    for said in (
        f"overdue for {humanize.describe_ms(round(late * 1000))}: no worker fires timers" if late else "",
        "the clock is held: durasleep namespace release-clock" if now.is_clock_held else "",
        "a part cannot be asked" if not now.is_all else "",
    ):
        if said:
            text.append(" · ", "dim").append(said, "bold red")
    return text


def _next_due(seen: Seen) -> str:
    now = seen.overview
    if now.next_due_ms is None:
        return "none"
    left_ms = now.next_due_ms - now.at_ms
    return f"in {_short_duration(left_ms)}" if left_ms > 0 else "now"


def _short_duration(ms: int) -> str:
    """So rough that it does not flicker: no tenths of seconds."""
    return humanize.describe_ms(ms // 1000 * 1000) if ms >= 1000 else "1 s"


# -- the chart


def minutes_chart(minutes: Sequence[MinuteStats], width: int) -> Text:
    """The endings of each of the last minutes as bars, red at their feet if some failed, with the sums beside them."""
    counts = [minute.ended for minute in minutes[-width:]]
    failed = [minute.failed for minute in minutes[-width:]]
    largest = max(counts, default=0)
    text = Text(no_wrap=True, end="")
    last = minutes[-1].ended
    before = minutes[-2].ended if len(minutes) > 1 else last
    said = [
        f"{before:,} a minute",
        f"{sum(minute.ended for minute in minutes):,} an hour",
        f"{sum(minute.failed for minute in minutes):,} failed",
    ]
    for row in range(_CHART_ROWS):
        for count, bad in zip(counts, failed, strict=True):
            height = 0 if not largest else -(-count * _CHART_ROWS * _EIGHTHS // largest)
            block = _CHART_BLOCKS[min(max(height - (_CHART_ROWS - 1 - row) * _EIGHTHS, 0), _EIGHTHS)]
            is_floor = row == _CHART_ROWS - 1 and not count
            red_rows = max(1, round(bad * _CHART_ROWS / largest)) if bad else 0
            is_red = _CHART_ROWS - 1 - row < red_rows
            text.append("·" if is_floor else block, "dim" if is_floor else "red" if is_red else "green")
        is_bad = row == _CHART_ROWS - 1 and any(minute.failed for minute in minutes)
        text.append(f"  {said[row]}", "red" if is_bad else "dim")
        if row < _CHART_ROWS - 1:
            text.append("\n")
    return text


# -- the panes


def tables(seen: Seen) -> dict[str, Table]:
    """All panes, by the ids of their widgets."""
    return {
        "groups": _groups(seen),
        "workers": _workers(seen),
        "limits": _limits(seen),
        "dues": _dues(seen),
        "halted": _halted(seen),
        "failures": _failures(seen),
    }


def _groups(seen: Seen) -> Table:
    rows: list[Row] = []
    for one in seen.overview.groups:
        is_unserved = bool(one.queued) and not one.workers
        paused = f"paused by {one.paused_by}" if one.paused_since_ms else ""
        rows.append(
            Row(
                one.name,
                [
                    (one.name, "bold"),
                    (load_tables.queued_of(one), "yellow" if one.queued else ""),
                    (f"{one.running:,}", "cyan" if one.running else ""),
                    (_short_duration(round(one.oldest_queued_s * 1000)) if one.queued else "", ""),
                    (f"{len(one.workers):,}" if one.workers else "none", "red" if is_unserved else ""),
                    (paused, "yellow"),
                ],
            )
        )
    return Table("Groups", ["group", "queued", "running", "oldest", "workers", ""], rows, len(rows))


def _workers(seen: Seen) -> Table:
    count = len(seen.overview.partitions)
    rows = [
        Row(
            f"{one.name} {one.process}",
            [
                (one.name, "bold"),
                (one.group, ""),
                (load_tables.load_of(one), "cyan" if one.running else ""),
                (_bar(one.running, one.slots), "cyan"),
                (load_tables.partitions_of(one, count), ""),
                (load_tables.notes_of(one), "yellow"),
            ],
        )
        for one in seen.overview.workers
    ]
    return Table("Workers", ["worker", "group", "runs", "load", "partitions" if count > 1 else "", ""], rows, len(rows))


_BAR_WIDTH = 10


def _bar(running: int, slots: int | None) -> str:
    """How much of its slots a worker uses."""
    if not slots:
        return ""
    full = min(_BAR_WIDTH, -(-running * _BAR_WIDTH // slots))
    return "█" * full + "·" * (_BAR_WIDTH - full)


def _limits(seen: Seen) -> Table:
    rows = [Row(one.name, _limit_cells(one)) for one in seen.overview.limits]
    return Table("Limits", ["limit", "running", "parked", ""], rows, len(rows))


def _limit_cells(one: LimitLoad) -> list[Cell]:
    keys = f" for {one.keys:,} keys" if one.keys > 1 else ""
    return [
        (one.name, "bold"),
        (f"{one.in_use:,}" if one.total is None else f"{one.in_use:,} of {one.total:,}", "cyan" if one.in_use else ""),
        (f"{one.parked:,}{keys}", "yellow" if one.parked else ""),
        ("paused" if one.paused_since_ms is not None else "", "yellow"),
    ]


def _dues(seen: Seen) -> Table:
    now_ms = seen.overview.at_ms
    rows = [
        Row(
            f"{one.kind} {one.id}",
            [(_left(one.due_at_ms, now_ms), "blue"), (one.id, "bold"), (_what(one), ""), (one.name, "dim")],
            _execution_of(one),
        )
        for one in seen.dues
    ]
    return Table("Due next", ["due", "id", "what", "name"], rows, seen.dues.total)


def _left(due_ms: int, now_ms: int) -> str:
    if due_ms <= now_ms:
        return f"{_short_duration(now_ms - due_ms)} ago"
    return f"in {_short_duration(due_ms - now_ms)}"


def _what(one: DueItem) -> str:
    return f"{one.kind} of {one.func}" if one.func else one.kind


def _execution_of(one: DueItem) -> str | None:
    if one.kind == "cron":
        return None
    owner = owner_of(one.id)
    return owner[0] if owner else one.id


def _halted(seen: Seen) -> Table:
    rows = [_execution_row(one, one.reason or "", seen.overview.at_ms) for one in seen.halted]
    return Table("Halted", ["age", "id", "function", "why"], rows, seen.overview.halted)


def _failures(seen: Seen) -> Table:
    rows = [_execution_row(one, one.error or "", seen.overview.at_ms) for one in seen.failures]
    return Table("Last failures", ["ago", "id", "function", "error"], rows, len(rows))


def _execution_row(one: Summary, why: str, now_ms: int) -> Row:
    age_ms = max(0, now_ms - (one.settled_at_ms or one.created_at_ms))
    return Row(one.id, [(_short_duration(age_ms), "dim"), (one.id, "bold"), (one.func, ""), (why, "red")], one.id)


def is_wanted(row: Row, filter: str) -> bool:
    """Whether a row has the text of the filter in one of its cells, in any case."""
    wanted = filter.casefold()
    return not wanted or any(wanted in text.casefold() for text, _ in row.cells)


# -- one execution


def execution(seen: SeenExecution, now_ms: int) -> Text:
    """Everything of one execution, in lines."""
    text = Text(end="")
    rows = console.description_rows(seen.description, now_ms)
    width = max(len(name) for name, _, _ in rows) + 2
    for name, value, style in rows:
        for index, line in enumerate(value.splitlines() or [""]):
            text.append(f"{name if index == 0 else '':<{width}}", "dim").append(visible(line), style).append("\n")
    if seen.history is not None and seen.history.calls:
        text.append("\n")
        _append_calls(text, seen)
    return text


def _append_calls(text: Text, seen: SeenExecution) -> None:
    assert seen.history is not None
    cells = histories.rows(seen.history, seen.description.created_at_ms)
    table = [[(name, "dim") for name in histories.NAMES], *cells]
    lines = [[cell(value, style) for value, style in row] for row in table]
    widths = [max(line[index].cell_len for line in lines) for index in range(len(histories.NAMES))]
    for line in lines:
        for index, part in enumerate(line):
            text.append_text(part)
            if index < len(line) - 1:
                text.append(" " * (widths[index] - part.cell_len + 2))
        text.rstrip()
        text.append("\n")
    hidden = seen.history.total - len(seen.history.calls)
    if hidden > 0:
        text.append(f"{hidden:,} earlier calls are not shown.\n", "dim")
