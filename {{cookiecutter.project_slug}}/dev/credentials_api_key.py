"""Credentials for development: the API keys of alice and bob, derived from the backend key."""

import hmac
import secrets

from app.realtime import RealtimeSettings
from app.realtime.auth.api_key import digest

from .handshake import Handshake

NAMES = ("alice", "bob")


def fresh_secrets() -> dict[str, str]:
    """Return a new value for each setting that must be secret."""
    backend_key = secrets.token_urlsafe(32)
    entries = (f"{name}:{digest(_derive(backend_key, name))}" for name in NAMES)
    return {"API_KEYS": ",".join(entries), "BACKEND_KEY": backend_key}


async def credentials(settings: RealtimeSettings, http_url: str, user: str) -> Handshake:
    """Return a handshake that the service at this URL accepts as the user's."""
    backend_key = settings.backend_key.get_secret_value() if settings.backend_key else ""
    return Handshake(headers={"X-API-Key": _derive(backend_key, user)})


def _derive(backend_key: str, name: str) -> str:
    return hmac.digest(backend_key.encode(), f"api-key:{name}".encode(), "sha256").hex()
