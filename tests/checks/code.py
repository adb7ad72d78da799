"""The project passes its own tools with its own configuration."""

import os

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


def check_types(project: Project) -> None:
    """Run mypy, which the project sets to strict."""
    # Several mypy processes cannot share a cache.
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    cache = CACHE / "mypy" / f"{venv_key(project)}-{worker}"
    check_output([venv_bin(project) / "python", "-m", "mypy", "--cache-dir", cache], project.root)


def check_imports(project: Project) -> None:
    """Run `lint-imports`."""
    check_output([venv_bin(project) / "lint-imports", "--no-cache"], project.root)
