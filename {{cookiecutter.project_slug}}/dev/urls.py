"""The addresses of a service with these settings."""

from app.realtime import RealtimeSettings


def base_url(settings: RealtimeSettings, port: int | None = None) -> str:
    """Return the URL of the HTTP routes, at the settings' own port or another."""
    # Not every system can connect to a wildcard address.
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
    address = f"[{host}]" if ":" in host else host
    return f"http://{address}:{settings.port if port is None else port}"


def websocket_url(url: str) -> str:
    """Return the URL that clients connect to, for a service with this base URL."""
    return f"ws{url.removeprefix('http')}/ws"
