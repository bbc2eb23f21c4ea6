"""The templates, and how times, numbers and ids are written in them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from durasleep import humanize
from durasleep.dashboard.paths import quote_id
from durasleep.model import DUE_MS_MAX
from durasleep.printable import visible

HERE = Path(__file__).parent
LINE_MAX = 200  # characters of an error in a list
VALUE_MAX = 4_000  # characters of a value
NONE = "-"
"""Where there is nothing to show."""


def environment() -> Environment:
    """The templates; every text in them is escaped."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "id": quote_id,
        "query": query,
        "number": number,
        "duration": humanize.describe_ms,
        "ago": ago,
        "due": due,
        "instant": instant,
        "status": status,
        "coarse": coarse,
        "age": age,
        "visible": visible,
        "clock": clock,
        "bytes": humanize.describe_bytes,
        "value": as_text,
        "first_line": first_line,
    }
    made.filters.update(filters)
    return made


def query(values: dict[str, Any]) -> str:
    """The query of a URL, without what is empty."""
    return urlencode({name: value for name, value in values.items() if value}, doseq=True)


def number(value: float | None) -> str:
    """A count for people."""
    return NONE if value is None else f"{value:,}"


def iso(ms: int) -> str:
    """An instant as a machine reads it, in UTC."""
    return datetime.fromtimestamp(min(max(ms, 0), DUE_MS_MAX) / 1000, UTC).isoformat(timespec="milliseconds")


def _time(ms: int, text: str) -> Markup:
    return Markup('<time datetime="{0}" title="{0}">{1}</time>').format(iso(ms), text)


def ago(ms: int | None, now_ms: int) -> Markup | str:
    """How long ago an instant was: ``5 min ago``."""
    if ms is None:
        return NONE
    return _time(ms, f"{age(now_ms - ms)} ago")


def due(ms: int | None, now_ms: int) -> Markup | str:
    """In how long an instant is, or how late it is: ``in 29 d 23 h``."""
    if ms is None:
        return NONE
    left_ms = ms - now_ms
    return _time(ms, f"in {coarse(left_ms)}" if left_ms >= 0 else f"{coarse(-left_ms)} late")


def instant(ms: int | None) -> Markup | str:
    """An instant in the zone of the server: ``2026-12-24 18:00:00``."""
    return NONE if ms is None else _time(ms, f"{humanize.local(ms):%Y-%m-%d %H:%M:%S}")


def clock(ms: int, now_ms: int, *, has_days: bool = False) -> Markup:
    """An instant of a span: ``18:00``, with its day if that is another one; or only the day."""
    at, today = humanize.local(ms), humanize.local(now_ms).date()
    text = f"{at:%a %d %b}" if has_days else f"{at:%H:%M}" if at.date() == today else f"{at:%a %H:%M}"
    return _time(ms, text)


def first_line(text: str | None) -> str:
    """The beginning of an error or reason, for a list."""
    line = (text or "").partition("\n")[0]
    return line if len(line) <= LINE_MAX else f"{line[:LINE_MAX]}..."


def as_text(value: object) -> str:
    """A value for people: JSON where that is possible, cut where it is long."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2, default=repr)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= VALUE_MAX else f"{text[:VALUE_MAX]}... ({len(text):,} characters)"


def age(ms: int) -> str:
    """How long something has lasted, from a minute on without seconds: what is old need not be sent each second."""
    ms = max(0, ms)
    return coarse(ms // 60_000 * 60_000 if ms >= 60_000 else ms)


def coarse(ms: int) -> str:
    """A duration to the second, so that what is shown seldom changes faster than that."""
    return "0 s" if ms < 1_000 else humanize.describe_ms(ms // 1_000 * 1_000)


def status(one: Any) -> str:
    """The word for where an execution is, or how it has ended."""
    return one.state if one.status == "done" else one.status
