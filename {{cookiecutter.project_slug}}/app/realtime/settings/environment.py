"""Settings that are read from files (``NAME_FILE``), and unknown names in ``.env``."""

from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsError


def read_files(settings: type[BaseSettings]) -> dict[str, Any]:
    """Return the settings that are in files: ``METRICS_KEY_FILE`` names one with ``METRICS_KEY``.

    Raises:
        SettingsError: a file cannot be read, its list or object is not JSON, or its setting is set
            as well.

    """
    environment = EnvSettingsSource(settings)
    variables = {**DotEnvSettingsSource(settings).env_vars, **environment.env_vars}
    values = {}
    for name, field in settings.model_fields.items():
        if path := variables.get(f"{name}_file"):
            text = _read_file(name.upper(), path, is_set=name in variables)
            try:  # decodes a list or an object
                values[name] = environment.prepare_field_value(name, field, text, False)
            except ValueError as failure:
                msg = f"{name.upper()}_FILE: {path} is not valid JSON: {failure}"
                raise SettingsError(msg) from None
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
    known = {name for field in settings.model_fields for name in (field, f"{field}_file")}
    return sorted(name.upper() for name in DotEnvSettingsSource(settings).env_vars.keys() - known)
