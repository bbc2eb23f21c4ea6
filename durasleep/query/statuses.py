"""The statuses a search accepts, and how much it answers. The help of the command line shows them: no imports."""

PENDING_STATUSES = ("halted", "running", "queued", "parked", "delayed", "suspended")
ENDED: dict[str, tuple[str, ...]] = {
    "done": ("resolved", "rejected", "timedout", "canceled"),
    "failed": ("rejected", "timedout"),
    "resolved": ("resolved",),
    "rejected": ("rejected",),
    "timedout": ("timedout",),
    "canceled": ("canceled",),
}
"""The statuses of executions that have ended, with their states."""
STATUSES = (*PENDING_STATUSES, *ENDED)

FOUND_MAX = 10_000  # executions in one answer: more than anybody reads, few enough to control in one go
TIMERS_MAX = 1_000
