"""Bake projects from the template."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_cookies.plugin import Cookies

from .combination import TEMPLATE, Combination

PROJECT_DIRECTORY = "{{cookiecutter.project_slug}}"
WORKING_FILES = ("__pycache__", ".venv", ".env", ".*_cache", ".hypothesis")


@dataclass(frozen=True)
class Project:
    """A baked project, the combination that was asked for, and Cookiecutter's context."""

    root: Path
    combination: Combination
    context: Mapping[str, Any]
    template: Path = TEMPLATE

    def files(self) -> list[Path]:
        """Return all files, relative to the project."""
        return sorted(
            path.relative_to(self.root) for path in self.root.rglob("*") if not path.is_dir()
        )

    def read(self, path: Path | str) -> str:
        """Return the text of a file with its line endings."""
        return (self.root / path).read_bytes().decode()

    def write(self, path: Path | str, text: str) -> None:
        """Write a file without changing line endings."""
        (self.root / path).write_bytes(text.encode())

    def copy(self, to: Path) -> "Project":
        """Return a copy that may be changed."""
        shutil.copytree(self.root, to)
        return replace(self, root=to)


def copy_template(to: Path) -> Path:
    """Copy the files that Cookiecutter needs, without caches and other working files."""
    ignore = shutil.ignore_patterns(*WORKING_FILES)
    shutil.copy(TEMPLATE / "cookiecutter.json", to)
    for name in ("hooks", PROJECT_DIRECTORY):
        shutil.copytree(TEMPLATE / name, to / name, ignore=ignore)
    return to


def bake(
    cookies: Cookies,
    template: Path,
    combination: Combination,
    texts: Mapping[str, str] | None = None,
) -> Project:
    """Bake a project; the user's own configuration of Cookiecutter has no effect."""
    answers = dict(combination.answers) | dict(texts or {})
    with _temporary_files_removed():
        result = cookies.bake(answers, template=str(template))
    if result.exception is not None:
        raise result.exception
    return Project(result.project_path, combination, result.context, template)


@contextlib.contextmanager
def _temporary_files_removed() -> Iterator[None]:
    # Cookiecutter does not remove rendered hooks.
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as tempfile.tempdir:
        try:
            yield
        finally:
            tempfile.tempdir = before
