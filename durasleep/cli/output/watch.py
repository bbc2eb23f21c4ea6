"""Shows what an execution waits for, while its caller waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from durasleep.cli.output import console
from durasleep.errors import DurasleepError

if TYPE_CHECKING:
    from durasleep.app import Durasleep
    from durasleep.model import Target
    from durasleep.query.describe import Description

_LOOK_FIRST_S = 0.5  # between two looks
_LOOK_MAX_S = 5.0  # between two looks at an execution that has waited long


class Watch:
    """Shows one execution; each message that a person should see is shown once."""

    def __init__(self, client: Durasleep, id: str, target: Target, show: Callable[[str], None]) -> None:
        self._client = client
        self._id = id
        self._target = target
        self._show = show
        self._noted: set[str] = set()
        self._seen: Description | None = None
        self._pause_s = _LOOK_FIRST_S
        self._refresh_at = 0.0

    async def once(self) -> None:
        """Show what it waits for; ask again if the last answer is old."""
        if time.monotonic() >= self._refresh_at:
            try:
                await self._refresh()
            except DurasleepError as error:  # if it matters, the waiting call will raise it
                self._show(f"{self._id}: {error}")
                return
            self._refresh_at = time.monotonic() + self._pause_s
            self._pause_s = min(self._pause_s * 1.5, _LOOK_MAX_S)
        if self._seen is not None:
            self._show(f"{self._id}: {console.describe_waiting(self._seen, time.time_ns() // 1_000_000)}")

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
            start = "durasleep worker" if group == "workers" else f"durasleep worker --group {group}"
            self._note_once(f"{self._id} waits: group {group!r} has no worker alive (start one: {start})")

    def _note_once(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            console.note(text)
