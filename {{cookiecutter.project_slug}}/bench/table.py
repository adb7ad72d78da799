"""The table: the figures of a run, each beside its share of the bare loop's and the last run's."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

HEADER = f"{'':57}of the bare loop         last run"

LastRun = dict[str, tuple[float, float | None]]
"""For each label, the figure and its share of the bare loop's, if that was measured, too."""

_last_run: TypeAdapter[LastRun] = TypeAdapter(LastRun)


class Row(NamedTuple):
    """A figure of the service in each round, and which share of the bare loop's it is."""

    label: str
    unit: str
    figures: list[float]
    shares: list[float]

    def medians(self) -> tuple[float, float | None]:
        """Return the figure and the share that count."""
        return median(self.figures), median(self.shares) if self.shares else None

    def line(self, last_run: LastRun) -> str:
        """Return this row as a line of text."""
        if not self.figures:
            return f"{self.label:31} not measured: no /proc"
        figure, share = self.medians()
        last_figure, last_share = last_run.get(self.label, (None, None))
        line = f"{self.label:31} {_number(figure):>10} {self.unit:14}"
        if share is None:
            return f"{line:82}{_change(figure, last_figure, _number)}".rstrip()
        range_ = f"({_percent(min(self.shares))} to {_percent(max(self.shares))})"
        line = f"{line:57}{_percent(share)} {range_}"
        return f"{line:82}{_change(share, last_share, _percent)}".rstrip()


def _change(now: float, last: float | None, text: Callable[[float], str]) -> str:
    return f"{text(last)} ({now / last - 1:+.1%} since)" if last else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def load(path: Path) -> LastRun:
    """Return what was kept of the last run.

    Raises:
        ValueError: the file is damaged.

    """
    try:
        return _last_run.validate_json(path.read_bytes()) if path.exists() else {}
    except ValidationError:
        msg = f"{path.name} is damaged, so there is no last run to compare with"
        raise ValueError(msg) from None


def save(path: Path, rows: list[Row], last_run: LastRun) -> None:
    """Keep these rows, and those of the last run that were not measured again."""
    kept = last_run | {row.label: row.medians() for row in rows if row.figures}
    path.write_bytes(_last_run.dump_json(kept, indent=2) + b"\n")
