"""Authentication by API key, for machines and internal tools.

Only digests are kept. A key has 256 random bits and cannot be guessed, so a fast hash is enough.
"""

import re
from hashlib import sha256
from hmac import compare_digest
from typing import Annotated, ClassVar

from fastapi.security import APIKeyHeader
from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode
from starlette.requests import HTTPConnection

from ..errors import Unauthorized
from ..fields import SettingsPart
from .identity import Identity

KEY_ENTRY = re.compile(r"([A-Za-z0-9_.-]{1,128}):([0-9a-f]{64})")

EMPTY = {sha256(b"").hexdigest(), sha256(b"\n").hexdigest()}
"""The digests of an empty key, without and with a line break."""


def _parse_keys(value: object) -> object:
    if not isinstance(value, str):
        return value
    entries = [KEY_ENTRY.fullmatch(entry.strip()) for entry in value.split(",") if entry.strip()]
    keys = {entry[1]: entry[2] for entry in entries if entry is not None}
    if None in entries:
        entry = "name:digest, a name of A-Z a-z 0-9 _ . - and the key's SHA-256 in lower-case hex"
        raise ValueError(f"separate the keys by commas, and write each as {entry}")
    if len(keys) < len(entries):
        raise ValueError("two keys have the same name; give each its own")
    if len(set(keys.values())) < len(keys):
        raise ValueError("two names have the same key; make a key for each")
    if not EMPTY.isdisjoint(keys.values()):
        raise ValueError("one digest is that of an empty key; hash a key")
    if not keys:
        raise ValueError("has no key; write name:digest, comma-separated")
    return keys


CREDENTIALS = APIKeyHeader(
    name="X-API-Key", description="Or `Authorization: Bearer <key>`", auto_error=False
)
"""How OpenAPI and AsyncAPI describe the credentials."""


class AuthSettings(SettingsPart):
    """The name of each key, and its SHA-256 digest."""

    api_keys: Annotated[
        dict[str, str], NoDecode, BeforeValidator(_parse_keys), Field(repr=False, min_length=1)
    ]


def digest(key: str) -> str:
    """Return the digest of a key, as in the settings."""
    return sha256(key.encode()).hexdigest()


class Authenticator:
    """Finds the name that belongs to the key of a client."""

    needs_origin: ClassVar[bool] = False
    """Whether browsers send the credentials by themselves: then an ``Origin`` is required."""

    def __init__(self, settings: AuthSettings) -> None:
        self._digests = settings.api_keys

    async def authenticate(self, handshake: HTTPConnection) -> Identity:
        """Return the identity that the key belongs to.

        Raises:
            Unauthorized: there is no key, or it is unknown.
        """
        scheme, _, key = handshake.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            key = handshake.headers.get("x-api-key", "")
        if not key.strip():
            raise Unauthorized("no key")
        presented = digest(key.strip())
        # Compare with all digests, so that the time does not depend on which one matches.
        names = [name for name, known in self._digests.items() if compare_digest(known, presented)]
        if not names:
            raise Unauthorized("unknown key")
        return Identity(names[0])
