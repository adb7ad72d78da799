"""Metrics of one service, for Prometheus."""

import asyncio
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Info, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

PREFIX = "ws_"

LAG_INTERVAL_S = 0.5
LAG_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

OTHER = "other"
"""Replaces label values that are not known at start, since each series costs memory."""


class Histogram:
    """Counts values in buckets, each with an inclusive upper bound. Not thread-safe.

    An observation takes a sixth of the time that `prometheus_client` takes for one.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = (*bounds, math.inf)
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Return each bound with its cumulative count, and the sum of all values."""
        bounds = map(floatToGoString, self._bounds)
        return list(zip(bounds, accumulate(self._counts), strict=True)), self._sum


class Metrics(Collector):
    """A registry of its own, so that several services can run in one process."""

    def __init__(self, version: str) -> None:
        # {% if cookiecutter.redis %}
        self.port: int | None = None
        """The port of this process's metrics, if several processes share the service's port."""
        # {% endif %}
        self._makers: list[Callable[[], Metric]] = []
        self.registry = CollectorRegistry()
        self.registry.register(self)
        build = Info(PREFIX + "build", "Version of the project.", registry=self.registry)
        build.info({"version": version})
        self._lag = self.histogram(
            "loop_lag_seconds", "Event loop lag: delay of due callbacks.", LAG_BUCKETS_S
        )

    def counter(
        self,
        name: str,
        description: str,
        labels: tuple[str, ...] = (),
        known: Iterable[tuple[object, ...]] = (),
    ) -> Counter:
        """Return a new counter.

        The ``known`` combinations of label values start at 0, so that Prometheus sees their first
        increase. Values that a client can choose must first be mapped to a small set.
        """
        counter = Counter(PREFIX + name, description, labels, registry=self.registry)
        for values in known:
            counter.labels(*values)
        return counter

    def histogram(self, name: str, description: str, bounds: tuple[float, ...]) -> Histogram:
        """Return a new histogram."""
        return self.histograms(name, description, bounds, "", [""])[""]

    def histograms(
        self, name: str, description: str, bounds: tuple[float, ...], label: str, known: list[str]
    ) -> dict[str, Histogram]:
        """Return a new histogram for each known value of the label; an empty one means no label."""
        histograms = {value: Histogram(bounds) for value in known}

        def make() -> Metric:
            labels = [label] if label else []
            family = HistogramMetricFamily(PREFIX + name, description, labels=labels)
            for value, histogram in histograms.items():
                family.add_metric([value] if label else [], *histogram.read())
            return family

        self._makers.append(make)
        return histograms

    async def measure_loop_lag(self) -> None:
        """Measure the event loop lag until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due_at = loop.time() + LAG_INTERVAL_S
            await asyncio.sleep(LAG_INTERVAL_S)
            self._lag.observe(loop.time() - due_at)

    def watch(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read at each scrape."""
        Gauge(PREFIX + name, description, registry=self.registry).set_function(read)

    def watch_counts(
        self, name: str, description: str, label: str, read: Callable[[], Mapping[str, float]]
    ) -> None:
        """Add counters that are read at each scrape, one for each value of a label.

        A plain number is faster to increase than a `counter`.
        """

        def make() -> Metric:
            family = CounterMetricFamily(PREFIX + name, description, labels=[label])
            for value, count in read().items():
                family.add_metric([value], count)
            return family

        self._makers.append(make)

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics that are computed at each scrape."""
        for make in self._makers:
            yield make()

    def text(self) -> bytes:
        """Return the metrics of the service, the process and the team's code in text format."""
        return generate_latest(self.registry) + generate_latest(REGISTRY)
