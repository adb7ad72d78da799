"""What the project says of itself in ``pyproject.toml``, which lies beside this package."""

import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def project_name() -> str:
    """Return the project's name.

    Raises:
        ValueError: there is no ``pyproject.toml``, or no name in it.

    """
    try:
        name: str = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["name"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        msg = f"{PYPROJECT} does not name the project"
        raise ValueError(msg) from None
    return name
