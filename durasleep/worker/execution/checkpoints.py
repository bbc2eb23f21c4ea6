"""What running steps and tasks keep for their next attempts: sent at most once a second for each execution."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from durasleep.codec import Codec
from durasleep.errors import Fenced, PayloadTooLarge, UsageError
from durasleep.model import Checkpoint, Number
from durasleep.protocol.commit import Lease
from durasleep.worker.execution.commits import Commits
from durasleep.worker.execution.threads import post

logger = logging.getLogger("durasleep")

EVERY_S = 1.0  # between two writes of one execution
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


class Keeper:
    """The checkpoints of one held execution. Code of users calls ``read`` and ``keep``, from any thread; everything
    else is called on the worker's loop.
    """

    __slots__ = (
        "_asked",
        "_commits",
        "_is_running",
        "_kept",
        "_lease",
        "_lock",
        "_loop",
        "_sent_at",
        "_timer",
        "_unsent",
    )

    def __init__(
        self,
        commits: Commits,
        lease: Lease,
        is_running: Callable[[Number], bool],
        loop: asyncio.AbstractEventLoop,
        kept: Mapping[str, bytes] | None = None,
    ) -> None:
        """``is_running`` says whether an attempt with this number runs: else its data comes too late. ``kept`` is what
        earlier attempts have kept, by the numbers of their first attempts.
        """
        self._commits = commits
        self._lease = lease
        self._is_running = is_running
        self._kept: dict[str, bytes] = {} if kept is None else dict(kept)
        self._unsent: dict[str, Number] = {}
        """What is not sent yet: the first attempt of the step, and its running one."""
        self._loop = loop
        self._sent_at = -EVERY_S
        self._timer: asyncio.TimerHandle | None = None
        self._asked: asyncio.Future[list[Any]] | None = None
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

    def forget_unsent(self, numbers: Iterable[Number]) -> None:
        """These attempts are not wanted any more."""
        stopped = set(numbers)
        self._unsent = {first: number for first, number in self._unsent.items() if number not in stopped}

    def close(self) -> None:
        """The lease is given up: what an attempt has kept last is sent now."""
        if self._unsent and self._asked is None:
            self._send()
        self._stop()

    def _stop(self) -> None:
        self._unsent = {}
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _note(self, number: Number, first: str) -> None:
        if self._is_running(number):
            self._unsent[first] = number
            self._send_soon()

    def _send_soon(self) -> None:
        if self._timer is None and self._asked is None and self._unsent:
            self._timer = self._loop.call_at(self._sent_at + EVERY_S, self._send_due)

    def _send_due(self) -> None:
        self._timer = None
        self._send()

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, {}
        self._sent_at = self._loop.time()
        self._asked = self._commits.note(
            self._lease, [(number, first, self._kept[first]) for first, number in unsent.items()]
        )
        self._asked.add_done_callback(partial(self._end_send, unsent))

    def _end_send(self, sent: Mapping[str, Number], asked: asyncio.Future[list[Any]]) -> None:
        self._asked = None
        if asked.cancelled():
            return
        error = asked.exception()
        answers = [error] * len(sent) if error is not None else asked.result()
        for (first, number), answer in zip(sent.items(), answers, strict=True):
            if isinstance(answer, Exception) and not isinstance(answer, Fenced) and self._is_running(number):
                logger.warning("a checkpoint of %s was not kept, and is sent again: %s", self._lease.id, answer)
                self._unsent.setdefault(first, number)
        self._send_soon()
