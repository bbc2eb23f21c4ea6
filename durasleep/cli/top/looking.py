"""What ``durasleep top`` shows, read in one go."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durasleep.app import Durasleep
    from durasleep.query.describe import Description
    from durasleep.query.history import History
    from durasleep.query.overview import Overview
    from durasleep.query.search import SearchPage, Timers
    from durasleep.query.stats import Stats

LISTED_MAX = 20  # executions in one pane
CALLS_MAX = 200  # of one execution
SPAN = "1h"


@dataclass(frozen=True, slots=True)
class Seen:
    """A namespace at one moment."""

    overview: Overview
    stats: Stats
    dues: Timers
    halted: SearchPage
    failures: SearchPage
    read_at: float
    """When it was read, by our own monotonic clock, in seconds."""


@dataclass(frozen=True, slots=True)
class SeenExecution:
    """An execution at one moment; the history is missing if it is a promise or a timer on its own."""

    description: Description
    history: History | None


async def read(client: Durasleep) -> Seen:
    """Read everything that the screen shows; raises what its calls raise."""
    overview, stats, dues, halted, failures = await asyncio.gather(
        client.overview(),
        client.stats(SPAN),
        client.timers(LISTED_MAX),
        client.search(status="halted", limit=LISTED_MAX),
        client.last_failures(LISTED_MAX),
    )
    return Seen(overview, stats, dues, halted, failures, time.monotonic())


async def read_execution(client: Durasleep, id: str) -> SeenExecution:
    """Read what there is to know of one execution; raises NotFound if it is gone."""
    description = await client.describe(id)
    history = await client.history(id, limit=CALLS_MAX) if description.kind == "execution" else None
    return SeenExecution(description, history)
