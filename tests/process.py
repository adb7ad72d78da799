"""Run other programs with a minimal environment."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import AnyStr

# Other variables could change the tests: a project's settings are environment variables too.
INHERITED = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR")

STOP_S = 30.0
"""How long tests of a project may take to end their own processes."""


def environment(**more: str) -> dict[str, str]:
    """Return a minimal environment."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ} | more


def run(
    command: Sequence[str | Path],
    cwd: Path,
    *,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout_s: float = 900,
) -> subprocess.CompletedProcess[str]:
    """Run a command and capture its output; end its process group at a timeout or an interrupt."""
    with subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env=environment() if env is None else env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        process_group=0,
    ) as process:
        try:
            stdout, stderr = process.communicate(stdin, timeout_s)
        except BaseException:
            end_group(process)
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def end_group(process: subprocess.Popen[AnyStr]) -> None:
    """End a process that leads its group, with the others of the group: SIGTERM, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)


def check_output(
    command: Sequence[str | Path], cwd: Path, *, env: Mapping[str, str] | None = None
) -> str:
    """Return the output of a command; fail with it if the command fails."""
    done = run(command, cwd, env=env)
    line = " ".join([Path(command[0]).name, *map(str, command[1:])])
    assert done.returncode == 0, f"{line} failed:\n{done.stdout}{done.stderr}"
    return done.stdout
