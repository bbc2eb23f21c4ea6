"""What running attempts send beside the commits of their execution: the latest of each step, at most once a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from durasleep.errors import Fenced
from durasleep.model import Number
from durasleep.protocol.commit import Lease
from durasleep.worker.execution.commits import Commits

logger = logging.getLogger("durasleep")

EVERY_S = 1.0  # between two writes of one execution


class Sender:
    """Sends for one held execution. All methods are called on the worker's loop."""

    __slots__ = ("_asked", "_commits", "_is_running", "_lease", "_loop", "_sent_at", "_timer", "_unsent")

    WHAT = ""
    """What it sends, for people."""

    def __init__(
        self,
        commits: Commits,
        lease: Lease,
        is_running: Callable[[Number], bool],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """``is_running`` says whether an attempt with this number runs: else its data comes too late."""
        self._commits = commits
        self._lease = lease
        self._is_running = is_running
        self._unsent: dict[str, Number] = {}
        """What is not sent yet: the first attempt of the step, and its running one."""
        self._loop = loop
        self._sent_at = -EVERY_S
        self._timer: asyncio.TimerHandle | None = None
        self._asked: asyncio.Future[list[Any]] | None = None

    def forget_unsent(self, numbers: Iterable[Number]) -> None:
        """These attempts are not wanted any more."""
        stopped = set(numbers)
        self._unsent = {first: number for first, number in self._unsent.items() if number not in stopped}

    def close(self) -> None:
        """The lease is given up: what an attempt has said last is sent now."""
        if self._unsent and self._asked is None and self._may_send():
            self._send()
        self._stop()

    def _ask(self, unsent: Mapping[str, Number]) -> asyncio.Future[list[Any]]:
        """Send the latest of these."""
        raise NotImplementedError

    def _may_send(self) -> bool:
        return True

    def _on_sent(self, first: str) -> None:
        """The server has it now."""

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
        if self._may_send():
            self._send()
        else:
            self._sent_at = self._loop.time()
            self._send_soon()

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, {}
        self._sent_at = self._loop.time()
        self._asked = self._ask(unsent)
        self._asked.add_done_callback(partial(self._end_send, unsent))

    def _end_send(self, sent: Mapping[str, Number], asked: asyncio.Future[list[Any]]) -> None:
        self._asked = None
        if asked.cancelled():
            return
        error = asked.exception()
        answers = [error] * len(sent) if error is not None else asked.result()
        for (first, number), answer in zip(sent.items(), answers, strict=True):
            if not isinstance(answer, Exception):
                self._on_sent(first)
            elif not isinstance(answer, Fenced) and self._is_running(number):
                logger.warning("%s of %s was not kept, and is sent again: %s", self.WHAT, self._lease.id, answer)
                self._unsent.setdefault(first, number)
        self._send_soon()
