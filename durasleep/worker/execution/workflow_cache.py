"""Suspended workflows that stay in memory for a while, so that a long journal is not replayed at every wake-up.

It only saves time: a workflow may be dropped at any time, and is used only if nobody else has run the execution since.
A sleeper with a short journal is not kept: a replay costs less than the memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from durasleep.model import PromiseId
from durasleep.runtime.activation import Activation
from durasleep.settings import Settings
from durasleep.worker.execution.execution_log import ExecutionLog

ENTRY_BYTES = 500  # of one journal entry in memory, without its payload


@dataclass(frozen=True, slots=True)
class CachedWorkflow:
    """A workflow in the state in which it was suspended."""

    activation: Activation
    log: ExecutionLog
    epoch: int
    """The epoch at its suspension. The next epoch is one more, unless another worker has had it since."""
    incarnation: int
    size_bytes: int
    until: float
    checkpoints: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    """What its steps have kept for their next attempts."""


class WorkflowCache:
    """The latest workflows, bounded in number, bytes and time; ``close`` evicts one."""

    def __init__(self, settings: Settings, close: Callable[[Activation], None]) -> None:
        self._settings = settings
        self._close = close
        self._kept: dict[PromiseId, CachedWorkflow] = {}  # the oldest first
        self._bytes = 0

    def put(
        self,
        id: PromiseId,
        activation: Activation,
        log: ExecutionLog,
        *,
        epoch: int,
        incarnation: int,
        checkpoints: Mapping[str, bytes] = MappingProxyType({}),
    ) -> bool:
        """Keep a workflow that was just suspended; false if that does not pay."""
        settings, size = self._settings, activation.size
        if settings.always_suspend or size < settings.kept_entries_min:
            return False
        size_bytes = activation.payload_bytes + ENTRY_BYTES * size
        if size_bytes > settings.kept_bytes_max:
            return False
        if id in self._kept:  # it was woken before its commit was answered, and begun again
            self.drop(id)
        now = time.monotonic()
        until = now + settings.kept_s
        self._kept[id] = CachedWorkflow(activation, log, epoch, incarnation, size_bytes, until, checkpoints)
        self._bytes += size_bytes
        while len(self._kept) > settings.kept_max or self._bytes > settings.kept_bytes_max:
            self.drop(next(iter(self._kept)))
        return True

    def __contains__(self, id: PromiseId) -> bool:
        return id in self._kept

    def take(self, id: PromiseId, epoch: int) -> CachedWorkflow | None:
        """The workflow that was suspended in the epoch before ``epoch``, if it is kept."""
        kept = self._kept.pop(id, None)
        if kept is None:
            return None
        self._bytes -= kept.size_bytes
        if kept.epoch + 1 != epoch:
            self._close(kept.activation)
            return None
        return kept

    def drop(self, id: PromiseId) -> None:
        """Evict one."""
        kept = self._kept.pop(id)
        self._bytes -= kept.size_bytes
        self._close(kept.activation)

    def drop_old(self, now: float) -> None:
        """Evict those that have been kept long enough."""
        while self._kept:
            id, kept = next(iter(self._kept.items()))
            if kept.until > now:
                return
            self.drop(id)

    def drop_where(self, is_left: Callable[[PromiseId], bool]) -> None:
        """Evict those with such an id."""
        for id in tuple(self._kept):
            if is_left(id):
                self.drop(id)

    def drop_all(self) -> None:
        """Evict all of them."""
        for id in tuple(self._kept):
            self.drop(id)
