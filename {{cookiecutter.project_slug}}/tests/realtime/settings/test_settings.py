"""Bad settings stop the service with a line that says how to correct them."""

from pathlib import Path
from secrets import token_urlsafe

import pytest

from app.realtime import RealtimeSettings
from dev import fresh_secrets

from ..live import make_settings


def startup_error(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """Start with these variables in a valid environment; return the error."""
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
        ("HOST", "localhost:8000", "an address or a name alone"),
        ("HOST", "http://localhost", "an address or a name alone"),
        ("WORKERS", "2", "each other's clients"),
        ("WORKERS", "100000", "less than or equal to 1024"),
        ("ENVIRONMENT", "staging", "'development' or 'production'"),
        ("USER_LIMIT_POLICY", "maybe", "'replace_oldest' or 'refuse_newest'"),
        ("ALLOWED_ORIGINS", "*", "https://example.com"),
        ("ALLOWED_ORIGINS", "https://*.example.com", "one host"),
        ("ALLOWED_ORIGINS", "https://example.com/", "never matches"),
        ("ALLOWED_ORIGINS", "https://example.com/chat?a=b", "never matches"),
        ("ALLOWED_ORIGINS", "https://alice@example.com", "never matches"),
        ("ALLOWED_ORIGINS", "example.com", "https://example.com"),
        ("ALLOWED_ORIGINS", "https://example.com:443", "unless it is the default"),
        ("ALLOWED_ORIGINS", "https://example.com:", "never matches"),
        ("ALLOWED_ORIGINS", "https://example.com:08443", "never matches"),
        ("ALLOWED_ORIGINS", "https://example.com:99999", "never matches"),
        ("ALLOWED_ORIGINS", "https://exa mple.com", "never matches"),
        ("ALLOWED_ORIGINS", "https://münchen.example", "never matches"),
        ("ALLOWED_ORIGINS", "https://10.0.0.256", "never matches"),
        ("ALLOWED_ORIGINS", "http://[0:0:0:0:0:0:0:1]:8000", "never matches"),
        ("ALLOWED_ORIGINS", "wss://example.com", "https://example.com"),
        ("SHUTDOWN_GRACE_S", "1000000000000", "less than or equal to 31536000"),
        ("TCP_USER_TIMEOUT_S", "inf", "less than or equal to 86400"),
        ("FORWARDED_ALLOW_IPS", "proxy", "10.0.0.0/8"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.1/8", "10.0.0.0/8"),
        ("FORWARDED_ALLOW_IPS", "*, 10.0.0.1", "* alone"),
        ("MAX_MESSAGES_PER_S", "0", "greater than 0"),
        ("MAX_UNSENT_BYTES", "131071", "at least twice MAX_MESSAGE_BYTES"),
        # {% if cookiecutter.rooms %}
        ("MAX_UNSENT_BYTES", "327679", "HISTORY_BYTES + MAX_MESSAGE_BYTES"),
        # {% endif %}
        ("BACKEND_KEY", "short", "at least 32"),
        ("BACKEND_KEY", " " * 40, "has only spaces"),
        ("BACKEND_KEY", "changeme" * 4, "token_urlsafe(32)"),
        ("BACKEND_KEY", "a sentence of more than 32 bytes", "without spaces"),
        ("METRICS_KEY", "ein-Schlüssel-aus-mehr-als-32-Bytes", "must be ASCII"),
    ],
)
def test_each_mistake_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, hint: str
) -> None:
    lines = startup_error(monkeypatch, **{name: value}).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {name}: ")
    assert hint in lines[0]


def test_every_duration_has_an_upper_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = RealtimeSettings.model_fields.items()
    times = [key.upper() for key, each in fields if key.endswith("_s") and each.annotation is float]
    assert "TCP_USER_TIMEOUT_S" in times
    for value in ("inf", "nan", "1e300"):
        lines = startup_error(monkeypatch, **dict.fromkeys(times, value)).splitlines()
        assert sorted(line.split(":")[1].strip() for line in lines) == sorted(times)


def test_equal_secrets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    key = token_urlsafe(32)
    line = startup_error(monkeypatch, BACKEND_KEY=key, METRICS_KEY=key)
    assert "_KEY: is the same as " in line
    assert {"BACKEND_KEY", "METRICS_KEY"} <= set(line.replace(":", " ").replace(";", " ").split())
    assert key not in line


def test_spaces_around_a_value_are_ignored() -> None:
    assert make_settings(host=" 127.0.0.1 ").host == "127.0.0.1"


def test_every_mistake_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = startup_error(monkeypatch, PORT="x", MAX_CONNECTIONS="y").splitlines()
    assert sorted(line.split(":")[1].strip() for line in lines) == ["MAX_CONNECTIONS", "PORT"]


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "hunter2" not in startup_error(monkeypatch, BACKEND_KEY="hunter2")
    settings = make_settings()
    assert settings.backend_key is not None
    assert settings.backend_key.get_secret_value() not in repr(settings)


# {% if cookiecutter.redis %}
def test_each_worker_needs_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    error = startup_error(monkeypatch, PORT="65534", WORKERS="2", REDIS_URL="redis://localhost")
    assert "PORT: must be at most 65533" in error


# {% endif %}
def load_with_env_file(
    monkeypatch: pytest.MonkeyPatch, directory: Path, text: str
) -> RealtimeSettings:
    """Load valid settings, together with a ``.env`` file that has this text."""
    for name, value in fresh_secrets().items():
        monkeypatch.setenv(name, value)
    (directory / ".env").write_text(text, encoding="utf-8")
    monkeypatch.setitem(RealtimeSettings.model_config, "env_file", directory / ".env")
    return RealtimeSettings.load()


def test_an_unknown_name_in_the_env_file_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_with_env_file(monkeypatch, tmp_path, "MAX_CONECTIONS=1\nPORT=1\n")
    assert settings.port == 1
    assert capsys.readouterr().err.startswith("warning: MAX_CONECTIONS: is not a setting")


@pytest.mark.parametrize("env_file", [True, False])
def test_a_file_may_have_the_value_of_a_setting(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    env_file: bool,
) -> None:
    file = tmp_path / "key"
    file.write_text("metrics-key" * 3 + "\n", encoding="utf-8")
    if not env_file:
        monkeypatch.setenv("METRICS_KEY_FILE", str(file))
    text = f"METRICS_KEY_FILE={file}\n" if env_file else ""
    settings = load_with_env_file(monkeypatch, tmp_path, text)
    assert settings.metrics_key is not None
    assert settings.metrics_key.get_secret_value() == "metrics-key" * 3
    assert not capsys.readouterr().err


def test_an_unusable_file_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    missing = f"error: METRICS_KEY_FILE: {file} is not a text file that this process can read"
    assert startup_error(monkeypatch, METRICS_KEY_FILE=str(file)).startswith(missing)
    file.write_text("\n", encoding="utf-8")
    assert startup_error(monkeypatch, METRICS_KEY_FILE=str(file)).startswith(missing)
    file.write_text("short", encoding="utf-8")
    assert "at least 32" in startup_error(monkeypatch, METRICS_KEY_FILE=str(file))
    both = startup_error(monkeypatch, METRICS_KEY_FILE=str(file), METRICS_KEY="metrics-key" * 3)
    assert both == "error: METRICS_KEY_FILE: METRICS_KEY is set as well; leave one of them out"


def test_lists_are_comma_separated() -> None:
    origins = "https://a.example, http://B.example:8080, http://[::1]:3000, http://127.0.0.1"
    assert make_settings(allowed_origins=origins).allowed_origins == (
        "https://a.example",
        "http://b.example:8080",
        "http://[::1]:3000",
        "http://127.0.0.1",
    )
