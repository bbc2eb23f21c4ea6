"""Durations and instants as people type them: ``30s``, ``1h30m``, ``2d``, plain seconds; ``2026-12-24T18:00+01:00``."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from durasleep.errors import UsageError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")


def parse_duration(text: str) -> timedelta:
    """The duration a text means; UsageError if it means none."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    elif text and not _PART.sub("", text):
        seconds = sum(float(amount) * _UNITS[unit] for amount, unit in _PART.findall(text))
    else:
        raise UsageError(f"{text!r} is not a duration: write 30s, 5m, 1h30m, 2d or 500ms")
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        raise UsageError(f"{text!r} is longer than any calendar") from None


def parse_instant(text: str) -> datetime:
    """The instant a text means; UsageError if it means none, or has no zone."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a time: write 2026-12-24T18:00+01:00") from None
    if instant.utcoffset() is None:
        raise UsageError(f"{text!r} has no zone: write {text}Z for UTC, or {text}+01:00")
    return instant
