"""How a user connects to a service with these settings, in development and in tests."""

# {% if cookiecutter.auth == "ticket" %}
from dataclasses import dataclass, field
from urllib.parse import urlencode
# {% else %}
from dataclasses import dataclass, field
# {% endif %}

from app.realtime import RealtimeSettings

from . import credentials
from .handshake import Handshake


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """The parameters of a WebSocket client that connects as some user."""

    uri: str
    headers: dict[str, str]
    subprotocols: list[str] = field(default_factory=list)


def base_url(settings: RealtimeSettings, port: int | None = None) -> str:
    """Return the URL of the HTTP routes, at the settings' own port or another."""
    # Not every system can connect to a wildcard address.
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
    address = f"[{host}]" if ":" in host else host
    return f"http://{address}:{settings.port if port is None else port}"


def websocket_url(url: str, handshake: Handshake) -> str:
    """Return the URL to connect to, for a service with this base URL."""
    # {% if cookiecutter.auth == "ticket" %}
    return f"ws{url.removeprefix('http')}/ws?{urlencode(handshake.query)}"
    # {% else %}
    return f"ws{url.removeprefix('http')}/ws"
    # {% endif %}


async def connect_options(
    settings: RealtimeSettings, user: str, *, port: int | None = None
) -> ConnectOptions:
    """Return options to connect as the user, to the settings' own port or another."""
    url = base_url(settings, port)
    handshake = await credentials(settings, url, user)
    return ConnectOptions(websocket_url(url, handshake), handshake.headers)
