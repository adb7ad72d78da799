"""One virtual environment for each distinct lock file, kept between runs.

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
    return _key(project.root / LOCK)


def _key(lock: Path) -> str:
    parts = (lock.read_text(encoding="utf-8"), sys.version, sys.base_prefix)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def venv_bin(project: Project) -> Path:
    """Return the programs of the project's environment, which is made if it is not there."""
    return lock_bin(project.root / "Makefile", project.root / LOCK)


def lock_bin(makefile: Path, lock: Path) -> Path:
    """Return the programs of the environment that a Makefile makes of a lock file."""
    directory = CACHE / "venvs" / _key(lock)
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Workers wait for the one that makes it.
    with directory.with_suffix(".lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not (directory / ".venv" / "ready").exists():
            _make(directory, makefile, lock)
    return directory / ".venv" / "bin"


def _make(directory: Path, makefile: Path, lock: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    shutil.copy(makefile, directory / "Makefile")
    shutil.copy(lock, directory / LOCK)
    done = subprocess.run(
        ["make", ".venv/ready", f"PYTHON={sys.executable}"],  # noqa: S607 - whichever is on PATH
        cwd=directory,
        env={name: value for name, value in os.environ.items() if name not in FROM_MAKE},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, f"make .venv/ready failed:\n{done.stdout}{done.stderr}"
