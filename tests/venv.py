"""Virtual environments, cached between runs: one for each distinct lock file.

The project's Makefile makes them with uv, which takes a twentieth of pip's time. `package_bin` and
`npm_directory` install other packages.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from .combination import TEMPLATE
from .project import Project

CACHE = TEMPLATE / ".cache"
LOCK = "requirements-dev.lock"

UV = Path(sys.executable).with_name("uv")

# Variables of an outer `make test`.
FROM_MAKE = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")


def venv_key(project: Project) -> str:
    """Return a key for the pinned packages and the Python."""
    return _key(project.root / LOCK)


def _key(lock: Path) -> str:
    parts = (lock.read_text(encoding="utf-8"), sys.version, sys.base_prefix)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def venv_bin(project: Project) -> Path:
    """Return the `bin` directory of the project's environment; make it if necessary."""
    return lock_bin(project.root / "Makefile", project.root / LOCK)


def copy_venv(project: Project) -> None:
    """Give a project an environment of its own, as its Makefile does."""
    # Other tests may be writing bytecode there.
    without_bytecode = shutil.ignore_patterns("__pycache__")
    own = project.root / ".venv"
    shutil.copytree(venv_bin(project).parent, own, symlinks=True, ignore=without_bytecode)
    (own / "ready").touch()


def add_packages(project: Project, *requirements: str) -> None:
    """Install packages into a project's own environment, beside those of its lock file."""
    own = ("--python", ".venv", "--constraint", LOCK)
    _run(project.root, UV, "pip", "install", "--quiet", *own, *requirements)


def lock_bin(makefile: Path, lock: Path) -> Path:
    """Return the `bin` directory of the environment that a Makefile makes from a lock file."""
    return _made_once(_key(lock), lambda directory: _make(directory, makefile, lock)) / ".venv/bin"


def package_bin(*requirements: str) -> Path:
    """Return the `bin` directory of an environment with these packages."""
    name = "-".join(requirements)
    return _made_once(name, lambda directory: _install(directory, requirements)) / ".venv/bin"


def npm_directory(*packages: str) -> Path:
    """Return a directory in which npm has installed packages; skip the test if it cannot."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip(f"needs npm for {' and '.join(packages)}: apt-get install nodejs npm")
    name = "-".join(packages).replace("/", "-")
    return _made_once(name, lambda directory: _install_by_npm(directory, npm, packages))


def _made_once(name: str, make: Callable[[Path], None]) -> Path:
    directory = CACHE / "venvs" / name
    directory.parent.mkdir(parents=True, exist_ok=True)
    # One worker makes it; the others wait.
    with directory.with_name(f"{name}.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not (directory / ".venv" / "ready").exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            make(directory)
    return directory


def _make(directory: Path, makefile: Path, lock: Path) -> None:
    shutil.copy(makefile, directory / "Makefile")
    shutil.copy(lock, directory / LOCK)
    _run(directory, "make", ".venv/ready", f"PYTHON={sys.executable}")


def _install(directory: Path, requirements: Sequence[str]) -> None:
    _run(directory, UV, "venv", "--quiet", "--no-project", "--python", sys.executable, ".venv")
    _run(directory, UV, "pip", "install", "--quiet", *requirements)
    (directory / ".venv" / "ready").touch()


def _install_by_npm(directory: Path, npm: str, packages: Sequence[str]) -> None:
    try:
        _run(directory, npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", *packages)
    except AssertionError as failure:
        if "ETARGET" in str(failure):  # the registry answers: there is no such version
            raise
        pytest.skip(f"needs npm's registry for {' and '.join(packages)}")
    (directory / ".venv").mkdir()  # where the others have it, too
    (directory / ".venv" / "ready").touch()


def _run(directory: Path, *command: str | Path) -> None:
    env = {name: value for name, value in os.environ.items() if name not in FROM_MAKE}
    done = subprocess.run(
        command,
        cwd=directory,
        env=env | {"PATH": f"{UV.parent}:{env['PATH']}"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, (
        f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}"
    )
