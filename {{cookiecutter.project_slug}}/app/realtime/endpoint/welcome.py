"""The welcome: the first frame of each connection, with its limits."""

from ..connections.connection import Connection
from ..protocol import HeartbeatTerms, Welcome
from ..settings.settings import RealtimeSettings


def limits_of(settings: RealtimeSettings) -> dict[str, int]:
    """Return the limits that clients are told."""
    return {
        "message_bytes": settings.max_message_bytes,
        "messages_per_s": settings.max_messages_per_s,
        "bytes_per_s": settings.max_bytes_per_s,
        "user_messages_per_s": settings.max_messages_per_s_per_user,
        "user_bytes_per_s": settings.max_bytes_per_s_per_user,
        "target_bytes_per_s": settings.max_bytes_per_s_per_target,
        "burst_s": settings.max_burst_s,
        # {% if cookiecutter.rooms %}
        "rooms": settings.max_rooms_per_connection,
        # {% endif %}
    }


# {% if cookiecutter.heartbeat %}
def heartbeat_of(settings: RealtimeSettings) -> HeartbeatTerms | None:
    """Return when the server pings, so that clients can detect a dead server."""
    return HeartbeatTerms(
        interval_s=settings.heartbeat_interval_s, timeout_s=settings.heartbeat_timeout_s
    )


# {% else %}
def heartbeat_of(settings: RealtimeSettings) -> HeartbeatTerms | None:
    """Return None: the server sends no pings of its own."""
    return None


# {% endif %}
def welcome(connection: Connection, settings: RealtimeSettings) -> Welcome:
    """Return the first frame of a connection."""
    return Welcome(
        connection=connection.id,
        user=connection.user,
        heartbeat=heartbeat_of(settings),
        limits=limits_of(settings),
        expires_at=connection.identity.expires_at,
    )
