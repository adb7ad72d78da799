"""Settings of a team: lists, objects and secrets in files; their order, and unreadable files."""

import errno
import os
from pathlib import Path

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import DotEnvSettingsSource

from app.realtime import RealtimeSettings
from dev import fresh_secrets

from ..live import make_settings
from .test_settings import load_with_env_file


class Settings(RealtimeSettings):
    """Settings as a team may add them."""

    admins: list[str] = Field(default=[])
    prices: dict[str, int] = Field(default={})


def load(monkeypatch: pytest.MonkeyPatch, name: str, path: Path, text: str) -> Settings:
    """Load valid settings, to which a file adds one."""
    path.write_text(text, encoding="utf-8")
    for each, value in {**fresh_secrets(), f"{name}_FILE": str(path)}.items():
        monkeypatch.setenv(each, value)
    monkeypatch.setitem(Settings.model_config, "env_file", None)
    return Settings.load()


def test_a_file_may_have_a_list_or_an_object(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    load(monkeypatch, "ADMINS", tmp_path / "admins", '["alice", "bob"]\n')
    settings = load(monkeypatch, "PRICES", tmp_path / "prices", '{"tea": 3}\n')
    assert (settings.admins, settings.prices) == (["alice", "bob"], {"tea": 3})


def test_the_items_of_some_lists_are_between_commas(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    origins = "https://a.test, https://b.test"
    settings = load(monkeypatch, "ALLOWED_ORIGINS", tmp_path / "origins", origins)
    assert settings.allowed_origins == make_settings(allowed_origins=origins).allowed_origins


def test_a_file_that_is_not_json_has_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "admins"
    with pytest.raises(SystemExit) as stop:
        load(monkeypatch, "ADMINS", path, '["alice",\nbob]')
    assert str(stop.value).startswith(f"error: ADMINS_FILE: {path} is not valid JSON, ")
    assert len(str(stop.value).splitlines()) == 1


def test_equal_secrets_of_the_team_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithSecrets(Settings):
        smtp_password: SecretStr = SecretStr("")
        sms_token: SecretStr = SecretStr("")

    for name, value in fresh_secrets().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(WithSecrets.model_config, "env_file", None)
    assert WithSecrets.load().sms_token == SecretStr("")


def test_an_env_file_that_is_not_utf_8_has_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_bytes("# caf\xe9".encode("latin-1"))
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    with pytest.raises(SystemExit, match=r"^error: \.env: is not a text file "):
        Settings.load()


@pytest.mark.parametrize("name", ["HOST", "PORT", "ALLOWED_ORIGINS", "METRICS_KEY"])
def test_a_setting_of_only_spaces_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    with pytest.raises(SystemExit, match=f"^error: {name}: has only spaces"):
        load_with_env_file(monkeypatch, tmp_path, f"{name}='  '\n")


def test_each_setting_of_spaces_has_a_line_beside_those_of_other_mistakes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stop:
        load_with_env_file(monkeypatch, tmp_path, "HOST=' '\nLOG_LEVEL=' '\nPORT=http\n")
    named = {line.split(":")[1].strip() for line in str(stop.value).splitlines()}
    assert named == {"HOST", "LOG_LEVEL", "PORT"}


def test_the_environment_counts_before_the_env_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "port").write_text("1", encoding="utf-8")
    by_file = f"PORT_FILE={tmp_path / 'port'}\n"
    monkeypatch.setenv("PORT", "2")
    assert load_with_env_file(monkeypatch, tmp_path, by_file).port == 2
    monkeypatch.delenv("PORT")
    monkeypatch.setenv("PORT_FILE", str(tmp_path / "port"))
    assert load_with_env_file(monkeypatch, tmp_path, "PORT=2\n").port == 1


def test_an_env_file_that_cannot_be_read_has_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(DotEnvSettingsSource, "_static_read_env_file", refuse)
    with pytest.raises(SystemExit, match=r"^error: \.env: is not a text file that "):
        load_with_env_file(monkeypatch, tmp_path, "PORT=1\n")
