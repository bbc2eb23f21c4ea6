"""The words of ``durasleep fsck`` for kinds of findings, and for what it checks. Programs get the kinds."""

from __future__ import annotations

from collections.abc import Mapping

FINDINGS = {
    "aside": "quarantined",
    "checkpoint": "left checkpoint",
    "client": "waiting client is gone",
    "closing": "nothing to close",
    "corrupt": "broken data",
    "entry": "stray queue entry",
    "expiring": "expires too early",
    "gone": "waits for what is gone",
    "halted": "listed, but not halted",
    "index": "listed, but not waiting",
    "kept": "never expires",
    "leaked": "slot of nobody",
    "mail": "wrong mailbox",
    "miscounted": "wrong count",
    "misquoted": "wrong queue entry",
    "mistimed": "wrong timer",
    "newer": "of a newer version",
    "nowhere": "in no place",
    "orphan": "caller is gone",
    "run": "old run is left",
    "stale": "worker is gone",
    "stuck": "waits for nothing",
    "timer": "stray timer",
    "undelivered": "lost by its worker",
    "unfreed": "slot not freed",
    "unheld": "slot not counted",
    "unindexed": "waiting, but not listed",
    "unknown": "unknown key",
    "unnamed": "halted, but not listed",
    "unparked": "parked nowhere",
    "unqueued": "not queued",
    "unread": "waits beside its message",
    "untimed": "no timer",
    "untold": "misses a result",
    "unwoken": "not woken",
    "view": "stray published values",
    "waiter": "waiter does not wait",
    "waiters": "stray set of waiters",
}
"""The words for each kind of finding; docs/operate/troubleshooting.md explains them."""

CHECKED = {
    "promise": ("execution or promise", "executions and promises"),
    "timer": ("timer", "timers"),
    "entry": ("queue entry", "queue entries"),
    "schedule": ("schedule", "schedules"),
    "halted": ("halted or quarantined name", "halted or quarantined names"),
    "closing": ("family to close", "families to close"),
    "run": ("old run", "old runs"),
    "view": ("set of published values", "sets of published values"),
    "mail": ("mailbox", "mailboxes"),
    "waiters": ("set of waiters", "sets of waiters"),
    "member": ("listed worker", "listed workers"),
    "limit": ("limit", "limits"),
    "r:promise": ("promise of other languages", "promises of other languages"),
    "r:timer": ("timer of theirs", "timers of theirs"),
    "r:queue": ("message for them", "messages for them"),
    "r:settled": ("promise of theirs that will expire", "promises of theirs that will expire"),
    "r:schedule": ("schedule of theirs", "schedules of theirs"),
    "r:waiters": ("set of their waiters", "sets of their waiters"),
    "r:readers": ("set of tasks that may need one", "sets of tasks that may need one"),
    "r:branch": ("branch of theirs", "branches of theirs"),
    "expiring": ("key that expires", "keys that expire"),
    "key": ("other key", "other keys"),
}
"""What is checked: one, and several, in the order in which they are shown."""


def counted(checked: Mapping[str, int]) -> str:
    """How many of each kind of thing were checked: ``3 executions and promises, 1 timer``."""
    shown = ((checked.get(kind, 0), *names) for kind, names in CHECKED.items())
    return ", ".join(f"{count:,} {one if count == 1 else many}" for count, one, many in shown if count)
