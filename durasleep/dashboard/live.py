"""Pages that stay current: each view is read once a second while somebody looks at it, for all who do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

VIEWS_MAX = 50  # read each second, whatever people open
STREAMS_MAX = 200  # each keeps a connection, and the last page
POLL_S = 1.0
REST_MAX_S = 10.0
_SHARE = 10  # a view whose reading takes long rests ten times as long, so that looking never weighs on Redis


@dataclass(frozen=True, slots=True)
class Update:
    """What is sent to a browser: the new content of a page, or why there is none."""

    text: str
    is_trouble: bool = False


class Stop:
    """Ends one stream, when the server is told to stop."""

    def __init__(self) -> None:
        self.on_set: Callable[[], None] | None = None

    def set(self) -> None:
        """End it; what is being sent arrives whole."""
        if self.on_set is not None:
            self.on_set()


Read = Callable[[], Awaitable[Update]]


class TooMany(Exception):
    """There are as many views or streams as may be."""


@dataclass(eq=False, slots=True)
class _View:
    read: Read
    viewers: set[asyncio.Queue[Update | None]] = field(default_factory=set[asyncio.Queue[Update | None]])
    latest: Update | None = None
    task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        while self.viewers:
            began = time.monotonic()
            update = await self.read()
            if update != self.latest:
                self.latest = update
                for queue in self.viewers:
                    replace_in(queue, update)
            took_s = 0.0 if update.is_trouble else time.monotonic() - began
            await asyncio.sleep(max(POLL_S, min(_SHARE * took_s, REST_MAX_S)))


def replace_in(queue: asyncio.Queue[Update | None], update: Update | None) -> None:
    """Put it into a queue of one; a viewer who is slow gets the latest only."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(update)


class LiveViews:
    """The views that people look at now."""

    def __init__(self) -> None:
        self._views: dict[str, _View] = {}
        self._streams = 0
        self._is_closed = False

    def check_room(self, key: str) -> None:
        """TooMany if another stream of this view cannot be served."""
        if self._streams >= STREAMS_MAX:
            raise TooMany(f"{STREAMS_MAX} pages are kept current already: reload this one to see what has changed")
        if key not in self._views and len(self._views) >= VIEWS_MAX:
            raise TooMany(f"{VIEWS_MAX} views are kept current already: reload this page to see what has changed")

    async def stream(self, key: str, read: Read, stop: Stop) -> AsyncGenerator[Update]:
        """What ``read`` gives, now and whenever that changes, until ``stop`` or ``close``. Views with the same key
        share it.
        """
        if self._is_closed:
            return
        self.check_room(key)
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = _View(read)
        queue: asyncio.Queue[Update | None] = asyncio.Queue(1)
        stop.on_set = partial(replace_in, queue, None)
        if view.latest is not None:
            queue.put_nowait(view.latest)
        view.viewers.add(queue)
        if view.task is None:
            view.task = asyncio.create_task(view.run(), name=f"durasleep-view:{key}")
        self._streams += 1
        try:
            while (update := await queue.get()) is not None:
                yield update
        finally:
            self._streams -= 1
            view.viewers.discard(queue)
            if not view.viewers:
                view.task.cancel()
                del self._views[key]

    def close(self) -> None:
        """End all streams: the server stops."""
        self._is_closed = True
        for view in self._views.values():
            for queue in view.viewers:
                replace_in(queue, None)
