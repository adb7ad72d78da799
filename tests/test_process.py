"""Processes that tests have started end with them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Timer

import pytest

from .combination import DEFAULT, TEMPLATE
from .conftest import Baker
from .process import end_group, environment
from .project import Project
from .venv import venv_bin

DEADLINE_S = 300.0

WAITING = """\
import asyncio

from .valkey import run_valkey


async def test_waiting() -> None:
    async with run_valkey():
        print("waiting", flush=True)
        await asyncio.Event().wait()
"""


def test_a_command_ends_with_its_processes() -> None:
    script = f"(sleep {DEADLINE_S}; echo left) & echo started; wait"
    with subprocess.Popen(
        ["/bin/sh", "-c", script], stdout=subprocess.PIPE, encoding="utf-8", process_group=0
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        end_group(process)
        assert process.stdout.read() == ""


def suite_of(project: Project) -> tuple[list[str | Path], Path]:
    """Return the command of the project's own tests, and where to run it."""
    return [venv_bin(project) / "python", "-m", "pytest"], project.root


def proof_of(project: Project) -> tuple[list[str | Path], Path]:
    """Return the command of its proof, and where to run it."""
    proof = [sys.executable, "-m", "proof", "prove", "--project", str(project.root)]
    return [*proof, "--", "--numprocesses", "0"], TEMPLATE


@pytest.mark.parametrize("how", [suite_of, proof_of])
def test_sigterm_ends_what_the_tests_of_a_project_have_started(
    baked: Baker, tmp_path: Path, how: Callable[[Project], tuple[list[str | Path], Path]]
) -> None:
    project = baked(DEFAULT).copy(tmp_path / "project")
    project.write("tests/realtime/redis/test_waiting.py", WAITING)
    command, directory = how(project)
    with subprocess.Popen(
        [*command, "-s", "-k", "waiting"],
        cwd=directory,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # Valkey's too
        encoding="utf-8",
        process_group=0,
    ) as process:
        deadline = Timer(DEADLINE_S, os.killpg, (process.pid, signal.SIGKILL))
        deadline.start()
        assert process.stdout is not None
        assert any("waiting\n" in line for line in process.stdout)
        process.terminate()
        process.stdout.read()  # until all that write to it have ended
        assert deadline.is_alive()
        deadline.cancel()
