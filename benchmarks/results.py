"""What was measured, and what it says: medians, ratios, targets."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_FOREIGN = 0.04
"""How much of the servers' core something else may have, before a sample is in doubt."""

MAX_BUSY = 0.85
"""How busy the generator may be, before it may be what limits the servers."""


@dataclass(frozen=True, slots=True)
class Metric:
    """Something that is measured."""

    unit: str
    more_is_better: bool = True
    digits: int = 0

    def text(self, value: float | None) -> str:
        """Return a value as people read it, a dash for a missing one."""
        return "–" if value is None else f"{value:,.{self.digits}f}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement."""

    values: Mapping[Metric, float | None] = field(default_factory=dict)
    remark: str = ""
    """What was not as it should be, or what else is to be told."""
    busy: float | None = None
    """The generator's load, as a share of its core."""
    foreign: float | None = None
    """The share of the servers' core that went to something else."""


@dataclass(frozen=True, slots=True)
class Row:
    """All samples of one server, or why some are missing."""

    name: str
    title: str
    samples: tuple[Sample, ...] = ()
    missing: str = ""

    def values(self, metric: Metric) -> list[float]:
        """Return what was measured, round by round."""
        found = (sample.values.get(metric) for sample in self.samples)
        return [value for value in found if value is not None]

    def median(self, metric: Metric) -> float | None:
        """Return the middle of the rounds, None if there are none."""
        values = self.values(metric)
        return statistics.median(values) if values else None

    @property
    def busy(self) -> float:
        """Return how busy the generator was at most."""
        return max((sample.busy or 0 for sample in self.samples), default=0)


@dataclass(frozen=True, slots=True)
class Target:
    """What the service is meant to reach: in figures of its own, or as a multiple of another's."""

    metric: Metric
    at_least: float | None = None
    at_most: float | None = None
    beside: str | None = None

    def met(self, value: float) -> bool:
        """Return whether this is enough."""
        enough = self.at_least is None or value >= self.at_least
        return enough and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario yielded. The first row is the service's, the first metric is what counts."""

    title: str
    description: str
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]
    targets: tuple[Target, ...] = ()
    plotted: bool = True

    @property
    def metric(self) -> Metric:
        """Return the metric that counts."""
        return self.metrics[0]

    def row(self, name: str) -> Row:
        """Return a server's row."""
        return next(row for row in self.rows if row.name == name)

    def ratio(self, row: Row, metric: Metric) -> float | None:
        """Return the service's median through another's, None if either is missing or zero."""
        mine, other = self.rows[0].median(metric), row.median(metric)
        return mine / other if mine is not None and other else None

    def factor(self, row: Row) -> float | None:
        """Return how many times better the service is, be more or less the better."""
        ratio = self.ratio(row, self.metric)
        if ratio is None or self.metric.more_is_better:
            return ratio
        return 1 / ratio if ratio else None

    def reached(self, target: Target) -> float | None:
        """Return the figure that the target is about, None if it was not measured."""
        if target.beside is None:
            return self.rows[0].median(target.metric)
        return self.ratio(self.row(target.beside), target.metric)
