"""The numbers of workers as metrics of Prometheus. It needs prometheus-client: import it where it is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from durasleep.observe.meter import Histogram, Meter, MetricsRegistry

CONTENT_TYPE = CONTENT_TYPE_LATEST
Labels = tuple[str, ...]


class WorkerMetrics(Collector):
    """The metrics of the workers that share a registry: the sums of what they have counted."""

    def __init__(self) -> None:
        self._meters: list[Meter] = []

    def add(self, meter: Meter) -> None:
        """One more worker. It stays after its end: a counter must not fall."""
        self._meters.append(meter)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are known when they are read."""
        return ()

    def collect(self) -> Iterable[Metric]:
        meters = self._meters
        yield _counter(
            "durasleep_executions_started",
            "Executions whose code has begun for the first time, in this worker.",
            ("function",),
            [((name,), count) for one in meters for name, count in tuple(one.started.items())],
        )
        yield _counter(
            "durasleep_executions_ended",
            "Executions that were ended by a commit of this worker, or by a timer that it fired.",
            ("function", "outcome"),
            [found for one in meters for found in tuple(one.ended.items())],
        )
        yield _histogram(
            "durasleep_timer_lateness_seconds",
            "How late the oldest timer was, of each firing that had any.",
            (),
            [((), one.lateness) for one in meters],
        )
        yield _histogram(
            "durasleep_activation_seconds",
            "How long an execution had a slot at a time, until it was suspended, ended or left to others.",
            ("function",),
            [((name,), found) for one in meters for name, found in tuple(one.activations.items())],
        )
        yield _histogram(
            "durasleep_step_seconds",
            "How long each attempt of a step or task took.",
            ("function",),
            [((name,), found) for one in meters for name, found in tuple(one.steps.items())],
        )
        slots = GaugeMetricFamily("durasleep_slots", "Slots for executions, by state.", labels=("state",))
        for state, count in _sums([found for one in meters for found in one.slots().items()]).items():
            slots.add_metric((state,), count)
        yield slots
        yield _histogram(
            "durasleep_loop_lag_seconds",
            "By how much the event loop was late, looked at twice a second.",
            (),
            [((), one.loop_lag) for one in meters],
        )
        yield from self._plain_counters()
        yield _histogram(
            "durasleep_script_seconds",
            "From the call of a script to the answer of Redis; calls that were sent together have the same time.",
            ("script",),
            [((name,), found) for one in meters for name, found in tuple(one.scripts.items())],
        )

    def _plain_counters(self) -> Iterable[Metric]:
        meters = self._meters
        counters = (
            ("takeovers", "Executions of dead workers that this one has given to living ones.", "takeovers"),
            ("fenced", "Leases that this worker has lost while it worked on the execution.", "fenced"),
            ("step_retries", "Attempts of steps and tasks that have failed and are made again.", "step_retries"),
        )
        for name, text, field in counters:
            yield CounterMetricFamily(f"durasleep_{name}", text, value=sum(getattr(one, field) for one in meters))


def _sums(pairs: Iterable[tuple[str, int]]) -> Mapping[str, int]:
    sums: Counter[str] = Counter()
    for name, count in pairs:
        sums[name] += count
    return sums


def _counter(name: str, text: str, labels: Sequence[str], pairs: Iterable[tuple[Labels, int]]) -> CounterMetricFamily:
    counts: Counter[Labels] = Counter()
    for values, count in pairs:
        counts[values] += count
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in sorted(counts.items()):
        family.add_metric(values, count)
    return family


def _histogram(
    name: str, text: str, labels: Sequence[str], pairs: Iterable[tuple[Labels, Histogram]]
) -> HistogramMetricFamily:
    sums: dict[Labels, Histogram] = {}
    for values, found in pairs:
        if values not in sums:
            sums[values] = Histogram(found.bounds)
        sums[values].add(found)
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, one in sorted(sums.items()):
        bounds = [*[f"{bound:g}" for bound in one.bounds], "+Inf"]
        family.add_metric(values, [*zip(bounds, accumulate(one.counts), strict=True)], one.total)
    return family


_of_registry: WeakKeyDictionary[MetricsRegistry, WorkerMetrics] = WeakKeyDictionary()


def register(registry: MetricsRegistry, meter: Meter) -> None:
    """Show the numbers of a worker in a registry, together with those of other workers there."""
    found = _of_registry.get(registry)
    if found is None:
        found = _of_registry[registry] = WorkerMetrics()
        registry.register(found)
    found.add(meter)


def own_registry(meter: Meter) -> CollectorRegistry:
    """A registry for one worker and its process."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    register(registry, meter)
    return registry


def text_of(registry: CollectorRegistry) -> bytes:
    """All of it, as Prometheus reads it."""
    return generate_latest(registry)


def joined(texts: Mapping[int, bytes]) -> bytes:
    """The metrics of several processes, each with its number as the label ``process``."""
    families: dict[str, Metric] = {}
    for number, text in texts.items():
        for found in text_string_to_metric_families(text.decode()):
            family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
            for sample in found.samples:
                family.add_sample(sample.name, {**sample.labels, "process": str(number)}, sample.value)
    return text_of_all(families.values())


class _Given(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def text_of_all(families: Iterable[Metric]) -> bytes:
    """Some metrics as Prometheus reads them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(families))
    return generate_latest(registry)
