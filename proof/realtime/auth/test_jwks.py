"""Tokens signed with keys from a JWKS: verification, fetching, caching and outages."""

import asyncio
import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from structlog.testing import capture_logs
from websockets.exceptions import ConnectionClosed

from app.realtime import Authenticator, RealtimeSettings
from app.realtime.auth.jwks import MAX_KEYS, MAX_SET_BYTES, BadKeys, read_keys
from app.realtime.errors import Unauthorized
from app.realtime.protocol import REVOKED, TRY_AGAIN_LATER, UNAUTHORIZED

from ..certificate import server_context
from ..client import Client, ConnectOptions
from ..live import Live, make_settings, run_service, wait_until, wait_until_async
from ..settings.test_settings import startup_error
from ..test_privacy import PRIVATE, run_recorded
from .issuer import Issuer, jwk, new_key, rsa_key, run_issuer
from .test_jwt import token as secret_token
from .test_jwt import with_token


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bypass a proxy for issuers on this machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def issuer_settings(issuer: Issuer, **overrides: object) -> RealtimeSettings:
    """Return settings with this issuer; cooldown and time-out are longer than any test."""
    terms: dict[str, object] = {"jwt_secret": None, "jwt_jwks_url": issuer.url}
    patient = {"jwt_jwks_cooldown_s": 60, "jwt_jwks_timeout_s": 60}
    return make_settings(**terms | patient | overrides)


@asynccontextmanager
async def run_issuer_and_service(**overrides: object) -> AsyncIterator[tuple[Issuer, Live]]:
    """Run an issuer, and a service that has fetched its first key."""
    async with run_issuer() as issuer, run_service(issuer_settings(issuer, **overrides)) as live:
        await wait_until_async(lambda: is_admitted(live, issuer.token()))
        yield issuer, live


async def connect_with_token(live: Live, token: str) -> Client:
    """Connect with a token, without waiting for `welcome`."""
    return await live.connect_with(with_token(live, token), welcomed=False)


async def is_admitted(live: Live, token: str) -> bool:
    """Return whether the token is accepted for alice."""
    client = await connect_with_token(live, token)
    try:
        client.welcome = await client.receive("welcome")
        return client.user == "alice"
    except ConnectionClosed:
        return False
    finally:
        await client.close()


async def refusal(live: Live, token: str) -> tuple[int | None, str | None]:
    """Return the close code and reason for a token that is refused."""
    return await (await connect_with_token(live, token)).closed()


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_token_signed_with_a_published_key_is_accepted(algorithm: str) -> None:
    async with run_issuer() as issuer:
        issuer.rotate("1", algorithm)
        async with run_service(issuer_settings(issuer)) as live:
            assert await is_admitted(live, issuer.token())
            assert await is_admitted(live, issuer.token())
        assert issuer.fetches == 1


async def test_concurrent_handshakes_share_one_fetch() -> None:
    async with run_issuer_and_service() as (issuer, live):
        issuer.rotate("2")
        issuer.answers.clear()
        waiting = [asyncio.create_task(is_admitted(live, issuer.token())) for _ in range(20)]
        await wait_until(lambda: issuer.fetches == 2 and len(live.server.server_state.tasks) == 20)
        issuer.answers.set()
        assert all(await asyncio.gather(*waiting))
        assert issuer.fetches == 2


async def test_a_client_that_leaves_does_not_end_the_fetch() -> None:
    async with run_issuer_and_service() as (issuer, live):
        issuer.rotate("2")
        issuer.answers.clear()
        waiting = asyncio.create_task(is_admitted(live, issuer.token()))
        await wait_until(lambda: issuer.fetches == 2)
        waiting.cancel()
        await asyncio.wait([waiting])
        await wait_until(lambda: not live.server.server_state.tasks)
        issuer.answers.set()
        await wait_until_async(lambda: is_admitted(live, issuer.token()))
        assert issuer.fetches == 2


async def test_a_withdrawn_key_is_valid_until_the_maximum_age() -> None:
    async with run_issuer_and_service(jwt_jwks_max_age_s=0.05) as (issuer, live):
        old = issuer.token()
        issuer.rotate("2")
        before = issuer.fetches
        await wait_until(lambda: issuer.fetches > before + 1)
        assert await refusal(live, old) == UNAUTHORIZED


@pytest.mark.hostile(81)
async def test_cached_keys_survive_an_issuer_outage() -> None:
    async with run_issuer_and_service(jwt_jwks_max_age_s=0.05, jwt_jwks_cooldown_s=0.05) as (
        issuer,
        live,
    ):
        issuer.status = "500 Internal Server Error"
        before = issuer.fetches
        await wait_until(lambda: issuer.fetches > before + 2)
        assert await is_admitted(live, issuer.token())
        issuer.stop()
        assert await refusal(live, issuer.token("unknown")) == TRY_AGAIN_LATER
        assert await is_admitted(live, issuer.token())


async def test_the_service_recovers_from_an_outage_at_startup() -> None:
    async with run_issuer() as issuer:
        issuer.status = "503 Service Unavailable"
        async with run_service(issuer_settings(issuer, jwt_jwks_cooldown_s=0.05)) as live:
            assert await refusal(live, issuer.token()) == TRY_AGAIN_LATER
            issuer.status = "200 OK"
            await wait_until_async(lambda: is_admitted(live, issuer.token()))


@pytest.mark.hostile(81)
async def test_a_slow_issuer_delays_only_unknown_keys() -> None:
    async with run_issuer_and_service() as (issuer, live):
        known = issuer.token()
        alice = await connect_with_token(live, known)
        await alice.receive("welcome")
        issuer.rotate("2")
        issuer.answers.clear()
        waiting = asyncio.create_task(is_admitted(live, issuer.token()))
        await wait_until(lambda: issuer.fetches == 2)
        for _ in range(3):
            assert (await alice.ask(type="ping"))["type"] == "pong"
            assert await is_admitted(live, known)
            assert (await live.get("/livez")).status_code == 200
        assert not waiting.done()
        issuer.answers.set()
        assert await waiting


@pytest.mark.hostile(81)
async def test_a_slow_fetch_times_out() -> None:
    async with run_issuer_and_service(jwt_jwks_timeout_s=0.2, jwt_jwks_cooldown_s=0.05) as (
        issuer,
        live,
    ):
        issuer.answers.clear()
        assert await refusal(live, issuer.token("unknown")) == TRY_AGAIN_LATER
        assert await is_admitted(live, issuer.token())

        async def is_asked_again() -> bool:
            assert await refusal(live, issuer.token("unknown")) == TRY_AGAIN_LATER
            return issuer.fetches >= 3  # so the second one was aborted

        await wait_until_async(is_asked_again)


@pytest.mark.hostile(81)
@pytest.mark.parametrize("status", ["200 OK", "500 Internal Server Error"])
async def test_unknown_keys_cause_one_fetch(status: str) -> None:
    async with run_issuer_and_service() as (issuer, live):
        issuer.status = status
        unknown = [issuer.token(f"unknown {number}") for number in range(100)]
        await asyncio.gather(*(refusal(live, token) for token in unknown[:50]))
        for token in unknown[50:]:
            assert await refusal(live, token) == TRY_AGAIN_LATER
        assert issuer.fetches == 2
        assert await is_admitted(live, issuer.token())


async def test_an_unknown_key_is_unauthorized_after_a_fetch() -> None:
    async with run_issuer_and_service(jwt_jwks_cooldown_s=0.01) as (issuer, live):
        assert await refusal(live, issuer.token("unknown")) == UNAUTHORIZED

        async def is_asked_again() -> bool:
            return await refusal(live, issuer.token("unknown")) == UNAUTHORIZED

        await wait_until_async(is_asked_again)
        assert issuer.fetches >= 3


@pytest.mark.hostile(81)
@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("404 Not Found", None),
        ("302 Found", None),
        ("204 No Content", b""),
        ("200 OK", b""),
        ("200 OK", b"<html>"),
        ("200 OK", b"[]"),
        ("200 OK", b'{"keys": []}'),
        ("200 OK", b'{"keys": [1]}'),
        ("200 OK", b'{"keys": {}}'),
        ("200 OK", b'{"keys": [{"kty": "RSA"}]}'),
        ("200 OK", b'{"keys": ' + b"[" * 100_000),
    ],
)
async def test_a_bad_jwks_response_keeps_the_cached_keys(status: str, body: bytes | None) -> None:
    async with run_issuer_and_service() as (issuer, live):
        issuer.status, issuer.body = status, body
        assert await refusal(live, issuer.token("2")) == TRY_AGAIN_LATER
        assert await is_admitted(live, issuer.token())
        assert issuer.fetches == 2


@pytest.mark.hostile(81)
async def test_an_oversized_jwks_response_is_refused() -> None:
    async with run_issuer_and_service(jwt_jwks_cooldown_s=0.05) as (issuer, live):
        issuer.rotate("2")
        issuer.body = b" " * MAX_SET_BYTES + issuer.published()
        assert await refusal(live, issuer.token()) == TRY_AGAIN_LATER
        issuer.body = issuer.body[-MAX_SET_BYTES:]
        await wait_until_async(lambda: is_admitted(live, issuer.token()))


async def test_the_issuers_certificate_is_verified(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate = tmp_path / "certificate.pem"
    async with run_issuer(server_context(certificate)) as issuer:
        async with run_service(issuer_settings(issuer)) as live:
            assert await refusal(live, issuer.token()) == TRY_AGAIN_LATER
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with run_service(issuer_settings(issuer)) as live:
            assert await is_admitted(live, issuer.token())


async def test_a_refresh_during_an_outage_is_retryable() -> None:
    async with run_issuer() as issuer, run_service(issuer_settings(issuer)) as live:
        client = await connect_with_token(live, issuer.token())
        await client.receive("welcome")
        issuer.status = "500 Internal Server Error"
        with capture_logs() as lines:
            error = await client.ask(type="refresh", token=issuer.token("2"))
        assert (error["code"], error["retry"]) == ("unavailable", True)
        assert error["message"] == "the token cannot be checked now"  # the log has the cause
        causes = [line["cause"] for line in lines if line["event"] == "token refused"]
        assert causes == ["the keys cannot be fetched"]
        assert (await client.ask(type="refresh", token=issuer.token()))["type"] == "ok"
        for claims in ({"sub": "bob"}, {"exp": 1}):
            error = await client.ask(type="refresh", token=issuer.token(**claims))
            assert error["code"] == "forbidden"


def signed_with_public_key(claims: dict[str, Any]) -> str:
    """Return a token with the public key as HMAC secret; PyJWT refuses that (CVE-2022-29217)."""
    public = rsa_key().public_key()
    secret = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    unsigned, _ = jwt.encode(claims, "x" * 32, "HS256", {"kid": "2"}).rsplit(".", 1)
    signature = urlsafe_b64encode(hmac.digest(secret, unsigned.encode(), "sha256"))
    return f"{unsigned}.{signature.decode().rstrip('=')}"


@pytest.mark.hostile(35, 36, 38)
async def test_invalid_tokens_are_refused() -> None:
    async with run_issuer_and_service() as (issuer, live):
        issuer.rotate("2", "RS256")
        good = issuer.token()
        assert await is_admitted(live, good)
        claims = jwt.decode(good, options={"verify_signature": False})
        named = {"kid": "2"}
        bad = {
            "signed with the public key": signed_with_public_key(claims),
            "another algorithm of the key": jwt.encode(claims, rsa_key(), "RS512", named),
            "another key": jwt.encode(claims, new_key("EdDSA"), "EdDSA", named),
            "not signed": jwt.encode(claims, "", "none", named),
            "an extension": jwt.encode(claims, rsa_key(), "RS256", named | {"crit": ["x"], "x": 1}),
            "no key's name": jwt.encode(claims, rsa_key(), "RS256"),
            "expired": issuer.token(exp=1),
            "without end": issuer.token(exp=None),
            "without user": issuer.token(sub=None),
            "for somebody else": issuer.token(aud="mail"),
        }
        for name, token in bad.items():
            assert await refusal(live, token) == UNAUTHORIZED, name
        assert issuer.fetches == 2


async def test_the_log_tells_why_a_key_is_missing() -> None:
    async with run_issuer_and_service() as (issuer, live):
        claims = jwt.decode(issuer.token(), options={"verify_signature": False})
        attempts = [
            (jwt.encode(claims, rsa_key(), "RS256"), UNAUTHORIZED, "the token names no key"),
            (issuer.token("unknown"), UNAUTHORIZED, "unknown key"),
            (issuer.token("other"), TRY_AGAIN_LATER, "the issuer was asked for keys a moment ago"),
        ]
        for token, close, cause in attempts:
            with capture_logs() as lines:
                assert await refusal(live, token) == close
            assert [line["cause"] for line in lines if "cause" in line] == [cause]
            assert "authenticator down" not in str(lines)  # strangers would raise an alarm
            assert token not in str(lines)


async def test_tokens_and_the_jwks_url_are_not_logged(tmp_path: Path) -> None:
    async with run_issuer() as issuer:
        secrets = {"JWT_JWKS_URL": issuer.url}
        async with run_recorded(tmp_path, secrets, NO_PROXY="127.0.0.1") as service:
            uri = f"ws://127.0.0.1:{service.port}/ws"
            for token in (issuer.token(), issuer.token(PRIVATE), issuer.token(sub=None), PRIVATE):
                service.private.add(token)
                headers = {"Authorization": f"Bearer {token}"}
                await service.attempt(ConnectOptions(uri, headers))
            issuer.stop()
            await service.attempt(ConnectOptions(uri, headers))
    assert service.printed.count("keys fetched") == issuer.fetches == 2
    assert service.printed.count("connection opened") == 1


async def test_a_service_with_a_secret_refuses_asymmetric_tokens() -> None:
    settings = make_settings()
    assert settings.jwt_secret is not None
    authenticator = Authenticator(settings)
    assert (await authenticator.verify(secret_token(settings))).user == "alice"
    claims = jwt.decode(secret_token(settings), options={"verify_signature": False})
    for algorithm in ("RS256", "ES256", "EdDSA"):
        with pytest.raises(Unauthorized):
            await authenticator.verify(jwt.encode(claims, new_key(algorithm), algorithm))


def published(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("fields", [{}, {"alg": None}, {"key_ops": ["sign", "verify"]}, {"x5t": 1}])
def test_usable_keys_are_accepted(algorithm: str, fields: dict[str, Any]) -> None:
    (key,) = read_keys(published(jwk(new_key(algorithm), algorithm, **fields))).values()
    assert key.algorithm_name == algorithm


@pytest.mark.hostile(38)
def test_unusable_keys_are_ignored() -> None:
    good = jwk(new_key("EdDSA"), kid="good")
    rsa = jwk(rsa_key(), "RS256")
    elliptic = jwk(new_key("ES256"), "ES256")
    p384 = jwk(generate_private_key(SECP384R1()), "ES384")
    private = jwt.get_algorithm_by_name("EdDSA").to_jwk(new_key("EdDSA"), as_dict=True)
    bad = [
        {"kid": "1", "kty": "oct", "k": "c2VjcmV0"},
        {"kid": "1", "kty": "oct", "k": "c2VjcmV0", "alg": "RS256"},
        {"kid": "1", "kty": "RSA"},
        {"kid": "1"},
        {},
        rsa | {"kid": None},
        rsa | {"kid": 1},
        rsa | {"use": "enc"},
        rsa | {"use": None},
        rsa | {"key_ops": ["encrypt"]},
        rsa | {"key_ops": "verify"},
        rsa | {"alg": "none"},
        rsa | {"alg": "HS256"},
        rsa | {"alg": "RS512"},
        rsa | {"alg": "RSA-OAEP"},
        rsa | {"alg": ["RS256"]},
        rsa | {"alg": "ES256"},
        rsa | {"kty": "EC"},
        rsa | {"n": ""},
        rsa | {"n": 7},
        rsa | {"n": rsa["n"] * 10},
        jwk(rsa_key(), "RS256", d="AQAB"),
        private | {"kid": "1"},
        jwk(rsa_key(1024), "RS256"),
        elliptic | {"y": elliptic["x"]},
        elliptic | {"crv": "P-384"},
        p384,
        p384 | {"alg": "ES256"},
        p384 | {"alg": None},
        good | {"kid": "1", "crv": "X25519"},
        good | {"kid": "1", "x": "AA"},
    ]
    assert list(read_keys(published(*bad, good))) == ["good"]
    with pytest.raises(BadKeys, match="no usable key"):
        read_keys(published(*bad))


def test_the_number_of_keys_is_limited() -> None:
    key = jwk(new_key("EdDSA"))
    assert read_keys(published(*[key] * MAX_KEYS))
    with pytest.raises(BadKeys, match="not a JWK Set"):
        read_keys(published(*[key] * (MAX_KEYS + 1)))


@pytest.mark.parametrize(
    ("environment", "url", "hint"),
    [
        ("production", "http://issuer.test/keys", "must start with https://"),
        ("production", "http://127.0.0.1.issuer.test/keys", "must start with https://"),
        ("production", "http://10.0.0.1/keys", "must start with https://"),
        ("development", "file:///etc/keys", "'http' or 'https'"),
        ("development", "issuer.test/keys", "valid URL"),
    ],
)
def test_a_bad_jwks_url_is_refused_at_startup(
    monkeypatch: pytest.MonkeyPatch, environment: str, url: str, hint: str
) -> None:
    line = startup_error(monkeypatch, ENVIRONMENT=environment, JWT_SECRET="", JWT_JWKS_URL=url)
    assert line.startswith("error: JWT_JWKS_URL: ")
    assert hint in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ("production", "https://issuer.test/keys?policy=x"),
        ("production", "http://127.0.0.1:8080/keys"),
        ("production", "http://[::1]/keys"),
        ("production", "http://localhost/keys"),
        ("development", "http://issuer.test/keys"),
    ],
)
def test_good_jwks_urls_are_accepted(environment: str, url: str) -> None:
    settings = make_settings(environment=environment, jwt_secret=None, jwt_jwks_url=url)
    assert str(settings.jwt_jwks_url) == url


async def test_a_banned_user_cannot_refresh() -> None:
    async with run_service() as live:
        client = await live.connect("alice")
        await live.service.bans.put("bob", "", 60)
        token = secret_token(live.settings, sub="bob")
        assert (await client.ask(type="refresh", token=token))["code"] == "forbidden"
        await live.service.bans.put(client.user, "", 60)  # as if this node had not heard of it
        await client.send(type="refresh", token=secret_token(live.settings))
        assert await client.closed() == REVOKED


def test_secret_and_jwks_url_are_mutually_exclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    assert startup_error(monkeypatch, JWT_SECRET="") == (
        "error: JWT_SECRET: is not set, nor is JWT_JWKS_URL; set one of them"
    )
    line = startup_error(monkeypatch, JWT_JWKS_URL="https://issuer.test/keys")
    assert line.startswith("error: JWT_SECRET: is set, and so is JWT_JWKS_URL")
    assert len(line.splitlines()) == 1
