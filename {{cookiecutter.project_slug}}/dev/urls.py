"""The addresses of a service with these settings."""

from app.realtime import RealtimeSettings
from app.realtime.limits.origin import origin_of


def base_url(settings: RealtimeSettings) -> str:
    """Return the URL of the HTTP routes."""
    # Not every system can connect to a wildcard address.
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
    return origin_of(host, settings.port)


def websocket_url(settings: RealtimeSettings) -> str:
    """Return the URL that clients connect to."""
    return f"ws{base_url(settings).removeprefix('http')}/ws"
