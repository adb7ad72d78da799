"""Credentials for development: the cookie that the site's SessionMiddleware would set."""

import secrets

from app.realtime import RealtimeSettings
from app.realtime.http.login import sign_session

from .handshake import Handshake


def fresh_secrets() -> dict[str, str]:
    """Return a new value for each setting that must be secret."""
    return {
        "SESSION_SECRET": secrets.token_urlsafe(32),
        "BACKEND_KEY": secrets.token_urlsafe(32),
    }


async def credentials(
    settings: RealtimeSettings, http_url: str, user: str, /, **claims: object
) -> Handshake:
    """Return a handshake that the service at this URL accepts as the user's, with more claims."""
    value = sign_session(settings, {"user": user} | claims)
    cookie = f"{settings.session_cookie}={value}"
    (origin,) = settings.allowed_origins[:1] or [http_url]
    return Handshake(headers={"Cookie": cookie, "Origin": origin}, token=cookie)


def javascript(url: str, token: str) -> str:
    """Return a line that connects to this URL with the cookie, from a page of this site."""
    return f'document.cookie = "{token}; path=/"; new WebSocket("{url}")'
