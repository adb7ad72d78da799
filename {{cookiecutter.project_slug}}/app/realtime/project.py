"""What ``pyproject.toml`` says of the project."""

import tomllib
from pathlib import Path
from typing import NamedTuple

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


class Project(NamedTuple):
    """The project's name, version and description."""

    name: str
    version: str
    description: str


def read_project() -> Project:
    """Read the file.

    Raises:
        ValueError: there is no such file, or it does not name the project.

    """
    try:
        fields = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
        return Project(*(fields[name] for name in Project._fields))
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        msg = f"{PYPROJECT} does not name the project"
        raise ValueError(msg) from None
