"""Credentials for development: tickets of the running service, requested with its backend key."""

import secrets
import ssl

import httpx

from app.realtime import RealtimeSettings

from .handshake import Handshake, check_name
from .urls import base_url

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""A local service has no certificate, so loading those of the system would only take time."""


def fresh_secrets() -> dict[str, str]:
    """Return a new value for each setting that must be secret."""
    return {"BACKEND_KEY": secrets.token_urlsafe(32)}


async def credentials(settings: RealtimeSettings, user: str) -> Handshake:
    """Return a handshake that the service accepts as the user's, once.

    Raises:
        ConnectionError: the service does not answer, or refuses the ticket.
        SystemExit: the user name is invalid.
    """
    check_name(user)
    key = settings.backend_key.get_secret_value()
    headers = {"Authorization": f"Bearer {key}"}
    url = base_url(settings)
    async with httpx.AsyncClient(base_url=url, trust_env=False, verify=NO_TLS) as client:
        try:
            answer = await client.post("/tickets", json={"user": user}, headers=headers)
        except httpx.TransportError as failure:
            raise ConnectionError("the service does not answer") from failure
    if answer.is_error:
        raise ConnectionError(f"the service answers {answer.status_code} to POST /tickets")
    return Handshake({}, answer.json()["ticket"])


def javascript(url: str, token: str) -> str:
    """Return a line that connects to this URL with the ticket."""
    return f'new WebSocket("{url}?ticket={token}")'
