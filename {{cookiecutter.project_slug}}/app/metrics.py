"""What the service counts, for Prometheus to read.

Counts are plain numbers, so that they cost next to nothing where things happen; the library puts
them into its text format when somebody asks.
"""

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX = "ws_"


class Count:
    """A number that only grows, or one for each value of a label."""

    __slots__ = ("_label", "_name", "_values", "_what")

    def __init__(self, name: str, what: str, label: str | None) -> None:
        self._name = name
        self._what = what
        self._label = label
        self._values: Counter[object] = Counter() if label else Counter({None: 0})

    def add(self, value: object = None) -> None:
        """Count one more."""
        self._values[value] += 1

    @property
    def total(self) -> int:
        """Return how many there were in all."""
        return self._values.total()

    def family(self) -> Metric:
        """Return the numbers as the library has them."""
        labels = [] if self._label is None else [self._label]
        family = CounterMetricFamily(PREFIX + self._name, self._what, labels=labels)
        for value, number in self._values.items():
            family.add_metric([str(value)] if labels else [], number)
        return family


class Metrics(Collector):
    """All counts of a service, and what can be read off it at any time."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self._counts: list[Count] = []
        self._gauges: list[tuple[str, str, Callable[[], float]]] = []
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def count(self, name: str, what: str, *, label: str | None = None) -> Count:
        """Return a new count, of what it says."""
        count = Count(name, what, label)
        self._counts.append(count)
        return count

    def watch(self, name: str, what: str, read: Callable[[], float]) -> None:
        """Have a number read when it is asked for."""
        self._gauges.append((name, what, read))

    def collect(self) -> Iterator[Metric]:
        """Yield everything, for the library."""
        for name, what, read in self._gauges:
            yield GaugeMetricFamily(PREFIX + name, what, value=read())
        for count in self._counts:
            yield count.family()

    def text(self) -> bytes:
        """Return everything in the text format."""
        return generate_latest(self._registry)
