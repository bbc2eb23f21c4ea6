"""What the exporter and the dashboard answer about a whole namespace: gauges for Prometheus, and how much work a group
has, for what starts workers.

The functions are plain; ``Exporter`` adds the paths, and asks Redis at most once a second.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from durasleep.errors import DurasleepError, InvalidId, StoreUnavailable
from durasleep.model import check_name
from durasleep.observe.health import Answer, not_found, said
from durasleep.observe.telemetry import NO_METRICS
from durasleep.query.due_soon import DueSoon
from durasleep.query.overview import Overview

if TYPE_CHECKING:  # an extra
    from prometheus_client.core import GaugeMetricFamily

T = TypeVar("T")

logger = logging.getLogger("durasleep")

KEPT_S = 1.0
"""How long an answer of Redis is good for others who ask."""
PATIENCE_S = 2.5
"""How long one is waited for: what reads us waits 3 s (KEDA) or 10 s (Prometheus)."""
SCALE = "/scale/"
PATHS = ("/metrics", f"{SCALE}GROUP", "/livez", "/readyz")


def gauges(now: Overview) -> list[GaugeMetricFamily]:
    """The gauges of a namespace."""
    levels = [((group.name, str(level.priority)), level) for group in now.groups for level in group.levels]
    return [
        _gauge(
            "queued",
            "Executions that wait for a worker.",
            ("group", "priority"),
            [(labels, level.queued) for labels, level in levels],
        ),
        _gauge(
            "running",
            "Executions that workers hold.",
            ("group", "priority"),
            [(labels, level.running) for labels, level in levels],
        ),
        _gauge(
            "oldest_queued_seconds",
            "For how long the first of those that wait for a worker does so; 0 if none does.",
            ("group", "priority"),
            [(labels, level.oldest_queued_s) for labels, level in levels],
        ),
        _gauge("sleepers", "Timers and deadlines.", (), [((), now.sleepers)]),
        _gauge(
            "overdue_seconds",
            "For how long the most overdue timer or schedule is due; 0 if none is.",
            (),
            [((), now.overdue_s)],
        ),
        _gauge("halted", "Executions that wait for a person.", (), [((), now.halted)]),
        _gauge("put_aside", "Names that were quarantined because of broken data.", (), [((), now.quarantined)]),
        _gauge(
            "parked",
            "Executions that wait at the gate of a limit.",
            ("limit",),
            [((limit.name,), limit.parked) for limit in now.limits],
        ),
        _gauge(
            "limit_in_use",
            "Executions that hold a slot of a limit.",
            ("limit",),
            [((limit.name,), limit.in_use) for limit in now.limits],
        ),
        _gauge(
            "workers",
            "Workers that have sent a heartbeat lately.",
            ("group",),
            [((group.name,), len(group.workers)) for group in now.groups],
        ),
        _gauge(
            "clock_held",
            "1 while workers hold back timers because the clock of Redis jumped ahead.",
            (),
            [((), int(now.is_clock_held))],
        ),
    ]


def _gauge(
    name: str, text: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(f"durasleep_{name}", text, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family


def metrics(now: Overview) -> Answer:
    """These gauges as Prometheus reads them; without prometheus-client a sentence."""
    if find_spec("prometheus_client") is None:
        return Answer(501, f"{NO_METRICS}\n".encode())
    from durasleep.observe import metrics as written

    return Answer(200, written.text_of_all(gauges(now)), written.CONTENT_TYPE)


def scale(now: Overview, soon: DueSoon, group: str) -> Answer:
    """How much work a group has, as JSON; ``value`` is all of it. A group that has none may be unknown."""
    silent = [part.number for part in now.partitions if not part.is_asked]
    if silent:
        return Answer(503, f"partition {silent[0]} does not answer: nobody knows how much work is there\n".encode())
    found = next((one for one in now.groups if one.name == group), None)
    work = {
        "queued": 0 if found is None else found.queued,
        "running": 0 if found is None else found.running,
        "due": soon.of(group, now.due_soon),
    }
    body: dict[str, Any] = {"group": group, **work, "value": sum(work.values())}
    return Answer(200, f"{json.dumps(body)}\n".encode(), "application/json")


class _Shared(Generic[T]):
    """The last answer, for a second; whoever asks meanwhile waits for the same one."""

    def __init__(self, fetch: Callable[[], Awaitable[T]]) -> None:
        self._fetch = fetch
        self._asking: asyncio.Future[T] | None = None
        self._answered_at = 0.0

    async def get(self) -> T:
        """Raises what the fetch raises; StoreUnavailable if it takes too long."""
        asking = self._asking
        if asking is None or (asking.done() and time.monotonic() - self._answered_at > KEPT_S):
            asking = self._asking = asyncio.ensure_future(self._ask())
            asking.add_done_callback(_note_seen)
        return await asyncio.shield(asking)

    async def _ask(self) -> T:
        deadline = asyncio.timeout(PATIENCE_S)
        try:
            async with deadline:
                return await self._fetch()
        except TimeoutError:
            if not deadline.expired():
                raise
            raise StoreUnavailable(f"Redis has not answered for {PATIENCE_S:g} s") from None
        finally:
            self._answered_at = time.monotonic()


def _note_seen(asking: asyncio.Future[Any]) -> None:
    """Its error is no surprise, even if all who asked have gone."""
    if not asking.cancelled():
        asking.exception()


class Exporter:
    """Answers the paths of an exporter, in an event loop."""

    def __init__(self, overview: Callable[[], Awaitable[Overview]], due_soon: Callable[[], Awaitable[DueSoon]]) -> None:
        """These are ``overview`` and ``due_soon`` of a client."""
        self._overview = _Shared(overview)
        self._due_soon = _Shared(due_soon)
        self._is_out = False

    async def answer(self, path: str) -> Answer:
        """``/metrics``, ``/scale/GROUP`` or ``/readyz``. While Redis does not serve us, 503 and a sentence, which is
        also logged once.
        """
        if path not in ("/metrics", "/readyz") and not path.startswith(SCALE):
            return not_found(*PATHS)
        try:
            answer = await self._ask(path)
        except DurasleepError as error:
            if not self._is_out:
                logger.warning("the exporter answers 503 until Redis serves it: %s", error)
            self._is_out = True
            return said(str(error))
        if self._is_out and answer.status == HTTPStatus.OK:
            self._is_out = False
            logger.info("Redis serves the exporter again")
        return answer

    async def _ask(self, path: str) -> Answer:
        if path == "/metrics":
            return metrics(await self._overview.get())
        if path == "/readyz":
            await self._overview.get()
            return said("")
        return await self._scale(path.removeprefix(SCALE))

    async def _scale(self, group: str) -> Answer:
        try:
            check_name(group, "group")
        except InvalidId as error:
            return Answer(404, f"{error}\n".encode())
        return scale(await self._overview.get(), await self._due_soon.get(), group)
