"""Projects for the tests, each baked once per worker, and a table of times."""

import os
import signal
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from pytest_cookies.plugin import Cookies

from benchmarks.compiler import LIBRARY, compiled, compiler
from benchmarks.load import SOURCE
from proof.project import Unavailable

from .combination import Combination
from .project import Project, bake, copy_template

Baker = Callable[[Combination], Project]

MATRIX = "test_matrix.py"


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the template; editing the template during the run does not change it."""
    return copy_template(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def baked(cookies_session: Cookies, template: Path) -> Baker:
    """Return a function that bakes each project once per worker. Copy before you change it."""

    @cache
    def baked(combination: Combination) -> Project:
        return bake(cookies_session, template, combination)

    return baked


def pytest_configure() -> None:
    """Let SIGTERM end the tests as Ctrl+C does, so that the processes they started end too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """Return three times the number of cores: the projects' own tests mostly wait."""
    return 3 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the matrix first: it has the longest tests."""
    items.sort(key=lambda item: item.path.name != MATRIX)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the time by check for the matrix, by file for the rest."""
    seconds: dict[str, float] = defaultdict(float)
    tests: dict[str, set[str]] = defaultdict(set)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                path = Path(report.nodeid.partition("::")[0]).name
                subject = str(dict(report.user_properties).get("check", path))
                if report.when == "setup":
                    subject = "baking and other set-up"
                seconds[subject] += report.duration
                tests[subject].add(report.nodeid)
    terminalreporter.section("seconds of work", sep="-")
    for subject in sorted(seconds, key=lambda subject: -seconds[subject]):
        count = len(tests[subject])
        terminalreporter.write_line(f"{seconds[subject]:8.1f} s  {count:4} tests  {subject}")


@pytest.fixture(scope="session")
def compiled_load() -> None:
    """Compile the load generator; skip the test without Linux or a compiler."""
    if sys.platform != "linux":
        pytest.skip("the load generator needs Linux")
    try:
        compiler(install=False)
    except Unavailable as failure:
        pytest.skip(str(failure))
    compiled(SOURCE, *LIBRARY, install=False)
