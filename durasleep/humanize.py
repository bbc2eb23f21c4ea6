"""Times and durations for people, in logs and on screens; and loggers that stay enabled."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from durasleep.model import DUE_MS_MAX

_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def be_heard() -> None:
    """Enable our loggers again: by default, ``dictConfig`` and ``fileConfig`` disable loggers that exist already.

    An application that sets up its handlers after it has imported us wants our lines, too. It can still set levels.
    """
    for name in tuple(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "durasleep":
            logging.getLogger(name).disabled = False


def local(ms: int) -> datetime:
    """An instant in the local zone; beyond the calendar, its nearest end in UTC."""
    instant = _EPOCH + timedelta(milliseconds=min(max(ms, 0), DUE_MS_MAX))
    try:
        return instant.astimezone()
    except (OverflowError, ValueError):  # the last hours of year 9999 are in year 10000 east of Greenwich
        return instant


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


def describe_bytes(size: int) -> str:
    """A size for people: ``512 bytes``, ``1.5 KiB``, ``2.0 MiB``."""
    if size < 1024:
        return f"{size} byte{'' if size == 1 else 's'}"
    return f"{size / 1024:.1f} KiB" if size < 1 << 20 else f"{size / (1 << 20):.1f} MiB"


def describe_until(due_ms: int, now_ms: int) -> str:
    """When something is due, in the local zone, and in how long: ``until 12:00:05.000 (5 s)``."""
    due = local(due_ms)
    is_today = due.date() == local(now_ms).date()
    text = f"{due:%H:%M:%S}.{due_ms % 1000:03}" if is_today else due.replace(tzinfo=None).isoformat(" ", "milliseconds")
    left_ms = due_ms - now_ms
    if left_ms < 0:
        return f"until {text} ({describe_ms(-left_ms)} ago)"
    return f"until {text} ({describe_ms(round(left_ms, -1) if left_ms >= 1_000 else left_ms)})"
