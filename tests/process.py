"""Other programs, run without what this one's environment would tell them."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

# The rest could change what is tested: a project's settings are environment variables too.
INHERITED = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR")


def environment(**more: str) -> dict[str, str]:
    """Return an environment with what programs need, and no more."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ} | more


def run(
    command: Sequence[str | Path],
    cwd: Path,
    *,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout_s: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; what it prints is in the result."""
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
    """Return what a command prints; fail with all of it if the command does."""
    done = run(command, cwd, env=env)
    line = " ".join([Path(command[0]).name, *map(str, command[1:])])
    assert done.returncode == 0, f"{line} failed:\n{done.stdout}{done.stderr}"
    return done.stdout
