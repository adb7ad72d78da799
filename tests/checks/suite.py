"""All of the project's own tests pass.

Tests of layers below authentication (process, frames, Redis) run with every combination of the
other options, but with one kind of authentication.
"""

import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.process import run
from tests.project import Project
from tests.venv import venv_bin

FULL = "jwt"

BELOW_AUTHENTICATION = (
    "tests/realtime/redis/test_[!t]*.py",
    "tests/realtime/server/*",
    "tests/realtime/wire/*",
)

TIMEOUT_S = 600


def check_suite(project: Project) -> None:
    """Run the tests in a copy; none may fail or be skipped."""
    full = FULL in project.combination.options
    with TemporaryDirectory() as directory:
        copy = project.copy(Path(directory, "project"))
        run_tests(copy, [] if full else [f"--ignore-glob={name}" for name in BELOW_AUTHENTICATION])


def run_tests(project: Project, arguments: Sequence[str | Path]) -> None:
    """Run tests in a copy of a project; none may fail or be skipped."""
    with TemporaryDirectory() as directory:
        report = Path(directory, "report.xml")
        command: list[str | Path] = [
            *(venv_bin(project) / "python", "-m", "pytest", "--quiet", f"--junitxml={report}"),
            *arguments,
        ]
        try:
            done = run(command, project.root, timeout_s=TIMEOUT_S)
        except subprocess.TimeoutExpired as late:
            printed = (late.stdout or b"") + (late.stderr or b"")
            msg = f"its tests do not end:\n{printed.decode(errors='replace')}"
            raise AssertionError(msg) from late
        assert done.returncode == 0, f"its tests fail:\n{done.stdout}{done.stderr}"
        counts = ET.parse(report).getroot().find("testsuite")  # noqa: S314 - the file is our own
    assert counts is not None
    assert int(counts.attrib["tests"]) > 0, "it has no tests"
    assert int(counts.attrib["skipped"]) == 0, f"it skips tests:\n{done.stdout}"
