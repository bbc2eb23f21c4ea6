"""``durasleep top``: the screen that shows a namespace, once a second."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import events, on
from textual.app import App
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Input, Static

from durasleep import humanize
from durasleep.cli.output.json_values import visible
from durasleep.cli.top import looking, texts
from durasleep.cli.top.looking import Seen
from durasleep.cli.top.pane import Pane
from durasleep.cli.top.screens import Execution, Help
from durasleep.errors import DurasleepError

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from durasleep.app import Durasleep

LOOK_S = 1.0
_TICK_S = 0.5  # how often the clock is drawn
_SILENT_S = 2.5  # without an answer for so long, the screen says it
_WIDE = 120  # columns: two panes beside each other
_TALL = 16  # rows: with fewer there is no chart
_CHART_WIDTH = 61  # an hour
_BESIDE_CHART = 17
_THEMES = ("ansi-dark", "textual-ansi")
"""The colors of the terminal itself, whether it is light or dark."""

LEFT, RIGHT = ("groups", "workers", "limits", "dues"), ("halted", "failures")


class Top(App[None]):
    """Shows what ``client`` sees, from what was ``seen`` at first on."""

    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (_WIDE, "-wide")]  # noqa: RUF012 - Textual declares it so
    CSS_PATH = "top.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("p", "pause", "Pause"),
        Binding("escape", "clear_filter", "Show all", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
    ]

    def __init__(self, client: Durasleep, seen: Seen, where: str) -> None:
        super().__init__()
        self._client = client
        self.seen = seen
        """What the screen shows."""
        self.is_paused = False
        self._where = where
        self._filter = ""
        self._asked_at: float | None = None
        """Since when an answer is waited for."""
        self._error = ""
        self._texts: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        """Its widgets."""
        yield Static(id="head")
        yield Static(id="problem")
        yield Static(id="tiles")
        yield Static(id="chart")
        with VerticalScroll(id="panes", can_focus=False):
            with Vertical(id="left"):
                yield from (Pane(name) for name in LEFT)
            with Vertical(id="right"):
                yield from (Pane(name) for name in RIGHT)
        yield Input(id="filter", placeholder="show only rows with this text; escape shows all")
        yield Static(texts.keys(), id="keys")

    def on_mount(self) -> None:
        """Draw what was seen at first, and begin to look again."""
        self.theme = next(name for name in _THEMES if name in self.available_themes)
        self.title = "durasleep top"
        self._draw()
        for pane in self.query(Pane):
            if pane.can_focus:
                pane.focus()
                break
        self.set_interval(_TICK_S, self._draw_head)
        self.run_worker(self._look(), exclusive=True)

    @on(events.Resize)
    def draw_again(self) -> None:
        """The chart has another width."""
        self._draw()

    # -- looking

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if self.is_paused:
                continue
            self._asked_at = time.monotonic()
            try:
                seen = await looking.read(self._client)
            except DurasleepError as error:
                self._error = str(error)
            else:
                self._error = ""
                if not self.is_paused:  # it was not, when the question was asked
                    self.seen = seen
            self._asked_at = None
            self._draw()

    @property
    def problem(self) -> str:
        """Why the screen is not current, in a sentence; empty if it is."""
        waited_s = 0.0 if self._asked_at is None else time.monotonic() - self._asked_at
        if not self._error and waited_s < _SILENT_S:
            return ""
        age = humanize.describe_ms(round(time.monotonic() - self.seen.read_at) * 1000)
        why = self._error.rstrip(".") or f"No answer from {self._where}"
        return f"{why}. This is what was there {age} ago; trying again."

    # -- drawing

    @property
    def _is_whole(self) -> bool:
        """Whether all widgets are there: not before the first moment, and not at the end."""
        return len(self.query("#head, #problem, #tiles, #chart, #filter, Pane")) == len(LEFT + RIGHT) + 5

    def _draw(self) -> None:
        if not self._is_whole:
            return
        self._draw_head()
        self._show("tiles", texts.tiles(self.seen))
        self.query_one("#chart").display = self.size.height >= _TALL
        width = min(_CHART_WIDTH, max(10, self.size.width - _BESIDE_CHART))
        self._show("chart", texts.minutes_chart(self.seen.stats.minutes, width))
        for name, table in texts.tables(self.seen).items():
            self.query_one(f"#{name}", Pane).fill(table, self._filter)
        if self.focused is None:
            self.screen.focus_next(Pane)

    def _draw_head(self) -> None:
        if not self._is_whole:
            return
        self._show("problem", Text(visible(self.problem)))
        self.query_one("#problem").display = bool(self.problem)
        head = Text.assemble(("durasleep top", "bold"), "  ", (visible(self._where), "dim"), end="", no_wrap=True)
        states = [("paused: p goes on", "bold yellow")] if self.is_paused else []
        states += [(f"filter: {visible(self._filter)}", "bold yellow")] if self._filter else []
        at = humanize.local(self.seen.overview.at_ms)
        right = Text("  ").join([*[Text(*one) for one in states], Text(f"{at:%H:%M:%S}")])
        left_over = self.size.width - 2 - head.cell_len - right.cell_len
        if left_over < 2:
            head.truncate(max(14, self.size.width - 4 - right.cell_len), overflow="ellipsis")
            left_over = self.size.width - 2 - head.cell_len - right.cell_len
        head.append(" " * max(1, left_over)).append_text(right)
        self._show("head", head)

    def _show(self, id: str, text: Text) -> None:
        """Change a text if it has changed: each change lays out the screen anew."""
        if self._texts.get(id) != text.markup:
            self._texts[id] = text.markup
            self.query_one(f"#{id}", Static).update(text)

    # -- keys

    def action_pause(self) -> None:
        """Let the screen stand still, or go on."""
        self.is_paused = not self.is_paused
        self._draw_head()

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Help())

    def action_filter(self) -> None:
        """Ask for a text."""
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    def action_clear_filter(self) -> None:
        """Show all rows."""
        self._set_filter("")

    @on(Pane.RowSelected)
    def open_row(self, event: Pane.RowSelected) -> None:
        """Open the execution of a row; of another row, show only what has its name."""
        pane = self.query_one(f"#{event.control.id}", Pane)
        if pane.opens is not None:
            self.push_screen(Execution(self._client, pane.opens))
        elif pane.marked is not None:
            self._set_filter(pane.marked.cells[0][0])

    @on(Input.Changed)
    def use_filter(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        self._filter = event.value.strip()
        self._draw()

    @on(Input.Submitted)
    def leave_filter(self) -> None:
        """The filter stays; the keys go to the panes again."""
        self.query_one("#filter", Input).display = bool(self._filter)
        self.screen.focus_next(Pane)

    def _set_filter(self, text: str) -> None:
        field = self.query_one("#filter", Input)
        field.value = text
        field.display = bool(text)
        self._filter = text
        self._draw()
        if self.focused is None or self.focused is field:
            self.screen.focus_next(Pane)
