"""Credentials for development: the API keys of alice and bob, derived from the backend key."""

import hmac
import json
import secrets
import sys

from app.realtime import RealtimeSettings
from app.realtime.auth.api_key import digest

from .handshake import Handshake, check_name

NAMES = ("alice", "bob")


def fresh_secrets() -> dict[str, str]:
    """Return a new value for each setting that must be secret."""
    backend_key = secrets.token_urlsafe(32)
    entries = (f"{name}:{digest(_derive(backend_key, name))}" for name in NAMES)
    return {"API_KEYS": ",".join(entries), "BACKEND_KEY": backend_key}


async def credentials(settings: RealtimeSettings, user: str) -> Handshake:
    """Return a handshake that the service accepts as the user's.

    Raises:
        SystemExit: the user name is invalid, or the settings have no key of this user.
    """
    check_name(user)
    backend_key = settings.backend_key.get_secret_value() if settings.backend_key else ""
    key = _derive(backend_key, user)
    if digest(key) not in settings.api_keys.values():
        names = " and ".join(NAMES)
        msg = f"API_KEYS has no key of {user} that is derived from BACKEND_KEY"
        sys.exit(f"error: {msg}; make .env makes them for {names}")
    return Handshake(headers={"X-API-Key": key}, token=key)


def javascript(url: str, token: str) -> str:
    """Return a line for Node.js that connects with the key; browsers cannot set headers."""
    options = json.dumps({"headers": {"X-API-Key": token}})
    return f'new WebSocket("{url}", {options})'


def _derive(backend_key: str, name: str) -> str:
    return hmac.digest(backend_key.encode(), f"api-key:{name}".encode(), "sha256").hex()
