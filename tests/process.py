"""Run other programs with a minimal environment."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

# Other variables could change the tests: a project's settings are environment variables too.
INHERITED = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR")


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
    """Run a command and capture its output."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment() if env is None else env,
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=timeout_s,
        check=False,
    )


def check_output(
    command: Sequence[str | Path], cwd: Path, *, env: Mapping[str, str] | None = None
) -> str:
    """Return the output of a command; fail with it if the command fails."""
    done = run(command, cwd, env=env)
    line = " ".join([Path(command[0]).name, *map(str, command[1:])])
    assert done.returncode == 0, f"{line} failed:\n{done.stdout}{done.stderr}"
    return done.stdout
