"""The public keys of the issuer of tokens: its JWK Set (RFC 7517), fetched and cached.

PyJWT's own client drops old keys while the issuer is down, sends a request to a failing issuer for
every unknown key, and reads without limit. Here the keys are fetched under a lock, with a pause
between attempts. Only a handshake that needs an unknown key waits.
"""

import asyncio
import logging
from contextlib import suppress
from http import HTTPStatus
from ipaddress import ip_address
from time import monotonic
from typing import Annotated, Any, Literal, get_args

import httpx
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pydantic import AfterValidator, BaseModel, Field, HttpUrl, ValidationError, ValidationInfo

from ..errors import Unauthorized, Unavailable
from ..fields import Seconds, SettingsPart

Algorithm = Literal["RS256", "ES256", "EdDSA"]

MAX_SET_BYTES = 262_144
MAX_KEYS = 100

RSA_BITS = range(2048, 8193)
"""Minimum size by RFC 7518 §3.3, and a maximum that bounds the time of a verification."""

log = structlog.stdlib.get_logger(__name__)

# Both log the URL or the headers of each request.
logging.getLogger("httpx").setLevel(logging.WARNING)
logging.getLogger("httpcore").setLevel(logging.WARNING)


def _check_url(value: HttpUrl | None, info: ValidationInfo) -> HttpUrl | None:
    is_safe = value is None or value.scheme == "https" or _is_loopback(value.host or "")
    if not is_safe and info.data.get("environment") != "development":
        raise ValueError("must start with https://: an attacker could change the keys in transit")
    return value


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class JwksSettings(SettingsPart):
    """The URL of the keys, and limits for requests to it."""

    jwt_jwks_url: Annotated[HttpUrl | None, AfterValidator(_check_url)] = None
    jwt_jwks_max_age_s: Seconds = 300.0
    jwt_jwks_cooldown_s: Seconds = 10.0
    jwt_jwks_timeout_s: Seconds = 5.0


class Jwk(BaseModel):
    """The fields of a usable key (RFC 7517 §4): it has an id, and verifies signatures."""

    kid: str
    kty: Literal["RSA", "EC", "OKP"]
    use: Literal["sig"] = "sig"
    key_ops: list[str] = ["verify"]
    alg: Algorithm | None = None
    # With the private part, anybody could sign.
    d: None = None


class Jwks(BaseModel):
    """A JWK Set. It may have keys for other uses, so each is validated by itself."""

    keys: Annotated[list[dict[str, Any]], Field(max_length=MAX_KEYS)]


class BadKeys(Exception):
    """The answer of the issuer is not usable."""


def read_keys(body: bytes) -> dict[str, jwt.PyJWK]:
    """Return the usable keys of a set by their ids, or raise `BadKeys`."""
    try:
        published = Jwks.model_validate_json(body).keys
    except ValidationError:
        raise BadKeys("the answer is not a JWK Set") from None
    keys = {}
    for fields in published:
        with suppress(ValidationError, jwt.PyJWTError):
            checked = Jwk.model_validate(fields)
            key = jwt.PyJWK(fields)
            key.Algorithm.prepare_key(key.key)  # checks the curve
            if isinstance(key.key, RSAPublicKey) and key.key.key_size not in RSA_BITS:
                continue
            if "verify" in checked.key_ops and key.algorithm_name in get_args(Algorithm):
                keys[checked.kid] = key
    if not keys:
        raise BadKeys("the JWK Set has no usable key")
    return keys


class JwkSet:
    """The keys of the last successful fetch. They stay valid while the issuer is down."""

    def __init__(self, settings: JwksSettings) -> None:
        self._settings = settings
        self._tls = httpx.create_ssl_context()
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetching: asyncio.Task[None] | None = None
        self._rest_until = 0.0

    async def run(self) -> None:
        """Fetch the keys at start, and again whenever they are too old."""
        try:
            while True:
                pause_s = self._settings.jwt_jwks_max_age_s
                try:
                    await self._fetch()
                except Unavailable:
                    pause_s = self._settings.jwt_jwks_cooldown_s
                await asyncio.sleep(pause_s)
        finally:
            if self._fetching is not None:
                self._fetching.cancel()

    async def find(self, token: str) -> jwt.PyJWK:
        """Return the key whose id is in the token's header; fetch the keys if it is unknown.

        Raises:
            Unauthorized: the issuer has no such key, or the token names none.
            Unavailable: the keys cannot be fetched, or were fetched a moment ago.
            InvalidTokenError: the header cannot be read.
        """
        key_id = jwt.get_unverified_header(token).get("kid")
        if key_id is None:
            raise Unauthorized("the token names no key")
        if key_id not in self._keys:
            await self._fetch(then_rest=True)
        if key_id not in self._keys:
            raise Unauthorized("unknown key")
        return self._keys[key_id]

    async def _fetch(self, *, then_rest: bool = False) -> None:
        """Fetch the keys, or wait for a fetch in progress. It goes on if the caller is cancelled.

        After a failure, or with ``then_rest``, the issuer gets no request for some time.
        """
        if self._fetching is None or self._fetching.done():
            if monotonic() < self._rest_until:
                raise Unavailable("the issuer was asked for keys a moment ago")
            self._fetching = asyncio.create_task(self._fetch_now(then_rest=then_rest))
            self._fetching.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._fetching)

    async def _fetch_now(self, *, then_rest: bool) -> None:
        try:
            async with asyncio.timeout(self._settings.jwt_jwks_timeout_s):
                self._keys = read_keys(await self._download())
        except Exception as failure:
            # Whatever the issuer answers, the old keys stay valid.
            log.warning("keys cannot be fetched", error=f"{type(failure).__name__}: {failure}")
            self._rest_until = monotonic() + self._settings.jwt_jwks_cooldown_s
            raise Unavailable("the keys cannot be fetched") from failure
        if then_rest:
            self._rest_until = monotonic() + self._settings.jwt_jwks_cooldown_s
        log.info("keys fetched", keys=len(self._keys))

    async def _download(self) -> bytes:
        url, timeout_s = str(self._settings.jwt_jwks_url), self._settings.jwt_jwks_timeout_s
        # No compression: a small answer could become large. No redirects: they may lead anywhere.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with (
            httpx.AsyncClient(verify=self._tls, follow_redirects=False, timeout=timeout_s) as http,
            http.stream("GET", url, headers=headers) as response,
        ):
            if response.status_code != HTTPStatus.OK:
                raise BadKeys(f"the answer has status {response.status_code}")
            body = b""
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_SET_BYTES:
                    raise BadKeys(f"the answer has more than {MAX_SET_BYTES} bytes")
            return body
