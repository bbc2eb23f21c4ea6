"""The list of executions, by filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from durasleep.client import requests
from durasleep.dashboard.views.look import ROWS_MAX, Look
from durasleep.errors import UsageError
from durasleep.query.search import Search, SearchPage, add_errors
from durasleep.query.statuses import STATUSES

PAGE = 50
PAGES_MAX = ROWS_MAX // PAGE
_READ = 200  # executions read together
FILTERS = ("status", "group", "func", "label", "since", "id")


async def load(look: Look) -> dict[str, Any]:
    """One page of the executions that match; a filter that cannot be read is explained beside them."""
    filters = {name: look.query.get(name, "") for name in FILTERS}
    page, problem, found, rows = 1, "", SearchPage(), SearchPage()
    try:
        page = look.number("page", 1, PAGES_MAX)
        found = await _find(look, filters, page * PAGE)
        rows += found[(page - 1) * PAGE :]
        await look.store.run(add_errors(look.keyspaces, rows, look.client.codec))
    except UsageError as error:
        problem = str(error)
    return {
        "title": "Executions",
        "filters": filters,
        "statuses": STATUSES,
        "problem": problem,
        "rows": rows,
        "notes": found.notes,
        "looked_at": found.looked_at,
        "is_all": found.is_all,
        "has_next": not found.is_all and len(found) == page * PAGE and page < PAGES_MAX,
        "is_end": page == PAGES_MAX and not found.is_all,
        "page": page,
        "rows_max": ROWS_MAX,
    }


async def _find(look: Look, filters: Mapping[str, str], limit: int) -> SearchPage:
    status = filters["status"] or None
    search = Search(
        status=STATUSES if filters["id"] and status is None else status,
        group=filters["group"] or None,
        function=filters["func"] or None,
        labels=parse_labels(filters["label"]),
        since_ms=requests.since_ms(filters["since"] or None),
        prefix=filters["id"],
        looked_max=ROWS_MAX,
        page=_READ,
        known=await look.known(),
    )
    return await look.store.run(search.part(look.keyspaces, limit))


def parse_labels(text: str) -> dict[str, str]:
    """Labels from ``name=value name=value``; a value with spaces stands alone. UsageError for anything else."""
    if not text:
        return {}
    parts = text.split() if all("=" in part for part in text.split()) else [text]
    labels: dict[str, str] = {}
    for part in parts:
        name, mark, value = part.partition("=")
        if not (name and mark):
            raise UsageError(f"label {text!r}: write name=value, such as customer=7")
        labels[name.strip()] = value
    return labels
