"""Credentials for development: tokens, signed with the service's own secret."""

import secrets
import sys
import time

import jwt

from app.realtime import RealtimeSettings
from app.realtime.auth.jwt import SYMMETRIC

from .handshake import Handshake

ONE_HOUR_S = 3600


def fresh_secrets() -> dict[str, str]:
    """Return a new value for each setting that must be secret."""
    return {
        "JWT_SECRET": secrets.token_urlsafe(32),
        "BACKEND_KEY": secrets.token_urlsafe(32),
    }


async def credentials(
    settings: RealtimeSettings, http_url: str, user: str, /, **claims: object
) -> Handshake:
    """Return a handshake that the service at this URL accepts as the user's, with more claims.

    Raises:
        SystemExit: the service has no secret, so only its issuer can make tokens.

    """
    if settings.jwt_secret is None:
        sys.exit("error: JWT_SECRET: is not set, so this cannot sign tokens; ask their issuer")
    claims = {"sub": user, "exp": int(time.time()) + ONE_HOUR_S} | claims
    if settings.jwt_audience is not None:
        claims.setdefault("aud", settings.jwt_audience)
    if settings.jwt_issuer is not None:
        claims.setdefault("iss", settings.jwt_issuer)
    token = jwt.encode(claims, settings.jwt_secret.get_secret_value(), SYMMETRIC)
    return Handshake(headers={"Authorization": f"Bearer {token}"}, token=token)


def javascript(url: str, token: str) -> str:
    """Return a line that connects to this URL with the token."""
    return f'new WebSocket("{url}", ["ws.v1", "bearer.{token}"])'
