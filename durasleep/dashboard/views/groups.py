"""Groups with their workers, limits, partitions, the audit, and what the doctor finds."""

from __future__ import annotations

from typing import Any

from durasleep.dashboard.views.look import Look
from durasleep.query import limits

_AUDIT = 100
_AUDIT_PAGES_MAX = 20


async def load_groups(look: Look) -> dict[str, Any]:
    """Who serves each group, and what waits there."""
    return {"title": "Groups and workers", "overview": await look.overview()}


async def load_limits(look: Look) -> dict[str, Any]:
    """What each limit allows, and what waits at its gate."""
    return {"title": "Limits", "limits": await look.store.run(limits.list_limits(look.keyspaces))}


async def load_partitions(look: Look) -> dict[str, Any]:
    """What each partition has."""
    overview = await look.overview()
    return {"title": "Partitions", "partitions": overview.partitions}


async def load_audit(look: Look) -> dict[str, Any]:
    """What people have done, the latest first."""
    page = look.number("page", 1, _AUDIT_PAGES_MAX)
    entries = await look.client.audit(limit=min(page * _AUDIT + 1, 10_000))
    return {
        "title": "Audit",
        "entries": entries[(page - 1) * _AUDIT : page * _AUDIT],
        "has_next": len(entries) > page * _AUDIT and page < _AUDIT_PAGES_MAX,
        "page": page,
    }


async def load_doctor(look: Look) -> dict[str, Any]:
    """What `durasleep doctor` finds; it asks more of Redis than other pages, so it is not kept current."""
    return {"title": "Doctor", "findings": await look.client.diagnose()}
