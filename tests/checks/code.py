"""The project passes its own tools with its own configuration."""

import fcntl

from tests.process import check_output
from tests.project import Project
from tests.venv import CACHE, venv_bin, venv_key


def check_format(project: Project) -> None:
    """Run `ruff format --check`."""
    check_output(
        [venv_bin(project) / "ruff", "format", "--check", "--diff", "--no-cache"], project.root
    )


def check_lint(project: Project) -> None:
    """Run `ruff check`."""
    check_output([venv_bin(project) / "ruff", "check", "--no-cache"], project.root)


def check_types(project: Project, *paths: str) -> None:
    """Run mypy, which the project sets to strict, on these paths or all."""
    cache = CACHE / "mypy" / venv_key(project)
    cache.mkdir(parents=True, exist_ok=True)
    # Several mypy processes cannot use a cache at a time.
    with cache.with_suffix(".lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        python = venv_bin(project) / "python"
        check_output([python, "-m", "mypy", "--cache-dir", cache, *paths], project.root)


def check_imports(project: Project) -> None:
    """Run `lint-imports`."""
    check_output([venv_bin(project) / "lint-imports", "--no-cache"], project.root)
