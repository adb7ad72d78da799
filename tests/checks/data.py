"""TOML, YAML and JSON files are valid."""

import json
import tomllib
from collections.abc import Callable

import yaml

from tests.project import Project

PARSERS: dict[str, Callable[[str], object]] = {
    ".json": json.loads,
    ".toml": tomllib.loads,
    ".yaml": lambda text: list(yaml.safe_load_all(text)),
    ".yml": yaml.safe_load,
}


def check_data(project: Project) -> None:
    """Parse every such file; none may be empty."""
    for path in project.files():
        parse = PARSERS.get(path.suffix)
        if parse is None:
            continue
        try:
            content = parse(project.read(path))
        except (ValueError, yaml.YAMLError) as failure:
            msg = f"{path}: {failure}"
            raise AssertionError(msg) from failure
        assert content not in (None, {}, [], [None]), f"{path} has no content"
