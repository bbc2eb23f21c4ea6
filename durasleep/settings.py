"""Every limit, interval and retention, units last, each with its reason."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from datetime import timedelta

from durasleep.model import PAYLOAD_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How durasleep behaves; the defaults suit a service with one Redis nearby."""

    # -- sizes
    payload_bytes_max: int = PAYLOAD_BYTES_MAX
    """One argument list, result or error."""
    journal_entries_max: int = 10_000
    """Entries of one execution before it is halted; a longer life uses continue_as_new. Half of it is warned of."""
    journal_bytes_max: int = 16 << 20
    """What these entries carry, for every activation loads it all; likewise halted, and warned of at half."""
    commit_ops_max: int = 256
    """Things one commit may start; more are split over several, so that no script runs long."""
    batch_items_max: int = 48
    """Calls joined into one script call: a millisecond of Redis, and below five where the machine is shared. 32 cost it
    3 % less for each."""
    batch_bytes_max: int = 1 << 20
    """Bytes joined into one script call, for the same reason."""

    # -- times
    retention: timedelta = timedelta(days=7)
    """How long a finished family is kept, so that a repeated call finds its result; after it, the same id begins anew.
    It counts from the end, by the settings of the client that started it."""
    command_timeout_s: float = 10.0
    """No answer after this long and the connection is dropped: silent resets end most stuck queues."""
    read_block_s: float = 5.0
    """A blocking read returns empty after this long, so that a dead connection is noticed within 15 s: this, and the
    time allowed for an answer."""
    read_own_max: int = 1000
    """Entries already ours that are read again after a reconnect; more than any worker holds."""
    inbox_ttl_s: float = 90.0
    """An inbox lives this long after its reader last showed itself."""
    client_check_s: float = 30.0
    """How often a waiting client reads the state itself; inbox entries are hints."""

    # -- durability beyond the server's own; for what this process writes: a client's calls, a worker's commits
    min_replicas: int = 0
    """So many replicas must have received a write before it counts (WAIT); until then it is repeated."""
    fsync: bool = False
    """And the server, and that many replicas, must have it on disk (WAITAOF: Redis 7.2 or newer, append-only file)."""
    confirm_timeout_s: float = 1.0
    """How long one attempt waits for that."""

    # -- workers
    heartbeat_s: float = 1.0
    """Between two beats; takeover takes about two of them."""
    dead_after_s: float = 3.0
    """A worker whose beat has not changed for this long, and for three times its own ``heartbeat_s``, is dead."""
    max_attempts: int = 5
    """Workers in a row one execution may take down before it is halted as poison; more, if others were suspect too."""
    suspect_wait_s: float = 10.0
    """An execution that two workers in a row have died of runs beside no other such one, so that a killer is told from
    its neighbours. It waits for that so long at most: what is in their way may well be a step of an hour."""
    stall_max_s: float = 600.0
    """An event loop blocked this long stops beating: its work is given to others."""
    stall_warn_s: float = 60.0
    """A blocked event loop is reported with its stack this often."""
    grace_s: float = 30.0
    """How long running steps may finish after SIGTERM; systemd and Kubernetes wait 90 and 30 s."""
    threads_lost_s: float = 60.0
    """Once functions nobody waits for any more have held all threads this long, the worker leaves: it can run no other
    in one."""
    fire_items_max: int = 80
    """Due timers settled by one script call, so that other clients are served in between."""
    accept_eviction: bool = False
    """Serve even where Redis may drop what is pending when its memory is full; see ``durasleep doctor``."""
    clock_ahead_max_s: float = 60.0
    """A server's clock that runs ahead of its workers' by more is not believed: nothing fires until it comes back, or a
    person has released it."""
    rank_delay_ms: int = 50
    """Each rank waits this much longer before it fires what a better one has not."""
    rank_max: int = 20
    """Beyond it, ranks wait the same second."""
    defer_s_max: float = 60.0
    """A function that no living worker knows is offered again after 1, 2, 4, ... seconds, at most this many."""
    log_lines_max: int = 100
    """Lines a second about executions that go well; beyond it they are counted, for writing them would cost as much
    as running them."""
    slow_drain_s: float = 1.0
    """A workflow's own code that holds up its worker for longer is named in the log."""

    # -- workflows kept in memory between two wake-ups, see worker/kept.py
    kept_entries_min: int = 32
    """Journal entries from which on a suspended workflow is kept; to replay fewer takes less than a millisecond."""
    kept_max: int = 256
    """So many of them."""
    kept_bytes_max: int = 64 << 20
    """And what they take, as far as their journals tell."""
    kept_s: float = 60.0
    """Longer sleeps are worth a replay."""

    # -- finding mistakes
    debug: bool = field(default_factory=lambda: _is_asked("DURASLEEP_DEBUG"))
    """Replays every activation twice and compares; watches all of them for calls that differ from run to run, not
    only the first few of each function. It costs double."""
    always_suspend: bool = field(default_factory=lambda: _is_asked("DURASLEEP_ALWAYS_SUSPEND"))
    """Puts a workflow away at every await and replays it from its journal: for tests."""
    movable_clock: bool = False
    """The scripts go by a clock that can be moved, see ``durasleep.testing``; all who share a namespace must agree."""


def fitting(settings: Settings, payload_bytes_max: int) -> Settings:
    """Settings under which payloads of this size are read, too: those of a codec of one's own."""
    if payload_bytes_max <= settings.payload_bytes_max:
        return settings
    return replace(settings, payload_bytes_max=payload_bytes_max)


def _is_asked(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


DEFAULTS = Settings()
