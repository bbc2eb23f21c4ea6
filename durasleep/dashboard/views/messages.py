"""Mailboxes with unread messages, and what executions publish."""

from __future__ import annotations

from typing import Any

from durasleep.dashboard.views.look import Look
from durasleep.query import mailboxes, publishers

_SHOWN_MAX = 50


async def load_mailboxes(look: Look) -> dict[str, Any]:
    """The fullest mailboxes."""
    found = await look.store.run(mailboxes.fullest(look.keyspaces, _SHOWN_MAX))
    return {"title": "Mailboxes", "boxes": found}


async def load_published(look: Look) -> dict[str, Any]:
    """What executions have published last."""
    found = await look.store.run(publishers.latest(look.keyspaces, _SHOWN_MAX, look.client.codec))
    return {"title": "Published values", "publishers": found}
