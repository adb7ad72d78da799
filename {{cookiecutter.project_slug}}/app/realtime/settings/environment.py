"""Settings that are read from files (``NAME_FILE``), and unknown names in ``.env``."""

from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsError


def read_files(settings: type[BaseSettings]) -> dict[str, Any]:
    """Return the settings that are in files: ``METRICS_KEY_FILE`` names one with ``METRICS_KEY``.

    Raises:
        SettingsError: a file cannot be read, or its setting is set as well. A list or an object,
            in a file or not, is not JSON.

    """
    environment = EnvSettingsSource(settings)
    variables = {**DotEnvSettingsSource(settings).env_vars, **environment.env_vars}
    values = {}
    for name, field in settings.model_fields.items():
        text, place = variables.get(name), f"{name.upper()}:"
        if path := variables.get(f"{name}_file"):
            text = _read_file(name.upper(), path, is_set=name in variables)
            place = f"{name.upper()}_FILE: {path}"
        try:  # decodes a list or an object
            value = environment.prepare_field_value(name, field, text, False)
        except ValueError as failure:
            example = '["a"] or {"a": 1}'
            msg = f"{place} is not valid JSON, such as {example}: {failure}"
            raise SettingsError(msg) from None
        if path:
            values[name] = value
    return values


def _read_file(name: str, path: str, *, is_set: bool) -> str:
    if is_set:
        raise SettingsError(f"{name}_FILE: {name} is set as well; leave one of them out")
    try:
        value = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        value = ""
    if not value:
        msg = f"{name}_FILE: {path} is not a text file that this process can read, or is empty"
        raise SettingsError(msg)
    return value


def unknown_names(settings: type[BaseSettings]) -> list[str]:
    """Return the names in ``.env`` that are no settings; other programs may read it, too."""
    fields = settings.model_fields.items()
    known = {str(field.validation_alias or name).lower() for name, field in fields}
    known |= {f"{name}_file" for name in known}
    names = DotEnvSettingsSource(settings).env_vars
    # A part of an object has a name of its own, such as SMTP__HOST; no name has a line break.
    delimiter = settings.model_config.get("env_nested_delimiter") or "\n"
    return sorted(name.upper() for name in names if name.split(delimiter)[0] not in known)
