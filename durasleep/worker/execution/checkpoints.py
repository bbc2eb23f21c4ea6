"""What running steps and tasks keep for their next attempts: sent at most once a second for each execution."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from durasleep.codec import Codec
from durasleep.errors import PayloadTooLarge, UsageError
from durasleep.model import Checkpoint, Number
from durasleep.protocol.commit import Lease
from durasleep.worker.execution.commits import Commits
from durasleep.worker.execution.sending import Sender
from durasleep.worker.execution.threads import post

BYTES_MAX = 32_768  # of one checkpoint: each replay loads it
STEPS_MAX = 256  # of one execution: together 8 MB, a quarter of the largest journal


MAKING = threading.Lock()
"""Held while a keeper is made, because several threads may want the first one."""


class Keeping(Protocol):
    """A workflow or task whose attempts may keep checkpoints."""

    checkpoints: Keeper | None
    """None as long as nothing was kept."""

    def keeper(self, loop: asyncio.AbstractEventLoop) -> Keeper:
        """The checkpoints, made now if there are none; may be called from any thread."""
        ...


class Keeper(Sender):
    """The checkpoints of one held execution. Code of users calls ``read`` and ``keep``, from any thread; everything
    else is called on the worker's loop.
    """

    __slots__ = ("_kept", "_lock")

    WHAT = "a checkpoint"

    def __init__(
        self,
        commits: Commits,
        lease: Lease,
        is_running: Callable[[Number], bool],
        loop: asyncio.AbstractEventLoop,
        kept: Mapping[str, bytes] | None = None,
    ) -> None:
        """``kept`` is what earlier attempts have kept, by the numbers of their first attempts."""
        super().__init__(commits, lease, is_running, loop)
        self._kept: dict[str, bytes] = {} if kept is None else dict(kept)
        self._lock = threading.Lock()

    # -- for code of users

    def read(self, first: str, codec: Codec) -> Any:
        """What the step has kept, None if there is nothing."""
        payload = self._kept.get(first)
        return None if payload is None else codec.decode(payload)

    def keep(self, number: Number, first: str, data: object, what: str, codec: Codec) -> None:
        """Keep data of a running attempt, and send it soon."""
        payload = codec.encode(data, f"the checkpoint of {what}")
        if len(payload) > BYTES_MAX:
            raise PayloadTooLarge(f"the checkpoint of {what}: {len(payload)} bytes are over the cap of {BYTES_MAX}")
        with self._lock:
            if first not in self._kept and len(self._kept) >= STEPS_MAX:
                raise UsageError(f"{STEPS_MAX} steps of {self._lease.id} have kept checkpoints: there is no room")
            if not self._is_running(number):
                return
            self._kept[first] = payload
        post(self._loop, self._note, number, first)

    # -- for the worker

    @property
    def kept(self) -> Mapping[str, bytes]:
        """What the steps have kept, by the numbers of their first attempts."""
        return self._kept

    def end(self, first: str, *, is_retried: bool) -> tuple[Checkpoint, ...]:
        """What the commit of the end of an attempt has to say."""
        is_unsent = self._unsent.pop(first, None) is not None
        if is_retried:
            return (Checkpoint(Number(first), self._kept[first]),) if is_unsent else ()
        with self._lock:
            return (Checkpoint(Number(first)),) if self._kept.pop(first, None) is not None else ()

    def end_all(self) -> tuple[Checkpoint, ...]:
        """What the last commit of the execution has to say."""
        self._stop()
        with self._lock:
            return tuple([Checkpoint(Number(first)) for first in self._kept])

    def _ask(self, unsent: Mapping[str, Number]) -> asyncio.Future[list[Any]]:
        return self._commits.note(self._lease, [(number, first, self._kept[first]) for first, number in unsent.items()])
