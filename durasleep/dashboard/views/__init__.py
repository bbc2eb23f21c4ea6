"""What each page shows: one module for pages that belong together."""

from __future__ import annotations

from durasleep.dashboard.views import calendar, executions, groups, messages, one_execution, overview, schedules
from durasleep.dashboard.views.look import Look, View

__all__ = ["SECTIONS", "VIEWS", "Look", "View"]

VIEWS = (
    View("/", "overview", "overview", overview.load),
    View("/executions", "executions", "executions", executions.load),
    View("/executions/{id:id}", "executions", "execution", one_execution.load),
    View("/calendar", "calendar", "calendar", calendar.load),
    View("/groups", "groups", "groups", groups.load_groups),
    View("/limits", "limits", "limits", groups.load_limits),
    View("/schedules", "schedules", "schedules", schedules.load),
    View("/schedules/{id:id}", "schedules", "schedule", schedules.load_one),
    View("/mailboxes", "mailboxes", "mailboxes", messages.load_mailboxes),
    View("/published", "published", "published", messages.load_published),
    View("/audit", "audit", "audit", groups.load_audit),
    View("/partitions", "partitions", "partitions", groups.load_partitions),
    View("/doctor", "doctor", "doctor", groups.load_doctor, is_live=False),
)

SECTIONS = tuple((view.section, view.path) for view in VIEWS if "{" not in view.path)
"""The links at the top of each page: their names and paths."""
