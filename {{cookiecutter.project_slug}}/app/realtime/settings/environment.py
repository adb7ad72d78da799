"""Settings that are read from files (``NAME_FILE``), and unknown names in ``.env``."""

from pathlib import Path
from typing import Any

from pydantic import AliasChoices, AliasPath
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsError


def read_files(settings: type[BaseSettings]) -> dict[str, Any]:
    """Return the settings that are in files: the file at ``METRICS_KEY_FILE`` has ``METRICS_KEY``.

    Raises:
        SettingsError: a file cannot be read; its setting is set as well, in the same place; or a
            list or an object is not JSON.
    """
    environment, env_file = EnvSettingsSource(settings), DotEnvSettingsSource(settings)
    values = {}
    for field_name, field in settings.model_fields.items():
        names = setting_names(field_name, field)
        keys = {key.lower() for name in names for key in (name, f"{name}_file")}
        variables = (environment if keys & environment.env_vars.keys() else env_file).env_vars
        for name in names:
            text, place = variables.get(name.lower()), f"{name.upper()}:"
            path = variables.get(f"{name}_file".lower())
            if path:
                if given := [other.upper() for other in names if other.lower() in variables]:
                    problem = f"{given[0]} is set as well; leave one of them out"
                    raise SettingsError(f"{name.upper()}_FILE: {problem}")
                text, place = _read_file(name.upper(), path), f"{name.upper()}_FILE: {path}"
            try:  # decodes a list or an object
                value = environment.prepare_field_value(name, field, text, False)
            except ValueError as failure:
                example = '["a"] or {"a": 1}'
                msg = f"{place} is not valid JSON, such as {example}: {failure}"
                raise SettingsError(msg) from None
            if path:
                values[name] = value
    return values


def setting_names(field_name: str, field: FieldInfo) -> list[str]:
    """Return the names of the variables that may set a field: its aliases, or else its own name."""
    alias = field.validation_alias or field_name
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return [str(each.path[0]) if isinstance(each, AliasPath) else each for each in choices]


def _read_file(name: str, path: str) -> str:
    try:
        value = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        value = ""
    if not value:
        msg = f"{name}_FILE: {path} is not a text file that this process can read, or is empty"
        raise SettingsError(msg)
    return value


def unknown_names(settings: type[BaseSettings]) -> list[str]:
    """Return the names in ``.env`` that are not settings; they may belong to other programs."""
    fields = settings.model_fields.items()
    known = {name.lower() for field in fields for name in setting_names(*field)}
    known |= {f"{name}_file" for name in known}
    names = DotEnvSettingsSource(settings).env_vars
    # A variable may set a part of an object, such as SMTP__HOST. No name has a line break.
    delimiter = settings.model_config.get("env_nested_delimiter") or "\n"
    return sorted(name.upper() for name in names if name.split(delimiter)[0] not in known)
