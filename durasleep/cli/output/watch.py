"""Shows what an execution waits for, while its caller waits for it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from durasleep.cli.output import console, views
from durasleep.errors import DurasleepError

if TYPE_CHECKING:
    from durasleep.app import Durasleep
    from durasleep.model import Target
    from durasleep.query.describe import Description
    from durasleep.query.view import View

_FIRST_LOOK_S = 0.2  # most calls have ended by then
_SHOW_S = 0.5  # the spinner shows seconds
_LOOK_FIRST_S = 0.5  # between two looks
_LOOK_MAX_S = 5.0  # between two looks at an execution that has waited long


class Watch:
    """Shows one execution; each message that a person should see is shown once."""

    def __init__(self, client: Durasleep, id: str, target: Target, spinner: console.Spinner) -> None:
        self._client = client
        self._id = id
        self._target = target
        self._spinner = spinner
        self._noted: set[str] = set()
        self._seen: Description | None = None
        self._pause_s = _LOOK_FIRST_S
        self._refresh_at = 0.0
        self._view: View | None = None
        self._view_at = 0.0

    async def until(self, waiting: asyncio.Future[Any]) -> None:
        """Show it until its caller need not wait any more; then nobody does, also after Ctrl-C."""
        try:
            done, _ = await asyncio.wait({waiting}, timeout=_FIRST_LOOK_S)
            while not done:
                await self.once()
                done, _ = await asyncio.wait({waiting}, timeout=_SHOW_S)
        finally:
            waiting.cancel()

    async def once(self) -> None:
        """Show what it waits for; ask again if the last answer is old."""
        if time.monotonic() >= self._refresh_at:
            try:
                await self._refresh()
            except DurasleepError as error:  # if it matters, the waiting call will raise it
                self._spinner.show(f"{self._id}: {error}")
                return
            self._refresh_at = time.monotonic() + self._pause_s
            self._pause_s = min(self._pause_s * 1.5, _LOOK_MAX_S)
        if self._seen is not None:
            await self._show(f"{self._id}: {console.describe_waiting(self._seen, time.time_ns() // 1_000_000)}")

    async def _show(self, text: str) -> None:
        """How far it says it has come, or else what it waits for."""
        if not self._spinner.is_seen:
            return
        if time.monotonic() >= self._view_at:
            before, self._view = self._view, await self._read_view()
            self._view_at = time.monotonic() + (_LOOK_FIRST_S if self._view != before else self._pause_s)
        progress = None if self._view is None else self._view.progress
        if progress is None:
            self._spinner.show(text)
            return
        said = f"{self._id}: {views.describe_progress(progress)}"
        self._spinner.show_progress(said, progress.done, progress.total)

    async def _read_view(self) -> View | None:
        with suppress(DurasleepError):  # as above
            return await self._client.view(self._id)
        return None

    async def _refresh(self) -> None:
        self._seen = seen = await self._client.describe(self._id)
        if seen.status in ("halted", "delayed") and seen.reason:
            self._note_once(f"{self._id} is {seen.status}: {seen.reason}")
        if seen.status == "halted":
            self._note_once(f"When the cause is fixed: durasleep resume {self._id}")
        group = seen.group or self._target.group
        alive = await self._client.workers(group)
        worker = self._target.worker if group == self._target.group else None
        if worker is not None and worker not in alive:
            self._note_once(f"{self._id} waits: worker {worker!r} of group {group!r} is not alive")
        elif not alive:
            await self._note_no_worker(group)

    async def _note_no_worker(self, group: str) -> None:
        """Say it, and which groups have workers: who forgets the target of a call waits in the wrong one."""
        start = "durasleep worker" if group == "workers" else f"durasleep worker --group {group}"
        text = f"{self._id} waits: group {group!r} has no worker alive (start one: {start})"
        if text not in self._noted:
            self._note_once(text)
            served = [one.name for one in await self._client.groups() if one.workers]
            if served:
                name = served[0]
                self._note_once(f"Group {name!r} has workers: a call with --target {name} goes there")

    def _note_once(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            console.note(text)
