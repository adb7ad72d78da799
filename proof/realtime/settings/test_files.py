"""Settings of a team: lists and objects, in files, and secrets; and a file that is no text."""

from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from app.realtime import RealtimeSettings
from dev import fresh_secrets

from ..live import make_settings


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


def test_equal_secrets_of_the_team_are_its_own_affair(monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(SystemExit, match=r"^error: \.env is not text in UTF-8$"):
        Settings.load()
