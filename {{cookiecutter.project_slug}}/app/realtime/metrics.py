"""Metrics of one service, for Prometheus."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX = "ws_"

LAG_INTERVAL_S = 0.5
LAG_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

OTHER = "other"
"""Replaces label values that are not known at start, since each series costs memory."""


@dataclass(frozen=True, slots=True)
class Count(Collector):
    """A counter whose value is read when Prometheus asks."""

    name: str
    description: str
    read: Callable[[], float]

    def collect(self) -> Iterable[Metric]:
        """Yield the metric with its value."""
        yield CounterMetricFamily(self.name, self.description, value=self.read())


class Metrics:
    """A registry of its own, so that several services can run in one process."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._lag = self.histogram(
            "loop_lag_seconds", "How late the event loop runs what is due.", LAG_BUCKETS_S
        )

    def counter(
        self,
        name: str,
        description: str,
        labels: tuple[str, ...] = (),
        known: Iterable[tuple[object, ...]] = (),
    ) -> Counter:
        """Return a new counter.

        Known combinations of label values start at 0: without a first value, Prometheus does not
        see the first increase. Values that a client can choose must be mapped to a few first.
        """
        counter = Counter(PREFIX + name, description, labels, registry=self._registry)
        for values in known:
            counter.labels(*values)
        return counter

    def histogram(self, name: str, description: str, buckets: tuple[float, ...]) -> Histogram:
        """Return a new histogram. An observation takes about a microsecond."""
        return Histogram(PREFIX + name, description, buckets=buckets, registry=self._registry)

    def info(self, name: str, description: str, **values: str) -> None:
        """Add a metric that is always 1, and whose labels have these values."""
        Info(PREFIX + name, description, registry=self._registry).info(values)

    async def measure_loop_lag(self) -> None:
        """Measure for ever how late the event loop is."""
        loop = asyncio.get_running_loop()
        while True:
            due_at = loop.time() + LAG_INTERVAL_S
            await asyncio.sleep(LAG_INTERVAL_S)
            self._lag.observe(loop.time() - due_at)

    def watch(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when Prometheus asks."""
        Gauge(PREFIX + name, description, registry=self._registry).set_function(read)

    def watch_count(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Add a counter that is read when Prometheus asks: a plain number is faster to increase."""
        self._registry.register(Count(PREFIX + name, description, read))

    def collect(self) -> Iterable[Metric]:
        """Return all metrics of the service."""
        return self._registry.collect()

    def text(self) -> bytes:
        """Return the metrics of the service, the process and the team's code in text format."""
        return generate_latest(self._registry) + generate_latest(REGISTRY)
