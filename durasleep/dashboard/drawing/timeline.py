"""What an execution has done, as rows with bars: each call from its begin to its end, or to the instant it is due."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from durasleep.dashboard.rendering import age, coarse
from durasleep.humanize import describe_ms
from durasleep.model import Kind
from durasleep.query.call_tree import Node, Tree

ROWS_MAX = 200  # drawn; a longer picture is no picture
WIDTH, ROW = 640, 24  # of the part with the bars; the height of a row
_TICKS = 4
_MINUTE_MS = 60_000  # an old picture changes once a minute, and so is sent only then; its countdowns are exact
_PAST_MIN = 0.4  # of the width
_MARKS = frozenset((Kind.PATCH.value, Kind.VERSION.value))


@dataclass(frozen=True, slots=True)
class Row:
    """One call, or the execution itself."""

    id: str
    depth: int
    kind: str
    name: str
    state: str
    status: str
    begin_ms: int
    end_ms: int | None
    """When it settled; None while it is pending."""
    due_ms: int | None
    """When it falls due, or its deadline passes, if it is pending."""
    worker: str | None
    to: str | None
    is_execution: bool
    is_exact: bool
    """Whether its begin is known; within the first second of an execution it is not."""
    x: float = 0.0
    width: float = 0.0
    due_width: float = 0.0
    """The dashed part: from now until it is due."""
    words: str = ""
    """How long it took, or how long it will take."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A vertical line with the time since the begin."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """The rows, and the scale of time above them."""

    rows: list[Row]
    ticks: list[Tick]
    now_x: float | None
    """Where now is, if something is pending."""
    is_all: bool
    width: int = WIDTH
    row: int = ROW


def timeline(tree: Tree, now_ms: int) -> Timeline:
    """The rows of an execution and of all that it has called."""
    rows: list[Row] = []
    for node, depth, begin_ms in _walk(tree.root, 0, tree.root.created_at_ms or now_ms):
        if len(rows) == ROWS_MAX:
            return _scaled(rows, now_ms, is_all=False)
        rows.append(_row(node, depth, begin_ms))
    return _scaled(rows, now_ms, is_all=tree.is_all)


def _walk(node: Node, depth: int, above_ms: int) -> Iterator[tuple[Node, int, int]]:
    begin_ms = node.begun_at_ms or node.created_at_ms or above_ms
    yield node, depth, begin_ms
    for child in node.children:
        yield from _walk(child, depth + 1, begin_ms)


def _row(node: Node, depth: int, begin_ms: int) -> Row:
    is_pending = node.state == "pending"
    end_ms = begin_ms if node.kind in _MARKS else node.settled_at_ms
    return Row(
        id=node.id,
        depth=depth,
        kind=node.kind,
        name=node.name,
        state=node.state,
        status=node.status if is_pending else node.state,
        begin_ms=min(begin_ms, end_ms) if end_ms and not is_pending else begin_ms,
        end_ms=None if is_pending else (end_ms or begin_ms),
        due_ms=node.due_at_ms if is_pending else None,
        worker=node.worker,
        to=node.to,
        is_execution=node.kind == Kind.EXECUTION.value,
        is_exact=node.created_at_ms is not None,
    )


def _scaled(rows: list[Row], exactly_ms: int, *, is_all: bool) -> Timeline:
    first = min(row.begin_ms for row in rows)
    past_ms = exactly_ms - first
    now_ms = exactly_ms if past_ms < _MINUTE_MS else first + past_ms // _MINUTE_MS * _MINUTE_MS
    now_ms = max(now_ms, *[row.end_ms or row.begin_ms for row in rows])
    pending = [row for row in rows if row.end_ms is None]
    last = max([first + 1, *[row.end_ms or now_ms for row in rows]])
    # A deadline of years would make a point of all that has happened; what is slept for is shown to its end.
    last = max([last, *[row.due_ms for row in pending if row.due_ms and not row.is_execution]])

    # What has happened keeps a part of the picture, also while a sleep of a month has just begun.
    is_both = len(pending) < len(rows) and last > now_ms > first
    share = max(_PAST_MIN, (now_ms - first) / (last - first)) if is_both else 1.0
    turn = now_ms if is_both else last

    def x(ms: int) -> float:
        ms = min(max(ms, first), last)
        if ms <= turn:
            return round((ms - first) / (turn - first) * share * WIDTH, 1)
        return round((share + (ms - turn) / (last - turn) * (1 - share)) * WIDTH, 1)

    marks = [first, (first + turn) // 2, turn, (turn + last) // 2, last] if is_both else _even(first, last)
    return Timeline(
        rows=[_placed(row, x, now_ms, exactly_ms) for row in rows],
        ticks=[Tick(x(ms), _since(ms - first)) for ms in dict.fromkeys(marks)],
        now_x=x(now_ms) if pending else None,
        is_all=is_all,
    )


def _even(first: int, last: int) -> list[int]:
    return [first + (last - first) * number // _TICKS for number in range(_TICKS + 1)]


def _since(ms: int) -> str:
    return f"+{describe_ms(ms)}" if ms else "0"


def _placed(row: Row, x: Callable[[int], float], now_ms: int, exactly_ms: int) -> Row:
    end_ms = now_ms if row.end_ms is None else row.end_ms
    begin_x, end_x = x(row.begin_ms), x(max(end_ms, row.begin_ms))
    due_x = x(row.due_ms) if row.due_ms else end_x
    return replace(
        row,
        x=begin_x,
        width=max(round(end_x - begin_x, 1), 2.0),
        due_width=max(round(due_x - end_x, 1), 0.0),
        words=_words(row, exactly_ms),
    )


def _words(row: Row, now_ms: int) -> str:
    if row.kind in _MARKS:
        return ""
    if row.end_ms is not None:
        return f"{'' if row.is_exact else '≤ '}{describe_ms(row.end_ms - row.begin_ms)}"
    if row.due_ms is not None and not row.is_execution:
        left_ms = row.due_ms - now_ms
        return f"{coarse(left_ms)} left" if left_ms >= 0 else f"{coarse(-left_ms)} late"
    return f"for {age(now_ms - row.begin_ms)}"
