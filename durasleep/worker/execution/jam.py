"""Says when a worker has no place left because everything in it waits for others, which may need that place."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from durasleep.protocol.commit import Lease
from durasleep.runtime.waits import Wait

JAMMED_S = 3.0  # shorter is no jam: what is waited for runs elsewhere, and ends
SAID_S = 60.0  # from one line to the next
SHOWN_MAX = 5  # of those that wait

logger = logging.getLogger("durasleep")


class Jam:
    """Looks at each beat whether all places of the worker are held by calls that wait for results."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._said_at = float("-inf")

    def look(self, held: Sequence[Lease], waits: Sequence[Wait]) -> None:
        """What is in hand, if that leaves no place free, and who of those in hand waits for what."""
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
    """Whether each of those in hand waits itself, or has a step that does."""
    callers = {one.caller for one in waits}
    owners = {caller.rpartition("~")[0] for caller in callers}
    return all(lease.id in callers or lease.id in owners for lease in held)
