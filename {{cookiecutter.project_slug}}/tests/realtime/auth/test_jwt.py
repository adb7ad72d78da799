"""Tokens: verification, transport, expiry and refresh."""

import time
from base64 import b64encode
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from structlog.testing import capture_logs

from app.realtime import Authenticator, RealtimeSettings
from app.realtime.errors import Unauthorized

from ..client import ConnectOptions
from ..live import Live, make_settings, run_service
from ..settings.test_settings import startup_error

SECRET = "the secret of this service, which is long enough for SHA-384"
OTHER_SECRET = "another secret, which is long enough"


def token(settings: RealtimeSettings, **claims: Any) -> str:
    """Return a valid token with some claims replaced; None removes one."""
    merged = {"sub": "alice", "exp": int(time.time()) + 60} | claims
    present = {name: value for name, value in merged.items() if value is not None}
    assert settings.jwt_secret is not None
    return jwt.encode(present, settings.jwt_secret.get_secret_value(), "HS256")


def anonymous(live: Live, query: str = "") -> ConnectOptions:
    return ConnectOptions(f"ws://127.0.0.1:{live.port}/ws{query}", {})


def with_token(live: Live, token: str) -> ConnectOptions:
    return ConnectOptions(f"ws://127.0.0.1:{live.port}/ws", {"Authorization": f"Bearer {token}"})


async def rejected(live: Live, options: ConnectOptions) -> bool:
    """Return whether the service closes at once with 4500."""
    client = await live.connect_with(options, welcomed=False)
    return await client.closed() == (4500, "unauthorized")


async def test_a_token_in_the_authorization_header_is_accepted(live: Live) -> None:
    client = await live.connect_with(with_token(live, token(live.settings)))
    assert client.user == "alice"
    assert client.welcome["expires_at"] > time.time()


async def test_a_token_in_the_subprotocols_is_never_echoed(live: Live) -> None:
    options = anonymous(live)
    options.subprotocols.extend(["ws.v1", f"bearer.{token(live.settings)}"])
    client = await live.connect_with(options)
    assert client.user == "alice"
    assert client.connection.subprotocol == "ws.v1"


async def test_a_token_in_the_query_needs_a_setting(live: Live) -> None:
    assert await rejected(live, anonymous(live, f"?token={token(live.settings)}"))
    async with run_service(make_settings(jwt_allow_query=True)) as lenient:
        client = await lenient.connect_with(anonymous(lenient, f"?token={token(lenient.settings)}"))
        assert client.user == "alice"


@pytest.mark.hostile(29)
async def test_bad_credentials_close_with_4500(live: Live) -> None:
    assert await rejected(live, anonymous(live))
    options = with_token(live, "nonsense")
    assert await rejected(live, options)
    options.headers["Authorization"] = "Basic YTpi"
    assert await rejected(live, options)
    assert len(live.service.manager) == 0


def forged(algorithm: str, key: str) -> str:
    claims = {"sub": "alice", "exp": int(time.time()) + 60}
    return jwt.encode(claims, key, algorithm)


@pytest.mark.hostile(32, 33, 34, 36, 39)
async def test_bad_tokens_are_refused() -> None:
    settings = make_settings(jwt_secret=SECRET)
    now = int(time.time())
    bad = {
        "empty": "",
        "long": "x" * 10_000,
        "not ASCII": "ä.ö.ü",
        "not JSON": "a.b.c",
        "deep header": b64encode(b"[" * 30_000).decode() + ".b.c",
        "infinite exp": token(settings, exp=float("inf")),
        "another secret": forged("HS256", OTHER_SECRET),
        "another algorithm": forged("HS384", SECRET),
        "no algorithm": forged("none", ""),
        "expired": token(settings, exp=now - 60),
        "not yet valid": token(settings, nbf=now + 60),
        "no exp": token(settings, exp=None),
        "exp is not a number": token(settings, exp="soon"),
        "exp is a list": token(settings, exp=[now + 60]),
        "nbf is a list": token(settings, nbf=[now]),
        "no sub": token(settings, sub=None),
        "empty sub": token(settings, sub=""),
        "long sub": token(settings, sub="x" * 129),
        "sub is a lone surrogate": token(settings, sub="\ud800"),
    }
    for name, bad_token in bad.items():
        with pytest.raises(Unauthorized):
            pytest.fail(f"{name}: {await Authenticator(settings).verify(bad_token)}")


@pytest.mark.parametrize(
    ("claims", "cause"),
    [
        ({"exp": 1}, "ExpiredSignatureError"),
        ({"exp": None}, "the token has no exp"),
        ({"sub": None}, "the token has no sub"),
        ({"sub": ""}, "the user's name is not 1 to 128 visible characters"),
        ({"nbf": 99_999_999_999}, "ImmatureSignatureError"),
        ({"aud": "mail"}, "the token has an aud, but JWT_AUDIENCE is not set"),
    ],
)
async def test_the_log_tells_why_a_token_is_refused(
    live: Live, claims: dict[str, Any], cause: str
) -> None:
    refused = token(live.settings, **claims)
    with capture_logs() as lines:
        assert await rejected(live, with_token(live, refused))
    (line,) = lines
    assert (line["event"], line["cause"]) == ("connection rejected", cause)
    assert not any(part in str(lines) for part in refused.split("."))


@pytest.mark.hostile(37)
async def test_audience_and_issuer_are_checked_when_set() -> None:
    settings = make_settings(jwt_audience="chat", jwt_issuer="https://id.example")
    good = token(settings, aud="chat", iss="https://id.example")
    assert (await Authenticator(settings).verify(good)).user == "alice"
    for claims in (
        {"aud": "chat"},
        {"iss": "https://id.example"},
        {"aud": "mail", "iss": "https://id.example"},
        {"aud": "chat", "iss": "https://id"},
    ):
        with pytest.raises(Unauthorized):
            await Authenticator(settings).verify(token(settings, **claims))


@pytest.mark.hostile(41)
async def test_clock_skew_up_to_the_leeway_is_tolerated() -> None:
    settings = make_settings(jwt_leeway_s=30)
    late = token(settings, exp=int(time.time()) - 10)
    identity = await Authenticator(settings).verify(late)
    assert identity.expires_at is not None
    assert identity.expires_at > time.time()


@pytest.mark.hostile(42)
async def test_a_connection_closes_when_its_token_expires(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = int(time.time()) + 60
    options = with_token(live, token(live.settings, exp=end))
    # By the connection's clock the token expires at once; by the verifier's clock it is fresh.
    nearly = end + live.settings.jwt_leeway_s - 0.05
    monkeypatch.setattr(
        "app.realtime.connections.connection.time", SimpleNamespace(time=lambda: nearly)
    )
    client = await live.connect_with(options)
    assert client.welcome["expires_at"] == end + live.settings.jwt_leeway_s
    assert await client.closed() == (4005, "expired")


@pytest.mark.hostile(42)
async def test_a_refresh_replaces_the_expiry(live: Live) -> None:
    client = await live.connect("alice")
    end = int(time.time()) + 600
    answer = await client.ask(type="refresh", token=token(live.settings, exp=end))
    assert answer["type"] == "ok"
    assert answer["expires_at"] == end + live.settings.jwt_leeway_s
    (connection,) = live.service.manager
    assert connection.identity.expires_at == answer["expires_at"]


@pytest.mark.hostile(42)
async def test_a_refresh_needs_a_valid_token_of_the_same_user(live: Live) -> None:
    client = await live.connect("alice")
    for bad in ("nonsense", token(live.settings, sub="bob"), token(live.settings, exp=1)):
        error = await client.ask(type="refresh", token=bad)
        assert error["code"] == "forbidden"
        assert bad not in error["message"]


@pytest.mark.hostile(40)
def test_a_short_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "JWT_SECRET: has 5 bytes" in startup_error(monkeypatch, JWT_SECRET="short")


@pytest.mark.parametrize(
    "key",
    [
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6F\n-----END PUBLIC KEY-----\n",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBm/RAlphM3+hUG6wWfcO5bIUIaqMLa2ywxcOK1wMWbh",
        '{"kty": "oct", "k": "dGhlIHNlY3JldCBvZiB0aGlzIHNlcnZpY2U"}',
    ],
)
def test_public_keys_are_refused_as_secrets(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    assert startup_error(monkeypatch, JWT_SECRET=key) == (
        "error: JWT_SECRET: is a public key or a certificate; set a random secret"
    )


async def test_a_refresh_token_longer_than_a_header_is_refused(live: Live) -> None:
    client = await live.connect()
    error = await client.ask(type="refresh", token="x" * 8_193)
    assert error["code"] == "bad_request"
    assert error["message"].startswith("token: ")


@pytest.mark.parametrize(
    ("failure", "code", "retry"),
    [(OSError(), "unavailable", True), (KeyError(), "internal", False)],
)
async def test_a_refresh_survives_a_failing_authenticator(
    live: Live, monkeypatch: pytest.MonkeyPatch, failure: Exception, code: str, retry: bool
) -> None:
    async def fail(token: str) -> None:
        raise failure

    client = await live.connect()
    monkeypatch.setattr(live.service.authenticator, "verify", fail)
    with capture_logs() as lines:
        error = await client.ask(type="refresh", token="any")
    assert (error["code"], error["retry"]) == (code, retry)
    assert {"authenticator down", "authenticator failed"} & {line["event"] for line in lines}
    assert (await client.ask(type="ping"))["type"] == "pong"
