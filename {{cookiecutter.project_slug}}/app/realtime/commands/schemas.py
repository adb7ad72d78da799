"""Checks of the commands' core schema: strictness, and names of fields.

https://docs.pydantic.dev/latest/api/pydantic_core_schema/
"""

from collections.abc import Iterator
from typing import Any

from ..protocol import StrictModel

CLASSES = ("model", "dataclass", "typed-dict")
"""Types of the schemas of classes."""

VALUES = ("default", "expected", "metadata")
"""Keys of a schema whose values are not schemas."""


def _parts(schema: object) -> Iterator[dict[str, Any]]:
    """Yield all objects in a schema, but not those in its values, such as a default."""
    unread = [schema]
    for each in unread:
        if isinstance(each, dict):
            yield each
            is_schema = isinstance(each.get("type"), str)  # not fields, which may have any name
            unread += [each[key] for key in each if not (is_schema and key in VALUES)]
        elif isinstance(each, list | tuple):
            unread += each


def check_strict(schema: object) -> None:
    """Check that no class accepts what a command would refuse.

    A dataclass and a `TypedDict` are as strict as the command, but a plain model is not.

    Raises:
        TypeError: a class is not strict, or accepts unknown fields.
    """
    for part in _parts(schema):
        if part.get("type") not in CLASSES:
            continue
        config, is_root = part.get("config", {}), part.get("root_model", False)
        if config.get("strict") is not True:
            problem = "is not strict"
        elif config.get("extra_fields_behavior") != "forbid" and not is_root:
            problem = "accepts unknown fields"
        else:
            continue
        advice = f"derive it from {StrictModel.__name__}, or make it a standard dataclass"
        if is_root:
            advice = "give it `model_config = ConfigDict(strict=True)`"
        raise TypeError(f"{part['cls'].__name__} in a command {problem}: {advice}")


def field_names(schema: object) -> Iterator[str]:
    """Yield the name and the alias of each field."""
    for part in _parts(schema):
        match part:
            case {"fields": dict(fields)}:
                yield from fields
            case {"type": "dataclass-field", "name": name}:
                yield name
        if isinstance(alias := part.get("validation_alias"), str):
            yield alias
