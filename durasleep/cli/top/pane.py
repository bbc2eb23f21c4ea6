"""One pane of ``durasleep top``: a table that keeps its cursor on its row while the rows change."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import DataTable
from textual.widgets.data_table import RowDoesNotExist

from durasleep.cli.top import texts
from durasleep.cli.top.texts import Row, Table


class Pane(DataTable[object]):
    """A table with a title above it. Without rows it is only the title."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Open"),
        Binding("left", "app.focus_previous", "Previous pane", show=False),
        Binding("right", "app.focus_next", "Next pane", show=False),
    ]

    def __init__(self, id: str) -> None:
        super().__init__(id=id, cursor_type="row", show_cursor=False, cell_padding=1)
        self._shown: list[Row] = []

    def on_focus(self) -> None:
        """Only the pane with the focus shows its cursor."""
        self.show_cursor = True

    def on_blur(self) -> None:
        """See ``on_focus``."""
        self.show_cursor = False

    @property
    def shown(self) -> list[Row]:
        """The rows that it shows now."""
        return self._shown

    @property
    def opens(self) -> str | None:
        """The execution that the row under the cursor names."""
        return self._shown[self.cursor_row].opens if 0 <= self.cursor_row < len(self._shown) else None

    @property
    def marked(self) -> Row | None:
        """The row under the cursor."""
        return self._shown[self.cursor_row] if 0 <= self.cursor_row < len(self._shown) else None

    def fill(self, table: Table, filter: str) -> None:
        """Show the rows of a table that have the text of the filter."""
        rows = [row for row in table.rows if texts.is_wanted(row, filter)]
        if not self.columns:
            for name in table.columns:
                self.add_column(texts.cell(name, "dim"))
        self.border_title = self._title(table, rows, filter)
        self.can_focus = self.show_header = bool(rows)
        self.set_class(not rows, "-empty")
        if rows == self._shown:
            return
        if [row.key for row in rows] == [row.key for row in self._shown]:
            self._update(rows)
        else:
            self._replace(rows)
        self._shown = rows

    def _title(self, table: Table, rows: list[Row], filter: str) -> str:
        """As text without markup: nothing of it comes from users."""
        if not table.rows:
            return f"{table.title}: none"
        if filter:
            return f"{table.title}: {len(rows):,} of {len(table.rows):,}"
        return f"{table.title}: {table.total:,}" + (f", {len(rows):,} shown" if len(rows) < table.total else "")

    def _update(self, rows: list[Row]) -> None:
        """The same rows with other texts."""
        columns = [column.key for column in self.ordered_columns]
        for before, after in zip(self._shown, rows, strict=True):
            for column, old, new in zip(columns, before.cells, after.cells, strict=True):
                if old != new:
                    self.update_cell(after.key, column, texts.cell(*new), update_width=True)

    def _replace(self, rows: list[Row]) -> None:
        marked, at = self.marked, self.cursor_row
        self.clear()
        for row in rows:
            self.add_row(*[texts.cell(*one) for one in row.cells], key=row.key)
        try:
            at = self.get_row_index(marked.key) if marked else 0
        except RowDoesNotExist:
            at = min(at, len(rows) - 1)
        self.move_cursor(row=max(0, at))
