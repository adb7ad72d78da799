"""A pytest plugin that reports the result of each hostile case in ``hostile.md``."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

MARK = "hostile"
ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \| .*\|$", re.MULTILINE)


class Case(NamedTuple):
    """One row of the tables."""

    number: int
    input: str
    response: str

    @property
    def applies(self) -> bool:
        """Whether a test must cover it."""
        return not self.response.startswith("does not apply: ")


def read_cases() -> list[Case]:
    """Return all cases, sorted by number."""
    text = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    return sorted(Case(int(row[1]), row[2], row[3]) for row in ROW.finditer(text))


def numbers(item: pytest.Item) -> Iterator[int]:
    """Yield the cases that a test is marked with."""
    for mark in item.iter_markers(MARK):
        yield from mark.args


def results(reports: Iterable[pytest.TestReport]) -> Iterator[tuple[str, Case]]:
    """Yield each case with its result, if any of the reports is about a case."""
    outcomes: defaultdict[object, set[str]] = defaultdict(set)
    for report in reports:
        for name, value in report.user_properties:
            if name == MARK:
                outcomes[value].add(report.outcome)
    if outcomes:
        for case in read_cases():
            yield _result(case, outcomes[case.number]), case


def _result(case: Case, outcomes: set[str]) -> str:
    if not case.applies:
        return "n/a"
    return next((each for each in ("failed", "skipped", "passed") if each in outcomes), "not run")


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark `slow`, which only the proof uses."""
    config.addinivalue_line("markers", "slow: takes seconds, with servers or processes of its own")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Add the test's cases to its report."""
    item.user_properties += [(MARK, number) for number in numbers(item)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the result of each case."""
    reports = [
        report
        for category in ("passed", "failed", "skipped", "error")
        for report in terminalreporter.getreports(category)
        if isinstance(report, pytest.TestReport)
    ]
    counts = Counter[str]()
    for result, case in results(reports):
        if not counts:
            terminalreporter.section("hostile cases")
        counts[result] += 1
        if terminalreporter.verbosity >= 0 or result == "failed":
            terminalreporter.line(f"{case.number:2} {result:7} {case.input}: {case.response}")
    if counts:
        terminalreporter.line(", ".join(f"{count} {result}" for result, count in counts.items()))
