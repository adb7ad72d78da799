"""Authentication by signed tokens: JSON Web Tokens (RFC 7519), checked to RFC 8725.

The token comes as ``Authorization: Bearer …``, or from a browser as the subprotocol
``bearer.<token>`` beside ``ws.v1``; in the query only where a setting allows it, since URLs are
logged and remembered.
"""

from typing import Any

import jwt
from pydantic import Field, NonNegativeFloat, TypeAdapter, ValidationError
from starlette.requests import HTTPConnection

from .auth import Identity
from .errors import Unauthorized
from .protocol import UserName
from .settings import Secret, SettingsPart

ALGORITHM = "HS256"

UNREADABLE = (jwt.InvalidTokenError, ValidationError, ValueError, OverflowError, RecursionError)
"""All that reading a token can raise: its header is a stranger's JSON, parsed before the check."""

_user_name: TypeAdapter[str] = TypeAdapter(UserName)


class AuthSettings(SettingsPart):
    """How tokens are verified."""

    jwt_secret: Secret
    jwt_audience: str | None = None
    jwt_issuer: str | None = None
    jwt_leeway_s: NonNegativeFloat = Field(default=10.0, le=300)
    jwt_allow_query: bool = False


class JwtAuthenticator:
    """Verifies tokens: one algorithm, ``exp`` and ``sub`` required."""

    def __init__(self, settings: AuthSettings) -> None:
        self._settings = settings

    async def authenticate(self, handshake: HTTPConnection) -> Identity:
        """Return the identity in the handshake's token.

        Raises:
            Unauthorized: there is no valid token.

        """
        return self.verify(self._token(handshake))

    def verify(self, token: str) -> Identity:
        """Return the identity that the token proves.

        Raises:
            Unauthorized: the token is malformed, forged, expired, or meant for somebody else.

        """
        settings = self._settings
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                settings.jwt_secret.get_secret_value(),
                algorithms=[ALGORITHM],
                audience=settings.jwt_audience,
                issuer=settings.jwt_issuer,
                leeway=settings.jwt_leeway_s,
                # PyJWT demands neither claim by itself.
                options={"require": ["exp", "sub"]},
            )
            user = _user_name.validate_python(claims["sub"])
            expires_at = float(claims["exp"]) + settings.jwt_leeway_s
        except UNREADABLE as failure:
            raise Unauthorized from failure
        return Identity(user, expires_at=expires_at, claims=claims)

    def _token(self, handshake: HTTPConnection) -> str:
        scheme, _, token = handshake.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
        for subprotocol in handshake.scope["subprotocols"]:
            if subprotocol.startswith("bearer."):
                return str(subprotocol).removeprefix("bearer.")
        if self._settings.jwt_allow_query:
            return handshake.query_params.get("token", "")
        return ""
