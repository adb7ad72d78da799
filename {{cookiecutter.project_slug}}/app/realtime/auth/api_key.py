"""Authentication by API key, for machines and internal tools.

Only digests are kept. A key has 256 random bits and cannot be guessed, so a fast hash is enough.
"""

import re
from hashlib import sha256
from hmac import compare_digest
from typing import Annotated

from fastapi.security import APIKeyHeader
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode
from starlette.requests import HTTPConnection

from ..errors import Unauthorized
from ..fields import SettingsPart
from .identity import Authenticator, Identity

KEY_ENTRY = re.compile(r"[A-Za-z0-9_.-]{1,128}:[0-9a-f]{64}")


def _parse_keys(value: object) -> object:
    if not isinstance(value, str):
        return value
    entries = [entry.strip() for entry in value.split(",") if entry.strip()]
    if any(KEY_ENTRY.fullmatch(entry) is None for entry in entries):
        msg = "each entry is name:digest, the digest being the key's SHA-256 in 64 hex digits"
        raise ValueError(msg)
    names = [entry.partition(":")[0] for entry in entries]
    if len(set(names)) < len(names):
        msg = "two keys have the same name"
        raise ValueError(msg)
    return dict(entry.split(":") for entry in entries)


def _check_any(keys: dict[str, str]) -> dict[str, str]:
    if not keys:
        msg = "has no key; write name:digest, comma-separated"
        raise ValueError(msg)
    return keys


CREDENTIALS = APIKeyHeader(name="X-API-Key", auto_error=False)
"""How OpenAPI describes the credentials."""


class AuthSettings(SettingsPart):
    """The keys: name and SHA-256 of each."""

    api_keys: Annotated[
        dict[str, str],
        NoDecode,
        BeforeValidator(_parse_keys),
        AfterValidator(_check_any),
        Field(repr=False),
    ]


def digest(key: str) -> str:
    """Return the digest of a key, as the settings have it."""
    return sha256(key.encode()).hexdigest()


class ApiKeyAuthenticator(Authenticator):
    """Finds the name that belongs to the key of a client."""

    def __init__(self, settings: AuthSettings) -> None:
        self._digests = settings.api_keys

    async def authenticate(self, handshake: HTTPConnection) -> Identity:
        """Return the identity that the key belongs to.

        Raises:
            Unauthorized: there is no key, or it is unknown.

        """
        key = self._key(handshake)
        if not key:
            msg = "no key"
            raise Unauthorized(msg)
        presented = digest(key)
        # Compare with all digests, so that the time does not depend on which one matches.
        names = [name for name, known in self._digests.items() if compare_digest(known, presented)]
        if not names:
            msg = "unknown key"
            raise Unauthorized(msg)
        return Identity(names[0])

    def _key(self, handshake: HTTPConnection) -> str:
        scheme, _, key = handshake.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return key.strip()
        return handshake.headers.get("x-api-key", "")
