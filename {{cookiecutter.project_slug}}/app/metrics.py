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
    """A number that only grows."""

    __slots__ = ("_name", "_what", "total")

    def __init__(self, name: str, what: str) -> None:
        self._name = name
        self._what = what
        self.total = 0

    def add(self) -> None:
        """Count one more."""
        self.total += 1

    def family(self) -> Metric:
        """Return the number as the library has it."""
        return CounterMetricFamily(PREFIX + self._name, self._what, self.total)


class CountBy:
    """A number that only grows, for each value of a label."""

    __slots__ = ("_label", "_name", "_values", "_what")

    def __init__(self, name: str, what: str, label: str) -> None:
        self._name = name
        self._what = what
        self._label = label
        self._values: Counter[str] = Counter()

    def add(self, value: object) -> None:
        """Count one more with this value."""
        self._values[str(value)] += 1

    def family(self) -> Metric:
        """Return the numbers as the library has them."""
        family = CounterMetricFamily(PREFIX + self._name, self._what, labels=[self._label])
        for value, number in self._values.items():
            family.add_metric([value], number)
        return family


class Metrics(Collector):
    """All counts of a service, and what can be read off it at any time."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self._counts: list[Count | CountBy] = []
        self._gauges: list[tuple[str, str, Callable[[], float]]] = []
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def count(self, name: str, what: str) -> Count:
        """Return a new count, of what it says."""
        count = Count(name, what)
        self._counts.append(count)
        return count

    def count_by(self, label: str, name: str, what: str) -> CountBy:
        """Return a new count, of what it says, for each value of a label."""
        count = CountBy(name, what, label)
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
