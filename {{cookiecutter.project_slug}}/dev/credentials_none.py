"""Credentials for development: none, since every client is a guest."""

import secrets

from app.realtime import RealtimeSettings

from .handshake import Handshake


def fresh_secrets() -> dict[str, str]:
    """Return a new value for each setting that must be secret."""
    return {"BACKEND_KEY": secrets.token_urlsafe(32)}


async def credentials(settings: RealtimeSettings, user: str) -> Handshake:
    """Return the handshake of a guest, whose name the service chooses."""
    return Handshake({}, "")


def javascript(url: str, token: str) -> str:
    """Return a line that connects to this URL."""
    return f'new WebSocket("{url}")'
