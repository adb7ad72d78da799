"""One virtual environment for each distinct ``requirements-dev.lock``, kept between runs.

It is made as the project's users make theirs: by its own Makefile.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .combination import TEMPLATE
from .project import Project

CACHE = TEMPLATE / ".cache"
LOCK = "requirements-dev.lock"

# What `make test` tells to every make below it.
FROM_MAKE = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")


def venv_key(project: Project) -> str:
    """Return what tells apart environments: the pinned packages and the Python."""
    parts = (project.read(LOCK), sys.version, sys.base_prefix)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def venv_bin(project: Project) -> Path:
    """Return the programs of the project's environment, which is made if it is not there."""
    directory = CACHE / "venvs" / venv_key(project)
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Workers wait for the one that makes it.
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / ".venv" / "ready").exists():
            _make(directory, project)
    return directory / ".venv" / "bin"


def _make(directory: Path, project: Project) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name in ("Makefile", LOCK):
        shutil.copy(project.root / name, directory)
    done = subprocess.run(
        ["make", ".venv/ready", f"PYTHON={sys.executable}"],  # noqa: S607 - whichever is on PATH
        cwd=directory,
        env={name: value for name, value in os.environ.items() if name not in FROM_MAKE},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, f"make .venv/ready failed:\n{done.stdout}{done.stderr}"
