"""What pydantic's core schema of the commands says: whether each class is strict, and its fields.

https://docs.pydantic.dev/latest/api/pydantic_core_schema/
"""

from collections.abc import Iterator
from typing import Any

from ..protocol import StrictModel

CLASSES = ("model", "dataclass", "typed-dict")
"""Types of the schemas of classes with fields."""


def _parts(schema: object) -> Iterator[dict[str, Any]]:
    """Yield all objects in a schema."""
    unread = [schema]
    for each in unread:
        if isinstance(each, dict):
            yield each
            unread += each.values()
        elif isinstance(each, list | tuple):
            unread += each


def check_strict(schema: object) -> None:
    """Check that no class accepts what a command would refuse.

    A dataclass and a `TypedDict` are as strict as the command, but a plain model is not.

    Raises:
        TypeError: a class does not say how strict it is.

    """
    for part in _parts(schema):
        if part.get("type") in CLASSES and "strict" not in part.get("config", ()):
            advice = f"derive it from {StrictModel.__name__}, or make it a standard dataclass"
            raise TypeError(f"{part['cls'].__name__} in a command is not strict: {advice}")


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
