"""The project's name, version and description."""

import re
import tomllib
from importlib.metadata import metadata, packages_distributions
from pathlib import Path
from typing import NamedTuple

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


class Project(NamedTuple):
    """The project's name, version and description."""

    name: str
    version: str
    description: str

    @property
    def title(self) -> str:
        """The name as people read it: ``Support Chat`` for ``support-chat``."""
        return re.sub("[-_]", " ", self.name).title()


def read_project() -> Project:
    """Read ``pyproject.toml``, or the metadata of the installed package.

    Raises:
        ValueError: neither names the project.
    """
    try:
        if PYPROJECT.exists():
            fields = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
            return Project(*(fields[name] for name in Project._fields))
        installed = metadata(packages_distributions()[__name__.partition(".")[0]][0])
        return Project(installed["Name"], installed["Version"], installed["Summary"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        raise ValueError(f"{PYPROJECT} does not name the project") from None
