"""Authentication by JSON Web Tokens (RFC 7519), verified by the rules of RFC 8725.

Clients send the token in the header ``Authorization: Bearer …``, browsers in the subprotocol
``bearer.<token>`` beside ``ws.v1``. A token in the query is read only if a setting allows it, since
URLs are logged.

It is signed with a shared secret, or with a key that its issuer publishes, see `jwks`. A service
accepts one kind only (RFC 8725 §3.1): otherwise a public key could be used as a secret.
"""

from typing import Annotated, Any, ClassVar

import jwt
from fastapi.security import HTTPBearer
from jwt.algorithms import HMACAlgorithm
from jwt.utils import base64url_encode
from pydantic import AfterValidator, Field, NonNegativeFloat, SecretStr, ValidationInfo
from starlette.requests import HTTPConnection

from ..errors import Unauthorized
from ..fields import Secret
from .identity import MAX_EXPIRY, Identity
from .jwks import JwkSet, JwksSettings

SYMMETRIC = "HS256"

UNREADABLE = (jwt.PyJWTError, ValueError, OverflowError, RecursionError)
"""What reading a token can raise. Its header is parsed before the signature is verified."""


def _check_secret(value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    if value is None:
        # A wrong URL is not in the data, and is reported by itself.
        if info.data.get("jwt_jwks_url", ...) is None:
            raise ValueError("is not set, nor is JWT_JWKS_URL; set one of them")
        return value
    if info.data.get("jwt_jwks_url") is not None:
        raise ValueError("is set, and so is JWT_JWKS_URL; set only one of them")
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(value.get_secret_value())
    except jwt.InvalidKeyError:
        raise ValueError("is a public key or a certificate; set a random secret") from None
    return value


CREDENTIALS = HTTPBearer(
    scheme_name="Token",
    description="A JSON Web Token; for `/ws` from a browser, in the subprotocol `bearer.<token>`",
    auto_error=False,
)
"""How OpenAPI and AsyncAPI describe the credentials."""


class AuthSettings(JwksSettings):
    """How tokens are verified: with a secret, or with published keys."""

    jwt_secret: Annotated[
        Secret | None, AfterValidator(_check_secret), Field(validate_default=True)
    ] = None
    jwt_audience: str | None = None
    jwt_issuer: str | None = None
    jwt_leeway_s: NonNegativeFloat = Field(default=10.0, le=300)
    jwt_allow_query: bool = False


class Authenticator:
    """Verifies tokens; ``exp`` and ``sub`` are required."""

    needs_origin: ClassVar[bool] = False
    """Whether browsers send the credentials by themselves: then an ``Origin`` is required."""

    def __init__(self, settings: AuthSettings) -> None:
        self._settings = settings
        self._keys: jwt.PyJWK | JwkSet
        if settings.jwt_secret is not None:
            secret = base64url_encode(settings.jwt_secret.get_secret_value().encode()).decode()
            self._keys = jwt.PyJWK({"kty": "oct", "k": secret}, SYMMETRIC)
        else:
            self._keys = JwkSet(settings)

    async def run(self) -> None:
        """Keep published keys up to date."""
        if isinstance(self._keys, JwkSet):
            await self._keys.run()

    async def authenticate(self, handshake: HTTPConnection) -> Identity:
        """Return the identity in the handshake's token, or raise as `verify` does."""
        token = self._token(handshake)
        if not token:
            raise Unauthorized("no token")
        return await self.verify(token)

    async def verify(self, token: str) -> Identity:
        """Verify a token and return its identity.

        Raises:
            Unauthorized: the token is malformed, forged, expired, or for another audience.
            Unavailable: the keys cannot be fetched now.
        """
        settings, keys = self._settings, self._keys
        try:
            key = await keys.find(token) if isinstance(keys, JwkSet) else keys
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],  # whatever the token says
                audience=settings.jwt_audience,
                issuer=settings.jwt_issuer,
                leeway=settings.jwt_leeway_s,
                # PyJWT demands neither claim by itself.
                options={"require": ["exp", "sub"]},
            )
            expires_at = float(claims["exp"]) + settings.jwt_leeway_s
        except UNREADABLE as failure:
            raise Unauthorized(self._explain(failure)) from failure
        if abs(expires_at) > MAX_EXPIRY:
            raise Unauthorized("exp is out of range")
        return Identity(claims["sub"], expires_at=expires_at, claims=claims)

    def _explain(self, failure: Exception) -> str:
        """Return why a token is refused, without any part of it."""
        if isinstance(failure, jwt.MissingRequiredClaimError):
            return f"the token has no {failure.claim}"
        if isinstance(failure, jwt.InvalidAudienceError) and self._settings.jwt_audience is None:
            return "the token has an aud, but JWT_AUDIENCE is not set"
        return type(failure).__name__

    def _token(self, handshake: HTTPConnection) -> str:
        scheme, _, token = handshake.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
        for subprotocol in handshake.scope.get("subprotocols", ()):  # requests have none
            if subprotocol.startswith("bearer."):
                return str(subprotocol).removeprefix("bearer.")
        if self._settings.jwt_allow_query:
            return handshake.query_params.get("token", "")
        return ""
