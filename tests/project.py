"""A project that Cookiecutter made of the template."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cookiecutter.main import cookiecutter

from .combination import TEMPLATE, Combination

PROJECT_DIRECTORY = "{{cookiecutter.project_slug}}"
WORKING_FILES = ("__pycache__", ".venv", ".env", ".bench.json", ".*_cache", ".hypothesis")


@dataclass(frozen=True)
class Project:
    """Where a project is, what was asked for, and what Cookiecutter understood."""

    root: Path
    combination: Combination
    context: Mapping[str, Any]

    def files(self) -> list[Path]:
        """Return all files, relative to the project."""
        return sorted(
            path.relative_to(self.root) for path in self.root.rglob("*") if not path.is_dir()
        )

    def read(self, path: Path | str) -> str:
        """Return a file's text as it is, line endings included."""
        return (self.root / path).read_bytes().decode()

    def write(self, path: Path | str, text: str) -> None:
        """Write a file exactly so."""
        (self.root / path).write_bytes(text.encode())

    def copy(self, to: Path) -> "Project":
        """Return a copy, to run or to spoil."""
        shutil.copytree(self.root, to)
        return Project(to, self.combination, self.context)


def copy_template(to: Path) -> Path:
    """Copy what Cookiecutter needs, without what working on the template left in it."""
    ignore = shutil.ignore_patterns(*WORKING_FILES)
    shutil.copy(TEMPLATE / "cookiecutter.json", to)
    for name in ("hooks", PROJECT_DIRECTORY):
        shutil.copytree(TEMPLATE / name, to / name, ignore=ignore)
    return to


def bake(
    template: Path, output: Path, combination: Combination, texts: Mapping[str, str] | None = None
) -> Project:
    """Make a project, with free text or its defaults, whatever the user's own configuration is."""
    replays = output / "replays"
    with _temporary_files_in(output):
        root = cookiecutter(
            str(template),
            no_input=True,
            extra_context=dict(combination.answers) | dict(texts or {}),
            output_dir=str(output),
            # Settings in place of a user's, although the annotation says bool.
            default_config={"replay_dir": str(replays)},  # type: ignore[arg-type]
        )
    replay = json.loads((replays / f"{template.name}.json").read_text(encoding="utf-8"))
    return Project(Path(root), combination, replay["cookiecutter"])


@contextlib.contextmanager
def _temporary_files_in(directory: Path) -> Iterator[None]:
    # Cookiecutter leaves each rendered hook behind.
    rendered_hooks = directory / "rendered-hooks"
    rendered_hooks.mkdir(parents=True)
    before, tempfile.tempdir = tempfile.tempdir, str(rendered_hooks)
    try:
        yield
    finally:
        tempfile.tempdir = before
