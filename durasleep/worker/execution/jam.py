"""Logs when all slots of a worker are held by calls that wait for others, which may need a slot."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from durasleep.protocol.commit import Lease
from durasleep.runtime.waits import Wait

JAMMED_S = 3.0  # a shorter wait is normal: the awaited calls run on other workers, and end
SAID_S = 60.0  # between two lines
SHOWN_MAX = 5  # of the waiting calls

logger = logging.getLogger("durasleep")


class Jam:
    """Checks at each heartbeat whether calls that wait for results hold all slots of the worker."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._said_at = float("-inf")

    def look(self, held: Sequence[Lease], waits: Sequence[Wait]) -> None:
        """``held`` are the leases that have the slots if none is free; ``waits`` says which of them wait for what."""
        if not (held and waits and _all_wait(held, waits)):
            self._since = None
            return
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since < JAMMED_S or now - self._said_at < SAID_S:
            return
        self._said_at = now
        shown = ", ".join(f"{one.caller} for {one.awaited}" for one in waits[:SHOWN_MAX])
        more = f", and {len(waits) - SHOWN_MAX} more" if len(waits) > SHOWN_MAX else ""
        logger.warning(
            "all %d slots of this worker are held by tasks and steps that wait for results: %s%s. The calls they wait "
            "for may find no free slot: await them in a workflow, which holds no slot while it waits, serve them in "
            "another group, or raise --concurrency",
            len(held),
            shown,
            more,
        )


def _all_wait(held: Sequence[Lease], waits: Sequence[Wait]) -> bool:
    """Whether each held execution waits itself, or has a step that waits."""
    callers = {one.caller for one in waits}
    owners = {caller.rpartition("~")[0] for caller in callers}
    return all(lease.id in callers or lease.id in owners for lease in held)
