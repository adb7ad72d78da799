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

STRICT_SETTINGS: dict[str, tuple[str, object]] = {
    "strict=True": ("strict", True),
    'extra="forbid"': ("extra_fields_behavior", "forbid"),
    "allow_inf_nan=False": ("allow_inf_nan", False),
}
"""Settings of a `ConfigDict` that make a class as strict as a command, and their schema keys."""

OF_ROOT_MODELS = {"extra_fields_behavior": "forbid"}
"""Taken as set in root models: they have no fields, so pydantic does not allow this setting."""


def _parts(schema: object) -> Iterator[dict[str, Any]]:
    """Yield all objects in a schema, but not those in its values, such as a default."""
    unread = [schema]
    for each in unread:
        if isinstance(each, dict):
            yield each
            is_schema = isinstance(each.get("type"), str)  # not fields by name, such as `default`
            unread += [each[key] for key in each if not (is_schema and key in VALUES)]
        elif isinstance(each, list | tuple):
            unread += each


def check_strict(schema: object) -> None:
    """Check that no class accepts what a command would refuse.

    By default, a dataclass and a `TypedDict` inherit the command's strictness; a model does not.

    Raises:
        TypeError: a class lacks some of `STRICT_SETTINGS`.
    """
    for part in _parts(schema):
        if part.get("type") in CLASSES:
            is_root = part.get("root_model", False)
            config = (OF_ROOT_MODELS if is_root else {}) | part.get("config", {})
            missing = [name for name, item in STRICT_SETTINGS.items() if item not in config.items()]
            if missing:
                is_model = part["type"] == "model"
                name = "model_config" if is_model else "__pydantic_config__"
                can_derive = is_model and not is_root
                advice = f", or derive it from {StrictModel.__name__}" if can_derive else ""
                raise TypeError(
                    f"{part['cls'].__name__} in a command is not strict: give it"
                    f" `{name} = ConfigDict({', '.join(missing)})`{advice}"
                )


def field_names(schema: object) -> Iterator[str]:
    """Yield the name and the alias of each field."""
    for part in _parts(schema):
        match part:
            case {"fields": dict(fields)}:
                yield from fields
            case {"type": "dataclass-field", "name": name}:
                yield name
        yield from _names_in(part.get("validation_alias"))


def _names_in(alias: object) -> Iterator[str]:
    """Yield the names in an alias, which may be a path, or a list of choices."""
    if isinstance(alias, str):
        yield alias
    elif isinstance(alias, list):
        for part in alias:
            yield from _names_in(part)
