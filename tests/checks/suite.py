"""The project's own tests pass, all of them.

Some are about what lies below authentication: the process, HTTP, frames, Redis and what may happen
to it. These run with every combination of the other options, but with one kind of authentication.
"""

import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.process import run
from tests.project import Project
from tests.venv import venv_bin

FULL = "jwt"

BELOW_AUTHENTICATION = (
    "test_autobahn.py",
    "test_bench.py",
    "test_chaos.py",
    "test_frame.py",
    "test_fuzz.py",
    "test_http_uvicorn.py",
    "test_leaks.py",
    "test_server.py",
    "test_wire*.py",
    "test_[!a]*_redis.py",
)

TIMEOUT_S = 600


def check_suite(project: Project) -> None:
    """Run the tests in a copy; none may fail or be skipped."""
    with TemporaryDirectory() as directory:
        copy = project.copy(Path(directory, "project"))
        report = Path(directory, "report.xml")
        command: list[str | Path] = [
            *(venv_bin(project) / "python", "-m", "pytest", "--quiet", f"--junitxml={report}"),
        ]
        if FULL not in project.combination.options:
            command += [f"--ignore-glob=tests/{name}" for name in BELOW_AUTHENTICATION]
        try:
            done = run(command, copy.root, timeout_s=TIMEOUT_S)
        except subprocess.TimeoutExpired as late:
            printed = (late.stdout or b"") + (late.stderr or b"")
            msg = f"its tests do not end:\n{printed.decode(errors='replace')}"
            raise AssertionError(msg) from late
        assert done.returncode == 0, f"its tests fail:\n{done.stdout}{done.stderr}"
        counts = ET.parse(report).getroot().find("testsuite")  # noqa: S314 - the file is our own
    assert counts is not None
    assert int(counts.attrib["tests"]) > 0, "it has no tests"
    assert int(counts.attrib["skipped"]) == 0, f"it skips tests:\n{done.stdout}"
