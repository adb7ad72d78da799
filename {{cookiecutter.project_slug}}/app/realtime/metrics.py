"""Metrics of one service, for Prometheus."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX = "ws_"

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
