"""What logs and screens say of time."""

from __future__ import annotations

from datetime import datetime

_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))


def describe_ms(ms: int) -> str:
    """A duration for people, in its two largest units: ``250 ms``, ``5 s``, ``1 min 30 s``, ``30 d``."""
    if ms < 1_000:
        return f"{ms} ms"
    if ms < 10_000 and ms % 1_000:
        return f"{ms / 1_000:.1f} s"
    parts: list[str] = []
    for size, unit in _UNITS:
        amount, ms = divmod(ms, size)
        if amount:
            parts.append(f"{amount} {unit}")
        elif parts:
            break
    return " ".join(parts[:2])


def describe_until(due_ms: int, now_ms: int) -> str:
    """When something is due, in the local zone, and in how long: ``until 12:00:05.000 (5 s)``."""
    due = datetime.fromtimestamp(due_ms / 1000).astimezone()
    today = datetime.fromtimestamp(now_ms / 1000).astimezone().date()
    text = (
        due.isoformat(" ", "milliseconds").partition("+")[0]
        if due.date() != today
        else f"{due:%H:%M:%S}.{due_ms % 1000:03}"
    )
    left_ms = due_ms - now_ms
    if left_ms < 0:
        return f"until {text} ({describe_ms(-left_ms)} ago)"
    return f"until {text} ({describe_ms(round(left_ms, -1) if left_ms >= 1_000 else left_ms)})"
