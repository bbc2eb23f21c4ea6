"""The statuses a search asks for, and how much it answers. The help of the command line shows them: no imports."""

PENDING_STATUSES = ("halted", "running", "queued", "delayed", "suspended")
ENDED: dict[str, tuple[str, ...]] = {
    "done": ("resolved", "rejected", "timedout", "canceled"),
    "failed": ("rejected", "timedout"),
    "resolved": ("resolved",),
    "rejected": ("rejected",),
    "timedout": ("timedout",),
    "canceled": ("canceled",),
}
"""Of the statuses of what has ended: its states."""
STATUSES = (*PENDING_STATUSES, *ENDED)

FOUND_MAX = 10_000  # executions in one answer: more than anybody reads, few enough to steer in one go
TIMERS_MAX = 1_000
