"""The hostile cases of ``hostile.md``: which there are, and what became of each in a run."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

MARK = "hostile"
ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \| .*\|$", re.MULTILINE)


class Case(NamedTuple):
    """One row of the tables."""

    number: int
    comes: str
    done: str

    @property
    def applies(self) -> bool:
        """Return whether a test has to show it."""
        return not self.done.startswith("does not apply: ")


def read_cases() -> list[Case]:
    """Return all cases, by their numbers."""
    text = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    return sorted(Case(int(row[1]), row[2], row[3]) for row in ROW.finditer(text))


def numbers(item: pytest.Item) -> Iterator[int]:
    """Yield the cases that a test is about."""
    for mark in item.iter_markers(MARK):
        yield from mark.args


def results(reports: Iterable[pytest.TestReport]) -> Iterator[tuple[str, Case]]:
    """Yield a word for each case that reports are about, or that is about nothing here."""
    outcomes: defaultdict[object, set[str]] = defaultdict(set)
    for report in reports:
        for name, value in report.user_properties:
            if name == MARK:
                outcomes[value].add(report.outcome)
    if outcomes:
        for case in read_cases():
            yield _word(case, outcomes[case.number]), case


def _word(case: Case, outcomes: set[str]) -> str:
    if not case.applies:
        return "n/a"
    return next((each for each in ("failed", "skipped", "passed") if each in outcomes), "not run")
