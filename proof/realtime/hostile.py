"""A pytest plugin: what became of each hostile case of ``hostile.md`` in a run."""

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


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark that only the proof has."""
    config.addinivalue_line("markers", "slow: takes seconds, with servers or processes of its own")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have the report tell which hostile cases the test is about."""
    item.user_properties += [(MARK, number) for number in numbers(item)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what became of each hostile case."""
    reports = [
        report
        for category in ("passed", "failed", "skipped", "error")
        for report in terminalreporter.getreports(category)
        if isinstance(report, pytest.TestReport)
    ]
    words = Counter[str]()
    for word, case in results(reports):
        if not words:
            terminalreporter.section("hostile cases")
        words[word] += 1
        if terminalreporter.verbosity >= 0 or word == "failed":
            terminalreporter.line(f"{case.number:2} {word:7} {case.comes}: {case.done}")
    if words:
        terminalreporter.line(", ".join(f"{number} {word}" for word, number in words.items()))
