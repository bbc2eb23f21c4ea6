"""Schedules, each with its next times."""

from __future__ import annotations

from typing import Any

from durasleep.dashboard.views.look import Look
from durasleep.query import schedules

_SHOWN_MAX = 200


async def load(look: Look) -> dict[str, Any]:
    """The schedules by name."""
    resting = list(look.keyspaces)
    found = await look.store.run(schedules.list_schedules(resting, _SHOWN_MAX, next_count=schedules.NEXT_MAX))
    return {"title": "Schedules", "schedules": found, "shown_max": _SHOWN_MAX}


async def load_one(look: Look) -> dict[str, Any]:
    """One schedule."""
    found = await look.client.schedules.get(look.path["id"])
    return {"title": found.name, "one": found}
