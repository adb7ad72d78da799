"""The project's own tests pass.

With the authentication `FULL`, all tests run, but those of the layers below authentication
(process, frames, Redis) only with the extras in `ENOUGH_EXTRAS`. With any other authentication,
tests of these layers do not run, and tests of the parts above authentication run only with all
`EXTRAS`.
"""

import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.combination import QUESTIONS, Combination
from tests.process import environment, run
from tests.project import Project
from tests.venv import venv_bin

FULL = "jwt"

EXTRAS = frozenset(name for name, question in QUESTIONS.items() if question is True)

ENOUGH_EXTRAS = [set(), {"redis"}, EXTRAS]

BELOW_AUTHENTICATION = (
    "tests/realtime/redis/test_[!t]*.py",
    "tests/realtime/server/*",
    "tests/realtime/wire/*",
)

ABOVE_AUTHENTICATION = (
    "tests/realtime/commands/*",
    "tests/realtime/connections/*",
    "tests/realtime/endpoint/*",
    "tests/realtime/http/*",
    "tests/realtime/limits/*",
    "tests/realtime/settings/*",
    "tests/realtime/test_*.py",
)

UNFIT_ENV = "BACKEND_KEY_FILE=missing\nJWT_JWKS_URL=https://issuer.test/keys\n"
"""Lines of an ``.env`` that no test must read."""

TIMEOUT_S = 3_600


def check_suite(project: Project) -> None:
    """Run the tests in a copy; none may fail or be skipped.

    Projects with rooms have an `.env`, as after `make run`; the others have none, as in a clone.
    """
    with TemporaryDirectory() as directory:
        copy = project.copy(Path(directory, "project"))
        if "rooms" in project.combination.options:
            copy.write(".env", copy.read(".env.example") + UNFIT_ENV)
        run_tests(copy, [f"--ignore-glob={name}" for name in _left_out(project.combination)])


def _left_out(combination: Combination) -> Iterator[str]:
    options = set(combination.options)
    extras = options & EXTRAS
    if FULL not in options or extras not in ENOUGH_EXTRAS:
        yield from BELOW_AUTHENTICATION
    if FULL not in options and extras != EXTRAS:
        yield from ABOVE_AUTHENTICATION


def run_tests(project: Project, arguments: Sequence[str | Path]) -> None:
    """Run tests of a project that may be changed; none may fail or be skipped."""
    with TemporaryDirectory() as directory:
        report = Path(directory, "report.xml")
        command: list[str | Path] = [
            *(venv_bin(project) / "python", "-m", "pytest", "--quiet", f"--junitxml={report}"),
            *arguments,
        ]
        # A directory of its own: in the shared one, other runs remove files that they find too old.
        env = environment(PYTEST_DEBUG_TEMPROOT=directory, METRICS_KEY_FILE="missing")
        try:
            done = run(command, project.root, env=env, timeout_s=TIMEOUT_S)
        except subprocess.TimeoutExpired as late:
            printed = (late.stdout or b"") + (late.stderr or b"")
            msg = f"its tests do not end:\n{printed.decode(errors='replace')}"
            raise AssertionError(msg) from late
        assert done.returncode == 0, f"its tests fail:\n{done.stdout}{done.stderr}"
        counts = ET.parse(report).getroot().find("testsuite")  # noqa: S314 - the file is our own
    assert counts is not None
    assert int(counts.attrib["tests"]) > 0, "it has no tests"
    assert int(counts.attrib["skipped"]) == 0, f"it skips tests:\n{done.stdout}"
