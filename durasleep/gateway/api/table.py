"""All routes."""

from __future__ import annotations

from durasleep.gateway.api import execution_routes, promises, sending, tasks
from durasleep.gateway.api.routes import Table

_PARTS = (execution_routes, sending, promises, tasks)

TABLE = Table(
    [route for part in _PARTS for route in part.ROUTES],
    {name: schema for part in _PARTS for name, schema in part.SCHEMAS.items()},
)
