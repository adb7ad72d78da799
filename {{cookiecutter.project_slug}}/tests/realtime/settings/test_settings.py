"""Bad settings stop the service with a line that says how to correct them."""

import pytest

from app.realtime import RealtimeSettings

from ..live import make_settings


def complaint(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """Return the error for a valid environment with these variables replaced."""
    from dev import fresh_secrets

    for name, value in (fresh_secrets() | environment).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(RealtimeSettings.model_config, "env_file", None)
    with pytest.raises(SystemExit) as stop:
        RealtimeSettings.load()
    return str(stop.value)


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("PORT", "http", "valid integer"),
        ("PORT", "65536", "less than or equal to 65535"),
        ("MAX_CONNECTIONS", "0", "greater than 0"),
        ("ENVIRONMENT", "staging", "'development' or 'production'"),
        ("USER_LIMIT_POLICY", "maybe", "'replace_oldest' or 'refuse_newest'"),
        ("ALLOWED_ORIGINS", "*", "https://example.com"),
        ("ALLOWED_ORIGINS", "https://*.example.com", "exactly one host"),
        ("ALLOWED_ORIGINS", "https://example.com/", "https://example.com"),
        ("ALLOWED_ORIGINS", "example.com", "https://example.com"),
        ("ALLOWED_ORIGINS", "https://example.com:443", "leave the default port out"),
        ("FORWARDED_ALLOW_IPS", "proxy", "10.0.0.0/8"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.1/8", "10.0.0.0/8"),
        ("FORWARDED_ALLOW_IPS", "*, 10.0.0.1", "* alone"),
        ("MAX_MESSAGES_PER_S", "0", "greater than 0"),
        ("BACKEND_KEY", "short", "at least 32"),
    ],
)
def test_each_mistake_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, hint: str
) -> None:
    lines = complaint(monkeypatch, **{name: value}).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {name}: ")
    assert hint in lines[0]


def test_every_mistake_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = complaint(monkeypatch, PORT="x", MAX_CONNECTIONS="y").splitlines()
    assert sorted(line.split(":")[1].strip() for line in lines) == ["MAX_CONNECTIONS", "PORT"]


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "hunter2" not in complaint(monkeypatch, BACKEND_KEY="hunter2")
    settings = make_settings()
    assert settings.backend_key is not None
    assert settings.backend_key.get_secret_value() not in repr(settings)


def test_a_misspelt_name_in_the_env_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    env_file = tmp_path_factory.mktemp("env") / ".env"
    env_file.write_text("MAX_CONECTIONS=1\n", encoding="utf-8")
    monkeypatch.setitem(RealtimeSettings.model_config, "env_file", env_file)
    with pytest.raises(SystemExit, match="error: MAX_CONECTIONS: is not a setting"):
        RealtimeSettings.load()


def test_lists_are_comma_separated() -> None:
    settings = make_settings(allowed_origins="https://a.example, http://B.example:8080")
    assert settings.allowed_origins == ("https://a.example", "http://b.example:8080")
