"""How a user connects to a service with these settings, in development and in tests."""

from dataclasses import dataclass
from urllib.parse import urlencode

from app.realtime import RealtimeSettings

from . import credentials
from .handshake import Handshake


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """The parameters of a WebSocket client that connects as some user."""

    uri: str
    headers: dict[str, str]
    subprotocols: list[str]


def base_url(settings: RealtimeSettings, port: int | None = None) -> str:
    """Return the URL of the HTTP routes, at the settings' own port or another."""
    # Not every system can connect to a wildcard address.
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
    address = f"[{host}]" if ":" in host else host
    return f"http://{address}:{settings.port if port is None else port}"


def websocket_url(url: str, handshake: Handshake) -> str:
    """Return the URL to connect to, for a service with this base URL."""
    query = f"?{urlencode(handshake.query)}" if handshake.query else ""
    return f"ws{url.removeprefix('http')}/ws{query}"


async def connect_options(
    settings: RealtimeSettings, user: str, *, port: int | None = None
) -> ConnectOptions:
    """Return options to connect as the user, to the settings' own port or another."""
    url = base_url(settings, port)
    handshake = await credentials(settings, url, user)
    uri = websocket_url(url, handshake)
    return ConnectOptions(uri, handshake.headers, handshake.subprotocols)
