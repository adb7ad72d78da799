"""Credentials for development: the cookie that the site's SessionMiddleware would set."""

import secrets

from app.realtime import RealtimeSettings
from app.realtime.http.login import must_be_secure, sign_session

from .handshake import Handshake, check_name
from .urls import base_url


def fresh_secrets() -> dict[str, str]:
    """Return a new value for each setting that must be secret."""
    return {
        "SESSION_SECRET": secrets.token_urlsafe(32),
        "BACKEND_KEY": secrets.token_urlsafe(32),
    }


async def credentials(settings: RealtimeSettings, user: str, /, **claims: object) -> Handshake:
    """Return a handshake that the service accepts as the user's, with these claims.

    Raises:
        SystemExit: the user name is invalid.
    """
    check_name(user)
    value = sign_session(settings, claims | {"user": user})
    cookie = f"{settings.session_cookie}={value}"
    (origin,) = settings.allowed_origins[:1] or [base_url(settings)]
    return Handshake(headers={"Cookie": cookie, "Origin": origin}, token=cookie)


def javascript(url: str, token: str) -> str:
    """Return a line that connects to this URL with the cookie, from a page of this site."""
    secure = "; secure" if must_be_secure(token) else ""
    return f'document.cookie = "{token}; path=/{secure}"; new WebSocket("{url}")'
