"""Durations and instants as people type them: ``30s``, ``1h30m``, ``2d``, plain seconds; ``2026-12-24T18:00+01:00``."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from durasleep.errors import UsageError


def parse_duration(text: str) -> timedelta:
    """The duration that a text means, in seconds if it names no unit; UsageError for any other text."""
    from durasleep import model

    return model.parse_duration(f"{text}s" if re.fullmatch(r"\d+(\.\d+)?", text) else text)


def parse_since(text: str) -> timedelta | datetime:
    """The beginning of a time until now: a duration or an instant; UsageError for any other text."""
    return parse_instant(text) if re.match(r"\d{4}-", text) else parse_duration(text)


def parse_instant(text: str) -> datetime:
    """The instant that a text means; UsageError for any other text, or one without a time zone."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a time: write 2026-12-24T18:00+01:00") from None
    if instant.utcoffset() is None:
        raise UsageError(f"{text!r} has no zone: write {text}Z for UTC, or {text}+01:00")
    return instant
