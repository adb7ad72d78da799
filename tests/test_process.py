"""Processes that tests have started end with them."""

import os
import signal
import subprocess
from pathlib import Path
from threading import Timer

from .combination import DEFAULT
from .conftest import Baker
from .process import end_group, environment
from .venv import venv_bin

DEADLINE_S = 60.0

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


def test_sigterm_ends_what_the_tests_of_a_project_have_started(
    baked: Baker, tmp_path: Path
) -> None:
    project = baked(DEFAULT).copy(tmp_path / "project")
    project.write("tests/realtime/redis/test_waiting.py", WAITING)
    with subprocess.Popen(
        [venv_bin(project) / "python", "-m", "pytest", "-s", "-k", "waiting"],
        cwd=project.root,
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
