"""Credentials for development: tokens, signed with the service's own secret."""

import secrets
import sys

from app.realtime import Forbidden, RealtimeSettings
from app.realtime.http.tokens import sign_token

from .handshake import Handshake, check_name


def fresh_secrets() -> dict[str, str]:
    """Return a new value for each setting that must be secret."""
    return {
        "JWT_SECRET": secrets.token_urlsafe(32),
        "BACKEND_KEY": secrets.token_urlsafe(32),
    }


async def credentials(settings: RealtimeSettings, user: str, /, **claims: object) -> Handshake:
    """Return a handshake that the service accepts as the user's, with these claims.

    Raises:
        SystemExit: the user name is invalid, or JWT_SECRET is not set, so only the issuer can make
            tokens.
    """
    check_name(user)
    try:
        token = sign_token(settings, claims | {"sub": user})
    except Forbidden as failure:
        sys.exit(f"error: {failure}")
    return Handshake(headers={"Authorization": f"Bearer {token}"}, token=token)


def javascript(url: str, token: str) -> str:
    """Return a line that connects to this URL with the token."""
    return f'new WebSocket("{url}", ["ws.v1", "bearer.{token}"])'
