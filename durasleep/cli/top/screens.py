"""The screens that lie over the panes of ``durasleep top``: one execution, and the help."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from durasleep.cli.output.json_values import visible
from durasleep.cli.top import looking, texts
from durasleep.errors import DurasleepError

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from durasleep.app import Durasleep

_LOOK_S = 1.0
_REST = 20  # times as long as a read has taken there is none: a large journal must not keep Redis busy

KEYS = (
    ("q", "quit"),
    ("tab, → ←", "go to the next pane, or the one before"),
    ("↑ ↓", "go to another row"),
    ("enter", "open an execution; on a group, worker or limit: filter by its name"),
    ("escape", "go back; show everything again"),
    ("/", "show only rows that have a text"),
    ("p", "pause, so that nothing changes while you read; again: go on"),
    ("?", "this help"),
)


class _Over(ModalScreen[None]):
    """A screen that is closed by escape, and by q."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark", "dismiss", "Back"),
    ]


class Help(_Over):
    """The keys, and what the words mean."""

    def compose(self) -> ComposeResult:
        """Its widgets."""
        width = max(len(key) for key, _ in KEYS) + 2
        text = Text(end="")
        for key, does in KEYS:
            text.append(f"{key:<{width}}", "bold").append(f"{does}\n")
        text.append(
            "\nThe chart shows what ended in each minute of the last hour, red at its foot if some failed.\n", "dim"
        )
        text.append("A sleeping execution is on no worker: it is one timer in Redis.", "dim")
        box = VerticalScroll(Static(text), id="help")
        box.border_title = "Keys"
        yield box


class Execution(_Over):
    """One execution, with all that it has called; read again and again."""

    def __init__(self, client: Durasleep, id: str) -> None:
        super().__init__()
        self._client = client
        self._execution = id

    def compose(self) -> ComposeResult:
        """Its widgets."""
        box = VerticalScroll(Static("", id="history"), id="execution")
        box.border_title = Text(visible(self._execution))
        box.border_subtitle = "escape goes back"
        yield box

    def on_mount(self) -> None:
        """Begin to read."""
        self.run_worker(self._follow(), exclusive=True)

    async def _follow(self) -> None:
        while True:
            began = time.monotonic()
            try:
                seen = await looking.read_execution(self._client, self._execution)
            except DurasleepError as error:
                text = Text(str(error), style="red")
            else:
                text = texts.execution(seen, time.time_ns() // 1_000_000)
            self.query_one("#history", Static).update(text)
            await asyncio.sleep(max(_LOOK_S, _REST * (time.monotonic() - began)))
