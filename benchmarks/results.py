"""Samples, and their evaluation: medians, ratios, targets."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_FOREIGN = 0.04
"""Share of the servers' core that other processes may use in a valid sample."""

MAX_BUSY = 0.85
"""Load of the generator above which it may be the bottleneck."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A measured quantity."""

    unit: str
    more_is_better: bool = True
    digits: int = 0

    def text(self, value: float | None) -> str:
        """Format a value; a dash for a missing one."""
        return "–" if value is None else f"{value:,.{self.digits}f}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement."""

    values: Mapping[Metric, float | None] = field(default_factory=dict)
    remark: str = ""
    """Errors and other observations."""
    busy: float | None = None
    """The generator's load, as a share of its core."""
    foreign: float | None = None
    """Share of the servers' core that other processes used."""


@dataclass(frozen=True, slots=True)
class Row:
    """All samples of one server, and the reason if some are missing."""

    name: str
    title: str
    samples: tuple[Sample, ...] = ()
    missing: str = ""

    def values(self, metric: Metric) -> list[float]:
        """Return the values of all rounds."""
        found = (sample.values.get(metric) for sample in self.samples)
        return [value for value in found if value is not None]

    def median(self, metric: Metric) -> float | None:
        """Return the median of the rounds, None without any."""
        values = self.values(metric)
        return statistics.median(values) if values else None

    @property
    def busy(self) -> float:
        """The maximum load of the generator."""
        return max((sample.busy or 0 for sample in self.samples), default=0)


@dataclass(frozen=True, slots=True)
class Target:
    """A target of the service: an absolute figure, or a multiple of another server's."""

    metric: Metric
    at_least: float | None = None
    at_most: float | None = None
    beside: str | None = None
    by_all: bool = False
    """Whether every row must meet it, and not only the service's."""

    def met(self, value: float) -> bool:
        """Return whether a value meets the target."""
        enough = self.at_least is None or value >= self.at_least
        return enough and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of a scenario. The first row is the service, the first metric the main one."""

    title: str
    description: str
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]
    targets: tuple[Target, ...] = ()
    plotted: bool = True

    @property
    def metric(self) -> Metric:
        """The main metric."""
        return self.metrics[0]

    def row(self, name: str) -> Row:
        """Return a server's row."""
        return next(row for row in self.rows if row.name == name)

    def ratio(self, row: Row, metric: Metric) -> float | None:
        """Return the service's median divided by another's, None if either is missing or zero."""
        mine, other = self.rows[0].median(metric), row.median(metric)
        return mine / other if mine is not None and other else None

    def factor(self, row: Row) -> float | None:
        """Return how many times better the service is in the main metric."""
        ratio = self.ratio(row, self.metric)
        if ratio is None or self.metric.more_is_better:
            return ratio
        return 1 / ratio if ratio else None

    def reached(self, target: Target) -> float | None:
        """Return the result for a target, None if it was not measured."""
        if target.beside is None:
            rows = self.rows if target.by_all else self.rows[:1]
            medians = [row.median(target.metric) for row in rows]
            found = [value for value in medians if value is not None]
            return max(found, default=None) if target.at_least is None else min(found, default=None)
        return self.ratio(self.row(target.beside), target.metric)
