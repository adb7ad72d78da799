"""The engine: connections, delivery, limits, and the server. This is its public interface.

================  ====================================================================
`application`     joins the parts to a FastAPI app
`service`         the running service, as your code sees it, and the parts that keep its state
`endpoint/`       the life of a connection, from the handshake to its end
`commands/`       dispatch of clients' frames to handlers, and the built-in commands
`policy`          the rules that your `policy.py` overrides
# {% if cookiecutter.rooms %}
`rooms/`          members, history and presence of rooms
# {% endif %}
`connections/`    `ConnectionManager`, connections, and the delivery of frames
`backplane`       how a message reaches its recipients
`arguments`       validation of the arguments that your code passes to the engine
# {% if cookiecutter.redis %}
`redis/`          messages between nodes, and the state that they share
# {% endif %}
`auth/`           authentication, and its settings
`limits/`         limits of connections, handshakes and rates
`http/`           health, metrics, and the routes of your backend
`server/`         the process, and uvicorn
`wire/`           WebSocket frames, and the interface between a connection and the server
`client/`         the JavaScript client
`metrics`         metrics for Prometheus; `tracing` has spans for OpenTelemetry
`settings/`       every setting of the engine; `fields` has their types
`protocol`        frames and close codes; other modules define more frames
`errors`          exceptions, and what clients get for each; other modules define more
`jobs`            background jobs
`idempotency`     repeated requests that run only once; `expiring` stores their keys
`futures`         futures that are done at once, or derived from another future
================  ====================================================================

Your files import only from here.
"""

from .application import Application
from .auth import Authenticator, AuthSettings, Identity
from .commands.router import CommandRouter
from .connections.connection import Connection
from .connections.manager import ConnectionManager
from .errors import (
    BadRequest,
    CommandError,
    Forbidden,
    LimitExceeded,
    Rejected,
    Unauthorized,
    Unavailable,
)
from .fields import CommaSeparated
from .http.dependencies import CurrentUser, get_service
from .jobs import Job
from .policy import Policy
from .protocol import Close, Command, Data, Ok, Reply, ServerFrame, StrictModel
# {% if cookiecutter.rooms %}
from .rooms.frames import RoomMessage
from .rooms.history import Position
from .rooms.options import RoomOptions
# {% endif %}
from .server.process import serve
from .service import Service
from .settings.settings import RealtimeSettings

__all__ = [
    "Application",
    "AuthSettings",
    "Authenticator",
    "BadRequest",
    "Close",
    "CommaSeparated",
    "Command",
    "CommandError",
    "CommandRouter",
    "Connection",
    "ConnectionManager",
    "CurrentUser",
    "Data",
    "Forbidden",
    "Identity",
    "Job",
    "LimitExceeded",
    "Ok",
    "Policy",
    # {% if cookiecutter.rooms %}
    "Position",
    # {% endif %}
    "RealtimeSettings",
    "Rejected",
    "Reply",
    # {% if cookiecutter.rooms %}
    "RoomMessage",
    "RoomOptions",
    # {% endif %}
    "ServerFrame",
    "Service",
    "StrictModel",
    "Unauthorized",
    "Unavailable",
    "get_service",
    "serve",
]
