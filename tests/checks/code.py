"""The project's own tools have nothing to say, with its own configuration."""

import os

from tests.process import check_output
from tests.project import Project
from tests.venv import CACHE, venv_bin, venv_key


def check_format(project: Project) -> None:
    """Find nothing that ruff would format differently."""
    check_output(
        [venv_bin(project) / "ruff", "format", "--check", "--diff", "--no-cache"], project.root
    )


def check_lint(project: Project) -> None:
    """Find nothing that ruff complains of."""
    check_output([venv_bin(project) / "ruff", "check", "--no-cache"], project.root)


def check_types(project: Project) -> None:
    """Find nothing that mypy, which the project sets to strict, complains of."""
    # Mypy's cache is not made for several at a time.
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    cache = CACHE / "mypy" / f"{venv_key(project)}-{worker}"
    check_output([venv_bin(project) / "python", "-m", "mypy", "--cache-dir", cache], project.root)


def check_imports(project: Project) -> None:
    """Find no import against the project's contracts."""
    check_output([venv_bin(project) / "lint-imports", "--no-cache"], project.root)
