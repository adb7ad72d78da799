"""The tools for development do what the README says."""

import re
import shutil
import stat
from pathlib import Path

import pytest

from app.settings import Settings
from dev import env, fresh_secrets

PROJECT = Path(__file__).parent.parent


def test_the_first_env_file_has_fresh_secrets_and_starts_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(PROJECT / ".env.example", tmp_path)
    monkeypatch.chdir(tmp_path)
    env.main()
    env_file = tmp_path / ".env"
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    assert Settings.load().environment == "development"
    content = env_file.read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="exists already"):
        env.main()
    assert env_file.read_text(encoding="utf-8") == content


def test_the_example_names_every_setting_and_its_default() -> None:
    example = (PROJECT / ".env.example").read_text(encoding="utf-8")
    named = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", example, re.MULTILINE))
    fields = {name.upper(): field for name, field in Settings.model_fields.items()}
    assert set(named) == set(fields)
    shown = dict(re.findall(r"^#([A-Z_]+)=(.*)$", example, re.MULTILINE))
    for name, value in shown.items():
        default = fields[name].default
        default = ",".join(default) if isinstance(default, tuple) else default
        assert value.lower() == ("" if default is None else str(default).lower()), name


def test_a_secret_without_a_place_is_an_error() -> None:
    with pytest.raises(ValueError, match="has no line"):
        env.fill("HOST=127.0.0.1\n", fresh_secrets())
