"""Lists and trees for people. Ids are never cut, because the next command needs them whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from durasleep import humanize
from durasleep.cli.output import console
from durasleep.cli.output.fsck_words import FINDINGS
from durasleep.query.audit import AuditEntry
from durasleep.query.call_tree import Node, Tree
from durasleep.query.fsck import Finding
from durasleep.query.groups import GroupSummary
from durasleep.query.limits import LimitSummary
from durasleep.query.partitions import PartitionSummary
from durasleep.query.search import DueItem, Summary
from durasleep.runtime.recording import Verdict

if TYPE_CHECKING:  # others need nothing that reads cron lines
    from durasleep.query.schedules import ScheduleDescription

Cell = tuple[str, str]
"""A text and its style."""

_GAP = 2
_DUE_WIDTH = 36  # an instant on another day, and the time until then
_LINE_MAX = 10_000  # if there is no screen
_LINE_END = "\n"
NAMED_MAX = 40  # characters of a function or name in a row


def executions(found: Sequence[Summary], now_ms: int, *, on_stderr: bool = False) -> None:
    """Executions, one a line: the place of each, and until when or why."""
    with_group = len({one.group for one in found}) > 1
    rows: list[list[Cell]] = []
    for one in found:
        status = one.state if one.status == "done" else one.status
        style = console.STATUS_STYLE.get(one.status) or console.STATE_STYLE.get(one.state, "")
        rows.append(
            [
                (one.id, "bold"),
                (status, style),
                (_short(one.func), ""),
                *([(one.group, "")] if with_group else []),
                (_age(now_ms - one.created_at_ms), "dim"),
                (_details(one, now_ms), ""),
            ]
        )
    names = ["ID", "STATUS", "FUNCTION", *(["GROUP"] if with_group else []), "AGE", "DETAILS"]
    show(names, rows, spare=("AGE", "GROUP"), on_stderr=on_stderr)


def _details(one: Summary, now_ms: int) -> str:
    due = humanize.describe_until(one.due_at_ms, now_ms) if one.due_at_ms else ""
    reason = (one.reason or "").partition("\n")[0]
    match one.status:
        case "running":
            return f"on {one.worker}"
        case "queued":
            who = f"worker {one.target_worker}" if one.target_worker else "a worker"
            return f"for {who} of group {one.group}"
        case "parked":
            return f"until limit {one.limit} lets it begin"
        case "suspended":
            if one.channels:
                more = f" or {len(one.channels) - 1} more" if len(one.channels) > 1 else ""
                return f"for message {one.channels[0]!r}{more}{f', {due}' if due else ''}"
            return due or "until what it waits for settles"
        case "done" if one.settled_at_ms:
            error = f": {one.error.partition(_LINE_END)[0]}" if one.error and one.state == "rejected" else ""
            return f"{_age(now_ms - one.settled_at_ms)} ago{error}"
        case _:
            return ": ".join(part for part in (due, reason) if part)


def limits(found: Sequence[LimitSummary], now_ms: int) -> None:
    """Limits, one a line: their numbers, and what waits."""
    rows: list[list[Cell]] = []
    for one in found:
        numbers = [
            f"{one.per_key:,} a key" if one.per_key is not None else "",
            f"{one.total:,} in all" if one.total is not None else "",
            f"{one.rate}{' a key' if one.is_keyed else ''}" if one.rate else "",
            f"burst {one.burst:,}" if one.rate and one.burst > 1 else "",
            "for life" if one.hold == "life" else "",
            "by hand" if one.is_by_hand else "",
        ]
        waits = f"{one.parked:,}" + (f" for {one.keys:,} {'key' if one.keys == 1 else 'keys'}" if one.is_keyed else "")
        paused = f"paused for {_age(now_ms - one.paused_at_ms)}" if one.paused_at_ms is not None else ""
        rows.append(
            [
                (one.name, "bold"),
                (", ".join(filter(None, numbers)) or "none", ""),
                (f"{one.in_use:,}", ""),
                (waits if one.parked else "0", "yellow" if one.parked else ""),
                (paused, "red"),
            ]
        )
    show(["LIMIT", "NUMBERS", "RUN", "WAIT", ""], rows, spare=())


def partitions(found: Sequence[PartitionSummary]) -> None:
    """The partitions of a namespace, one a line."""
    has_nodes = any(one.node for one in found)
    rows: list[list[Cell]] = []
    for one in found:
        queued = "?" if one.queues is None else f"{sum(one.queues.values()):,}"
        if one.queues and len(one.queues) > 1:
            queued += f" ({', '.join(f'{name} {length:,}' for name, length in one.queues.items())})"
        rows.append(
            [
                (str(one.number), "bold"),
                (one.tag, ""),
                (str(one.slot), "dim"),
                *([(_node_of(one), "yellow" if one.moving_to or not one.answers else "")] if has_nodes else []),
                ("?" if one.timers is None else f"{one.timers:,}", ""),
                (queued, ""),
                ("?" if one.halted is None else f"{one.halted:,}", ""),
                ("?" if one.workers is None else ", ".join(one.workers) or "none", "" if one.workers else "yellow"),
            ]
        )
    nodes = ["NODE"] if has_nodes else []
    show(["", "TAG", "SLOT", *nodes, "TIMERS", "QUEUED", "HALTED", "WORKERS"], rows, spare=("SLOT", "TAG"))


def _node_of(one: PartitionSummary) -> str:
    if not one.answers:
        return f"{one.node}, does not answer"
    return f"{one.node}, moving to {one.moving_to}" if one.moving_to else one.node


def groups(found: Sequence[GroupSummary]) -> None:
    """Groups, one a line."""
    rows: list[list[Cell]] = []
    for one in found:
        since = f"since {console.instant(one.paused_since_ms)}, by {one.paused_by}" if one.paused_since_ms else ""
        workers = ", ".join(one.workers)
        rows.append(
            [
                (one.name, "bold"),
                (f"{one.queued:,}", ""),
                (since, "yellow"),
                (workers or "none", "" if workers else "yellow"),
            ]
        )
    show(["GROUP", "QUEUED", "PAUSED", "WORKERS"], rows, spare=())


def audit(found: Sequence[AuditEntry]) -> None:
    """What was done by hand, one a line."""
    rows: list[list[Cell]] = []
    for one in found:
        result = one.word if one.count is None else f"{one.count:,} changed"
        rows.append(
            [
                (console.instant(one.at_ms), "dim"),
                (one.by, "bold"),
                (one.verb, ""),
                (one.id or one.filter, ""),
                (result, ""),
            ]
        )
    show(["WHEN", "BY", "VERB", "WHAT", "RESULT"], rows, spare=("RESULT",))


def findings(found: Sequence[Finding]) -> None:
    """Broken laws, one a line, and whether each was repaired."""
    if not found:
        return
    rows: list[list[Cell]] = []
    for one in found:
        done = (
            ("repaired", "green")
            if one.repaired
            else ("repairable", "yellow")
            if one.repairable
            else ("by hand", "red")
        )
        rows.append([(one.id, "bold"), done, (FINDINGS.get(one.kind, one.kind), ""), (one.text, "")])
    show(["ID", "", "FINDING", "DETAILS"], rows, spare=("FINDING",))


def verdicts(found: Sequence[Verdict]) -> None:
    """The results of replays, one a line, with the difference below."""
    for one in found:
        word, style = ("ok", "green") if one.ok else ("differs", "red")
        first, *more = one.text.splitlines() or [""]
        console.line((f"{word:<8}", style), (f"{one.id}  ", "bold"), (f"{one.function}  ", ""), (first, ""))
        for line in more:
            console.line((f"  {line}", {"  -": "red", "  +": "green"}.get(line[:3], "dim")))


def timers(found: Sequence[DueItem], now_ms: int) -> None:
    """What is due, one a line."""
    rows: list[list[Cell]] = [
        [
            (one.id, "bold"),
            (one.kind, "blue"),
            (_short(one.func or ""), ""),
            (_short(one.name), ""),
            (humanize.describe_until(one.due_at_ms, now_ms), ""),
        ]
        for one in found
    ]
    show(["ID", "KIND", "FUNCTION", "NAME", "DUE"], rows, spare=("NAME", "FUNCTION"))


def schedules(found: Sequence[ScheduleDescription], now_ms: int) -> None:
    """Schedules, one a line."""
    rows: list[list[Cell]] = [
        [
            (one.name, "bold"),
            (_short(one.function), ""),
            (_short(_times_of(one)), ""),
            (one.overlap, ""),
            (_short(one.note.partition("\n")[0]), ""),
            _next_of(one, now_ms),
        ]
        for one in found
    ]
    show(["NAME", "FUNCTION", "TIMES", "OVERLAP", "NOTE", "NEXT"], rows, spare=("NOTE", "OVERLAP", "FUNCTION"))


def schedule(found: ScheduleDescription, now_ms: int) -> None:
    """One schedule with all that is known of it."""
    limits = (("start", found.start_ms), ("end", found.end_ms))
    rows: list[tuple[str, str, str]] = [
        ("name", found.name, "bold"),
        ("function", found.function, ""),
        ("runs on", found.queue, ""),
        ("times", _times_of(found), ""),
        *((name, console.instant(ms), "") for name, ms in limits if ms is not None),
        ("jitter", humanize.describe_ms(found.jitter_ms) if found.jitter_ms else "", ""),
        ("overlap", found.overlap, ""),
        ("catch up", _catch_up_of(found), ""),
        ("left", "" if found.remaining is None else f"{found.remaining} starts", ""),
        ("note", found.note, ""),
        ("running", found.running or "", ""),
        ("waiting", "\n".join(found.waiting), ""),
        ("paused", "" if found.paused_at_ms is None else f"since {console.instant(found.paused_at_ms)}", "yellow"),
        ("next", "\n".join(humanize.describe_until(ms, now_ms) for ms in found.next_at_ms) or "never", ""),
    ]
    console.rows([row for row in rows if row[1]])


def _times_of(one: ScheduleDescription) -> str:
    times = "; ".join(one.cron) if one.every_ms is None else f"every {humanize.describe_ms(one.every_ms)}"
    return f"{times} {one.zone}"


def _catch_up_of(one: ScheduleDescription) -> str:
    limit = "" if one.window_ms is None else f", if not missed by more than {humanize.describe_ms(one.window_ms)}"
    return f"{one.catch_up}{limit}"


def _next_of(one: ScheduleDescription, now_ms: int) -> Cell:
    if one.paused_at_ms is not None:
        return "paused", "yellow"
    return (humanize.describe_until(one.next_at_ms[0], now_ms) if one.next_at_ms else "never"), ""


def _short(text: str) -> str:
    return text if len(text) <= NAMED_MAX else f"{text[: NAMED_MAX - 1]}…"


def _age(ms: int) -> str:
    """A duration in its largest unit."""
    return " ".join(humanize.describe_ms(max(ms, 0)).split()[:2])


def show(names: list[str], rows: list[list[Cell]], *, spare: Sequence[str], on_stderr: bool = False) -> None:
    """Aligned columns without empty ones. On a narrow terminal, the columns ``spare`` go first, and the last is cut."""
    from rich.cells import cell_len
    from rich.text import Text

    screen = console.console(on_stderr=on_stderr)
    table = [[(name, "dim") for name in names], *rows]
    widths = [max(cell_len(row[index][0]) for row in table) for index in range(len(names))]
    shown = [index for index in range(len(names)) if any(row[index][0] for row in rows)]
    for name in spare if screen.is_terminal else ():
        needed = sum(widths[index] + _GAP for index in shown[:-1]) + min(widths[shown[-1]], _DUE_WIDTH)
        if needed > screen.width:
            shown = [index for index in shown if names[index] != name]
    for row in table:
        line = Text()
        for index in shown[:-1]:
            text, style = row[index]
            line.append(text, style)
            line.append(" " * (widths[index] - cell_len(text) + _GAP))
        line.append(*row[shown[-1]])
        line.rstrip()
        if screen.is_terminal and cell_len(row[0][0]) < screen.width:
            line.truncate(screen.width, overflow="ellipsis")
        screen.print(line)


# -- trees -------------------------------------------------------------------


def tree(found: Tree, now_ms: int, said: Mapping[str, str]) -> None:
    """An execution and all it has called; ``said`` is what they publish, by their ids."""
    from rich.text import Text
    from rich.tree import Tree as Drawing

    def label(node: Node) -> Text:
        style = console.STATE_STYLE.get(node.state) or console.STATUS_STYLE.get(node.status, "")
        parts = [(node.id, "bold"), (_what(node), ""), (_standing(node), style), (_times(node, now_ms), "dim")]
        parts.append((said.get(node.id, ""), "italic"))
        return Text("  ").join(Text(*part) for part in parts if part[0])

    root = Drawing(label(found.root), guide_style="dim")
    drawn = [(root, found.root)]
    while drawn:
        branch, node = drawn.pop()
        drawn += [(branch.add(label(child)), child) for child in node.children]
    screen = console.console()
    if not screen.is_terminal:
        screen.width = _LINE_MAX
    screen.print(root, soft_wrap=False)


def _what(node: Node) -> str:
    match node.kind:
        case "execution":
            return _short(node.name)
        case "receive":
            return f"receive {_short(node.name)!r}"
        case "send":
            return f"send {_short(node.name)!r} to {node.to}"
        case "settle":
            return f"settle {node.to}"
        case kind:
            return _short(f"{kind} {node.name}".rstrip())


def _standing(node: Node) -> str:
    if node.state != "pending":
        return node.state
    reason = (node.reason or "").partition("\n")[0]
    if node.status == "running":
        return f"running on {node.worker}"
    if node.kind == "execution":
        return f"{node.status}: {reason}" if reason else node.status
    return "" if node.due_at_ms else "pending"


def _times(node: Node, now_ms: int) -> str:
    """How long an execution took or has run, when an entry is due, or when it settled."""
    if node.state == "pending":
        due = humanize.describe_until(node.due_at_ms, now_ms) if node.due_at_ms else ""
        since = f"for {_age(now_ms - node.created_at_ms)}" if node.created_at_ms else ""
        return ", ".join(part for part in (since, due) if part)
    if node.created_at_ms and node.settled_at_ms:
        return f"in {humanize.describe_ms(node.settled_at_ms - node.created_at_ms)}"
    return f"at {humanize.local(node.settled_at_ms):%H:%M:%S}" if node.settled_at_ms else ""
