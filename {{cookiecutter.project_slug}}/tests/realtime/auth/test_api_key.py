"""API keys: stored as digests, presented in a header."""

import pytest
from structlog.testing import capture_logs

from app.realtime.auth.api_key import digest

from ..client import ConnectOptions
from ..live import Live, make_settings, run_service
from ..settings.test_settings import startup_error

KEYS = f"alice:{digest('key of alice')},ci-bot:{digest('key of bot')}"


def with_headers(live: Live, **headers: str) -> ConnectOptions:
    return ConnectOptions(f"ws://127.0.0.1:{live.port}/ws", headers)


@pytest.mark.parametrize(
    "headers", [{"Authorization": "Bearer key of bot"}, {"X-API-Key": "key of bot"}]
)
async def test_a_key_authenticates_its_name(headers: dict[str, str]) -> None:
    async with run_service(make_settings(api_keys=KEYS)) as live:
        client = await live.connect_with(with_headers(live, **headers))
        assert client.user == "ci-bot"
        assert client.welcome["expires_at"] is None


@pytest.mark.hostile(29)
@pytest.mark.parametrize("key", ["", "wrong", digest("key of bot"), "ci-bot", "x" * 5_000])
async def test_unknown_keys_are_refused(key: str) -> None:
    async with run_service(make_settings(api_keys=KEYS)) as live:
        options = with_headers(live, **{"X-API-Key": key} if key else {})
        client = await live.connect_with(options, welcomed=False)
        assert await client.closed() == (4500, "unauthorized")


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("", "is not set"),
        (",", "has no key"),
        ("alice", "name:digest"),
        ("alice:plaintext", "SHA-256"),
        (f"a:{'0' * 64},a:{'1' * 64}", "same name"),
        (f"a:{'0' * 64},b:{'0' * 64}", "same key"),
        ("a:", "name:digest"),
        (f"ci:{digest('')}", "empty key"),
        (f"ci:{digest(chr(10))}", "empty key"),
        (f"a:{'A' * 64}", "lower-case"),
        (f"a@b.c:{digest('a key')}", "a name of A-Z a-z 0-9 _ . -"),
    ],
)
def test_bad_keys_are_refused_at_startup(
    monkeypatch: pytest.MonkeyPatch, value: str, hint: str
) -> None:
    line = startup_error(monkeypatch, API_KEYS=value)
    assert line.startswith("error: API_KEYS: ")
    assert hint in line


def test_keys_are_not_shown() -> None:
    assert digest("key of bot") not in repr(make_settings(api_keys=KEYS))


@pytest.mark.parametrize(("key", "cause"), [("", "no key"), ("made-up", "unknown key")])
async def test_the_log_tells_why_a_key_is_refused(live: Live, key: str, cause: str) -> None:
    options = with_headers(live, **{"X-API-Key": key} if key else {})
    with capture_logs() as lines:
        client = await live.connect_with(options, welcomed=False)
        await client.closed()
    assert [line["cause"] for line in lines] == [cause]
    assert "made-up" not in str(lines)
