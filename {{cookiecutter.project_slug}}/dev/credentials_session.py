"""Credentials for development: the cookie that the site's SessionMiddleware would set."""

import secrets

from app.realtime import Authenticator, RealtimeSettings

from .handshake import Handshake


def fresh_secrets() -> dict[str, str]:
    """Return a new value for each setting that must be secret."""
    return {
        "SESSION_SECRET": secrets.token_urlsafe(32),
        "BACKEND_KEY": secrets.token_urlsafe(32),
    }


async def credentials(settings: RealtimeSettings, http_url: str, user: str) -> Handshake:
    """Return a handshake that the service at this URL accepts as the user's."""
    cookie = Authenticator(settings).sign({"user": user})
    headers = {"Cookie": f"{settings.session_cookie}={cookie}"}
    if settings.allowed_origins:
        headers["Origin"] = settings.allowed_origins[0]
    return Handshake(headers=headers)
