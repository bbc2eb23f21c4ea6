"""How a worker is observed: what it counts, and where that and its health can be asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from durasleep.observe.health import UNIX, Answer, Health, not_found, parse_listen, said
from durasleep.observe.meter import Meter, MetricsRegistry

if TYPE_CHECKING:  # an extra, imported where metrics are asked for
    from prometheus_client import CollectorRegistry

NO_METRICS = "metrics need prometheus-client: pip install 'durasleep[metrics]'"

logger = logging.getLogger("durasleep")


class Telemetry:
    """Of one worker; without options nothing is counted and nothing served."""

    def __init__(self, *, listen: str | None = None, registry: MetricsRegistry | None = None) -> None:
        """``listen`` is ``[HOST:]PORT`` for ``/livez``, ``/readyz`` and ``/metrics``; ``registry`` shows the metrics,
        too. UsageError for an address that cannot be read.
        """
        if listen is not None:
            parse_listen(listen)
        self._listen = listen
        self._own: CollectorRegistry | None = None
        self.url: str | None = None
        """Where it is answered now."""
        self.meter: Meter | None = None
        """What the worker counts; None if nobody could read it."""
        if registry is not None:
            self.meter = Meter()
            _register(registry, self.meter)
        elif listen is not None and find_spec("prometheus_client") is not None:
            self.meter = Meter()
        if listen is not None and self.meter is not None:
            from durasleep.observe import metrics

            self._own = metrics.own_registry(self.meter)

    @property
    def on_exchange(self) -> Callable[[Iterable[str], float], None] | None:
        """What is to be told of each exchange with Redis: the scripts, and how many seconds it took."""
        return None if self.meter is None else self.meter.exchange

    def know(self, functions: Iterable[str], slots: Callable[[], Mapping[str, int]]) -> None:
        """The names of the worker's functions, and how many of its slots are in which state."""
        if self.meter is not None:
            self.meter.know(functions)
            self.meter.slots = slots

    @contextmanager
    def serving(self, health: Health) -> Generator[None]:
        """Answer during the life of a worker. UsageError if nobody can listen there."""
        try:
            if self._listen is None:
                yield
            else:
                with self._listening(self._listen, health):
                    yield
        finally:
            if self.meter is not None:
                self.meter.forget_slots()

    @contextmanager
    def _listening(self, listen: str, health: Health) -> Generator[None]:
        from durasleep.observe.http_server import HealthServer

        server = HealthServer(listen, partial(self._answer, health))
        server.start()
        self.url = server.url
        said = "metrics at /metrics" if self._own else NO_METRICS
        if not server.url.startswith(UNIX):  # there a parent process asks
            logger.info("health at %s/livez and /readyz, %s", server.url, said)
        try:
            yield
        finally:
            self.url = None
            server.close()

    def _answer(self, health: Health, path: str) -> Answer:
        match path:
            case "/livez":
                return said(health.why_not_live())
            case "/readyz":
                return said(health.why_not_ready())
            case "/metrics":
                return self._metrics()
            case _:
                return not_found("/livez", "/readyz", "/metrics")

    def _metrics(self) -> Answer:
        if self._own is None:
            return Answer(501, f"{NO_METRICS}\n".encode())
        from durasleep.observe import metrics

        return Answer(200, metrics.text_of(self._own), metrics.CONTENT_TYPE)


def _register(registry: MetricsRegistry, meter: Meter) -> None:
    from durasleep.observe import metrics  # the registry has imported prometheus-client already

    metrics.register(registry, meter)
