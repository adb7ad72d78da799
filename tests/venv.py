"""One virtual environment for each distinct lock file, kept between runs.

It is made as the project's users make theirs: by its own Makefile. Packages of
no lock file have environments of their own, too.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
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
    return _made_once(_key(lock), lambda directory: _make(directory, makefile, lock))


def package_bin(*requirements: str) -> Path:
    """Return the programs of an environment with packages, as pip installs them for anybody."""
    name = "-".join(requirements)
    return _made_once(name, lambda directory: _install(directory, requirements))


def _made_once(name: str, make: Callable[[Path], None]) -> Path:
    directory = CACHE / "venvs" / name
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Workers wait for the one that makes it.
    with directory.with_name(f"{name}.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not (directory / ".venv" / "ready").exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            make(directory)
    return directory / ".venv" / "bin"


def _make(directory: Path, makefile: Path, lock: Path) -> None:
    shutil.copy(makefile, directory / "Makefile")
    shutil.copy(lock, directory / LOCK)
    _run(directory, "make", ".venv/ready", f"PYTHON={sys.executable}")


def _install(directory: Path, requirements: Sequence[str]) -> None:
    _run(directory, sys.executable, "-m", "venv", ".venv")
    _run(directory, ".venv/bin/python", "-m", "pip", "install", "--quiet", *requirements)
    (directory / ".venv" / "ready").touch()


def _run(directory: Path, *command: str) -> None:
    done = subprocess.run(
        command,
        cwd=directory,
        env={name: value for name, value in os.environ.items() if name not in FROM_MAKE},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}"
