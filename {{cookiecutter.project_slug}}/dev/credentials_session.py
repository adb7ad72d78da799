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


async def credentials(
    settings: RealtimeSettings, http_url: str, user: str, /, **claims: object
) -> Handshake:
    """Return a handshake that the service at this URL accepts as the user's, with more claims."""
    value = Authenticator(settings).sign({"user": user} | claims)
    cookie = f"{settings.session_cookie}={value}"
    headers = {"Cookie": cookie}
    if settings.origins:
        headers["Origin"] = settings.origins[0]
    return Handshake(headers=headers, token=cookie)


def javascript(url: str, token: str) -> str:
    """Return a line that connects to this URL with the cookie, from a page of this site."""
    return f'document.cookie = "{token}; path=/"; new WebSocket("{url}")'
