"""Every limit, interval and retention, units last, each with its reason."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field, replace
from datetime import timedelta

from durasleep.model import INBOX_TTL_MS, PAYLOAD_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How durasleep behaves. The defaults suit a service with one Redis nearby."""

    # -- sizes
    payload_bytes_max: int = PAYLOAD_BYTES_MAX
    """The largest argument list, result or error."""
    journal_entries_max: int = 10_000
    """Entries of one execution; with more it is halted. A longer life uses continue_as_new. Half of it logs a
    warning."""
    journal_bytes_max: int = 16 << 20
    """Payload bytes of these entries, because every activation loads all of them. The same halt, and the same
    warning."""
    commit_ops_max: int = 256
    """How many things one commit may start. More are split over several commits, so that no script runs long."""
    batch_items_max: int = 48
    """Calls joined into one script call: one millisecond of Redis, and less than five on a shared machine. 32 calls
    would cost 3 % less for each call."""
    batch_bytes_max: int = 1 << 20
    """Bytes joined into one script call, for the same reason."""

    # -- times
    retention: timedelta = timedelta(days=7)
    """How long a finished family is kept, so that a repeated call finds its result. After that, the same id begins
    again. The time counts from the end. The settings of the client that started the execution apply."""
    command_timeout_s: float = 10.0
    """Without an answer for this long, the connection is dropped: silent resets cause most stuck queues."""
    read_block_s: float = 5.0
    """A blocking read returns empty after this long. A dead connection is noticed within 15 s: this time, and the time
    allowed for an answer."""
    read_own_max: int = 1000
    """Entries that are already ours, and are read again after a reconnect; more than any worker holds."""
    inbox_ttl_s: float = INBOX_TTL_MS / 1000
    """Has no effect, and goes with the next release: the scripts decide how long an inbox lives."""
    client_check_s: float = 30.0
    """How often a waiting client reads the state itself, because inbox entries are only hints."""

    # -- durability beyond that of the server, for the writes of this process: calls of a client, commits of a worker
    min_replicas: int = 0
    """This many replicas must confirm a write (WAIT); until then it is repeated."""
    fsync: bool = False
    """The server, and that many replicas, must have the write on disk (WAITAOF: Redis 7.2 or newer, append-only
    file)."""
    confirm_timeout_s: float = 1.0
    """How long one attempt waits for this."""

    # -- workers
    heartbeat_s: float = 1.0
    """Time between two heartbeats; a takeover takes about two of them."""
    dead_after_s: float = 3.0
    """A worker is dead if its heartbeat has not changed for this long, and for three times its own ``heartbeat_s``."""
    max_attempts: int = 5
    """How many workers in a row may die during one execution before it is halted as poison; more, if other executions
    were suspect, too."""
    suspect_wait_s: float = 10.0
    """An execution during which two workers in a row have died runs beside no other such execution, so that the one
    that kills workers can be found. It waits at most this long for the others: one of them may be a step of an hour."""
    stall_max_s: float = 600.0
    """If an event loop is blocked this long, its worker stops its heartbeat, and others get its work."""
    stall_warn_s: float = 5.0
    """An event loop that is blocked this long is reported with its stack, before probes end the worker; and again each
    minute."""
    grace_s: float = 30.0
    """How long running steps may finish after SIGTERM; systemd and Kubernetes wait 90 and 30 s."""
    threads_lost_s: float = 60.0
    """When functions that nobody waits for have held all threads this long, the worker leaves: it can run no other
    function in a thread."""
    fire_items_max: int = 80
    """Due timers that one script call settles; other clients are served between two calls."""
    accept_eviction: bool = False
    """Serve even if Redis may drop pending executions when its memory is full; see ``durasleep doctor``."""
    clock_ahead_max_s: float = 60.0
    """If the server's clock is further ahead of the workers' clocks than this, it is not accepted: nothing fires until
    it comes back, or until a person releases it."""
    rank_delay_ms: int = 50
    """Each rank waits this much longer than the rank before it, and then fires the timers that are still due."""
    rank_max: int = 20
    """Above this rank, all ranks wait for the same second."""
    defer_s_max: float = 60.0
    """A function that no living worker knows is offered again after 1, 2, 4, ... seconds, at most this many."""
    partition_workers_min: int = 16
    """Up to this many workers of a group serve all partitions of a namespace. More share them, so that each partition
    has about this many: the children of one workflow are all in its partition."""
    share_shrink_s: float = 30.0
    """When there are more workers, a worker serves fewer partitions only after this long: during a deployment workers
    come and go."""
    log_lines_max: int = 100
    """Log lines a second about executions that go well. More are only counted: writing them would cost as much as
    running the executions."""
    slow_drain_s: float = 1.0
    """If a workflow's own code blocks its worker for longer, it is named in the log."""
    trace_gap: timedelta = timedelta(hours=1)
    """If nothing of an execution has happened for longer, it goes on in a new trace, which is linked to the last one:
    backends drop spans that come much later than the others of their trace."""

    # -- workflows kept in memory between two wake-ups, see worker/execution/workflow_cache.py
    kept_entries_min: int = 32
    """A suspended workflow with this many journal entries is kept; to replay fewer takes less than a millisecond."""
    kept_max: int = 256
    """How many workflows are kept."""
    kept_bytes_max: int = 64 << 20
    """The memory that they take, as far as their journals show."""
    kept_s: float = 60.0
    """A longer sleep is worth a replay."""

    # -- finding mistakes
    debug: bool = field(default_factory=lambda: _is_asked("DURASLEEP_DEBUG"))
    """Replays every activation twice and compares. Every activation is watched for calls that differ from run to run,
    not only the first few of each function. It costs double."""
    always_suspend: bool = field(default_factory=lambda: _is_asked("DURASLEEP_ALWAYS_SUSPEND"))
    """Evicts a workflow at every await and replays it from its journal; for tests."""
    movable_clock: bool = False
    """The scripts use a clock that a test can move, see ``durasleep.testing``; all users of a namespace must agree."""

    def __post_init__(self) -> None:
        if self.inbox_ttl_s != INBOX_TTL_MS / 1000:
            warnings.warn("inbox_ttl_s has no effect; it goes with the next release", DeprecationWarning, 3)


def fitting(settings: Settings, payload_bytes_max: int) -> Settings:
    """Settings with which payloads of this size can be read, too: those of a codec of your own."""
    if payload_bytes_max <= settings.payload_bytes_max:
        return settings
    return replace(settings, payload_bytes_max=payload_bytes_max)


def _is_asked(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


DEFAULTS = Settings()
