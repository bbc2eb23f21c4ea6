"""What running steps and tasks publish: the latest of each is sent at most once a second for each execution."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from durasleep.codec import Codec
from durasleep.codec.published import StepProgress, copy_values, encode_attempt
from durasleep.model import Number, Publish
from durasleep.protocol.commit import Lease
from durasleep.worker.execution.checkpoints import Keeping
from durasleep.worker.execution.commits import Commits
from durasleep.worker.execution.sending import Sender
from durasleep.worker.execution.threads import post

logger = logging.getLogger("durasleep")


class Publishing(Keeping, Protocol):
    """A workflow or task whose attempts may publish something."""

    def publisher(self, loop: asyncio.AbstractEventLoop) -> Publisher:
        """What they publish, made now if it is nothing yet; may be called from any thread."""
        ...


class _Said(msgspec.Struct, eq=False):
    """What one attempt has published."""

    number: Number
    values: dict[str, Any]
    progress: StepProgress | None
    payload: bytes
    sent: bytes = b""
    """The payload that the server has."""


class Publisher(Sender):
    """What the attempts of one held execution publish. Code of users calls ``publish``, from any thread; everything
    else is called on the worker's loop.
    """

    __slots__ = ("_asked_with", "_lock", "_said")

    WHAT = "a published value"

    def __init__(
        self,
        commits: Commits,
        lease: Lease,
        is_running: Callable[[Number], bool],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(commits, lease, is_running, loop)
        self._said: dict[str, _Said] = {}
        """By the number of the first attempt of a step, empty for a task."""
        self._asked_with: dict[str, bytes] = {}
        """The payloads that are on their way."""
        self._lock = threading.Lock()

    def publish(
        self,
        number: Number,
        first: str,
        values: Mapping[str, object],
        progress: StepProgress | None,
        whose: str,
        codec: Codec,
    ) -> None:
        """Change what a running attempt publishes, and send it soon. A new attempt begins with nothing."""
        with self._lock:
            said = self._said.get(first)
            if said is None or said.number != number:
                said = _Said(number, {}, None, b"")
            all_values = {**said.values, **copy_values(values, whose)}
            progress = progress or said.progress
            payload = encode_attempt(codec, all_values, progress, whose)
            if not self._is_running(number):
                return
            self._said[first] = _Said(number, all_values, progress, payload, said.sent)
        post(self._loop, self._note, number, first)

    def end(self, first: str) -> tuple[Publish, ...]:
        """What the commit of the end of an attempt has to say: what is not known to be sent."""
        self._unsent.pop(first, None)
        with self._lock:
            said = self._said.pop(first, None)
        if said is None or said.payload == said.sent:
            return ()
        return (Publish(said.payload, first),)

    def forget(self, numbers: set[Number]) -> None:
        """These attempts are not wanted any more."""
        self.forget_unsent(numbers)
        with self._lock:
            self._said = {first: said for first, said in self._said.items() if said.number not in numbers}

    def _may_send(self) -> bool:
        return self._commits.may_publish()

    def _ask(self, unsent: Mapping[str, Number]) -> asyncio.Future[list[Any]]:
        self._asked_with = {first: self._said[first].payload for first in unsent if first in self._said}
        return self._commits.publish(
            self._lease, [(unsent[first], first, payload) for first, payload in self._asked_with.items()]
        )

    def _on_sent(self, first: str) -> None:
        if (said := self._said.get(first)) is not None:
            said.sent = self._asked_with[first]
