"""What the service counts, for Prometheus to read.

Counts are plain numbers, so that they cost next to nothing where things happen; the library puts
them into its text format when somebody asks.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX = "ws_"

MAX_SERIES = 100
"""Label values that one count keeps apart; Prometheus pays for each, for good."""

OTHER = "other"
"""Stands for all label values beyond that."""


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
    """A number that only grows, for each combination of the values of some labels."""

    __slots__ = ("_labels", "_name", "_numbers", "_what")

    def __init__(
        self, name: str, what: str, labels: tuple[str, ...], known: Iterable[tuple[object, ...]]
    ) -> None:
        self._name = name
        self._what = what
        self._labels = labels
        self._numbers: Counter[tuple[str, ...]] = Counter()
        for values in known:
            self._numbers[tuple(map(str, values))] = 0

    def add(self, *values: object) -> None:
        """Count one more with these values, one for each label."""
        series = tuple(map(str, values))
        if series not in self._numbers and len(self._numbers) >= MAX_SERIES:
            series = (OTHER,) * len(series)
        self._numbers[series] += 1

    def family(self) -> Metric:
        """Return the numbers as the library has them."""
        family = CounterMetricFamily(PREFIX + self._name, self._what, labels=self._labels)
        for series, number in self._numbers.items():
            family.add_metric(series, number)
        return family


class Metrics(Collector):
    """All counts of a service, and what can be read off it at any time."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self._counts: list[Count | CountBy] = []
        self._gauges: list[tuple[str, str, Callable[[], float]]] = []
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def count(self, name: str, what: str) -> Count:
        """Return a new count, of what it says."""
        count = Count(name, what)
        self._counts.append(count)
        return count

    def count_by(
        self,
        labels: tuple[str, ...],
        name: str,
        what: str,
        known: Iterable[tuple[object, ...]] = (),
    ) -> CountBy:
        """Return a new count, of what it says, for each combination of the values of some labels.

        Known combinations start at 0: Prometheus does not see an increase where nothing was before.
        Values that a client can choose must be mapped to a few first.
        """
        count = CountBy(name, what, labels, known)
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
        """Return everything in the text format, with what is in the library's own registry.

        That has the process, and the team's own metrics.
        """
        return generate_latest(self._registry) + generate_latest(REGISTRY)
