"""Settings of a team: lists, objects, other names; a wrong one is told by its whole name."""

from pathlib import Path

import pytest
from pydantic import AliasChoices, BaseModel, Field

from app.realtime import CommaSeparated, RealtimeSettings
from dev import fresh_secrets


class Smtp(BaseModel):
    """An object among the settings."""

    host: str
    port: int = 25


class Settings(RealtimeSettings, env_nested_delimiter="__"):
    """Settings as a team may add them."""

    smtp: Smtp = Smtp(host="localhost")
    admins: CommaSeparated[str] = ()
    prices: list[int] = Field(default=[])
    database: str = Field(default="", validation_alias="DB_URL")
    mirrors: list[str] = Field(default=[], validation_alias=AliasChoices("MIRRORS", "replicas"))


def load(monkeypatch: pytest.MonkeyPatch, directory: Path, text: str) -> Settings:
    """Load valid settings, to which ``.env`` adds these."""
    for name, value in fresh_secrets().items():
        monkeypatch.setenv(name, value)
    (directory / ".env").write_text(text, encoding="utf-8")
    monkeypatch.setitem(Settings.model_config, "env_file", directory / ".env")
    return Settings.load()


def test_own_settings_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "SMTP__HOST=mail\nADMINS=alice, bob\nPRICES=[1, 2]\nDB_URL=sqlite:\n"
    settings = load(monkeypatch, tmp_path, text)
    assert settings.smtp.host == "mail"
    assert settings.admins == ("alice", "bob")
    assert settings.prices == [1, 2]
    assert settings.database == "sqlite:"
    assert load(monkeypatch, tmp_path, 'MIRRORS=["a"]').mirrors == ["a"]
    assert load(monkeypatch, tmp_path, 'REPLICAS=["a"]').mirrors == ["a"]
    assert not capsys.readouterr().err


def test_a_file_may_have_one_with_another_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "value"
    file.write_text('["a"]', encoding="utf-8")
    assert load(monkeypatch, tmp_path, f"DB_URL_FILE={file}").database == '["a"]'
    for name in ("MIRRORS", "REPLICAS"):
        assert load(monkeypatch, tmp_path, f"{name}_FILE={file}").mirrors == ["a"]
    with pytest.raises(SystemExit, match=r"^error: REPLICAS_FILE: MIRRORS is set as well"):
        load(monkeypatch, tmp_path, f"REPLICAS_FILE={file}\nMIRRORS=[]")
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('SMTP={"port": 3}', "error: SMTP.host: is not set"),
        ("SMTP__PORT=x\nSMTP__HOST=mail", "error: SMTP.port: Input should be a valid integer"),
        ("PRICES=1,2", 'error: PRICES: is not valid JSON, such as ["a"] or {"a": 1}: '),
        ('PRICES=[1, "x"]', "error: PRICES: Input should be a valid integer"),
        ("REPLICAS=a,b", 'error: REPLICAS: is not valid JSON, such as ["a"] or {"a": 1}: '),
        ("SMTP=mail", 'error: SMTP: is not valid JSON, such as ["a"] or {"a": 1}: '),
    ],
)
def test_a_bad_setting_is_reported_by_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        load(monkeypatch, tmp_path, text)
    assert str(stop.value).startswith(complaint)
    assert len(str(stop.value).splitlines()) == 1
