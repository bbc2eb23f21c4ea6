"""When a cron line is due next: cronsim reads it the way Debian's cron does."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from durasleep.errors import UsageError


def next_due_ms(line: str, zone: str, after: datetime) -> int:
    """The first instant after ``after`` that the line names in its zone, in ms; UsageError for a wrong line or zone.

    When clocks change, it does the same as Debian's cron. A job whose fixed time is skipped runs right after the
    change. A job whose time comes twice runs once.
    """
    try:
        local = after.astimezone(ZoneInfo(zone))
        return round(next(CronSim(line, local)).timestamp() * 1000)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise UsageError(f"{zone!r} is not a time zone: {error}") from None
    except CronSimError as error:
        raise UsageError(f"{line!r} is not a cron line: {error}") from None
    except StopIteration:
        raise UsageError(f"{line!r} is never due") from None
