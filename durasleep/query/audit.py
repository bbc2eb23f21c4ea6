"""What people have done by hand, over all partitions."""

from __future__ import annotations

from datetime import datetime
from operator import attrgetter

from durasleep.errors import UsageError
from durasleep.model import Duration, duration_ms
from durasleep.protocol import audit, server
from durasleep.protocol.audit import AuditEntry
from durasleep.protocol.command import Plan, unwrap
from durasleep.protocol.keys import LIMIT
from durasleep.protocol.keyspaces import Keyspaces

__all__ = ["AuditEntry", "latest"]


def latest(keyspaces: Keyspaces, *, limit: int, since: Duration | datetime | None) -> Plan[list[AuditEntry]]:
    """The last entries of all partitions, the latest first, none older than ``since``."""
    if not 1 <= limit <= LIMIT["audit_max"]:
        raise UsageError(f"limit {limit}: 1 to {LIMIT['audit_max']} entries of the audit can be shown")
    since_ms = yield from _instant(keyspaces, since)
    pages = yield [audit.read_latest(keys, since_ms=since_ms, count=limit) for keys in keyspaces]
    found = [one for page in pages for one in unwrap(page)]
    return sorted(found, key=attrgetter("at_ms"), reverse=True)[:limit]


def _instant(keyspaces: Keyspaces, since: Duration | datetime | None) -> Plan[int]:
    if since is None:
        return 0
    if isinstance(since, datetime):
        if since.utcoffset() is None:
            raise UsageError(f"since {since.isoformat()}: the datetime has no time zone")
        return max(0, round(since.timestamp() * 1000))
    for keys in keyspaces:
        return max(0, (yield from server.now_ms(keys)) - duration_ms(since))
    return 0
