"""The engine: connections, delivery, limits, and the server. This is its public face.

================  ====================================================================
`application`     joins the parts to a FastAPI app
`endpoint`        the life of a connection, from the handshake to its end
`commands/`       from a client's frame to its handler, and the built-in commands
`policy`          the questions that the engine asks your `policy.py`
`manager`         who is connected to this node, and how to reach them
`delivery`        when frames are written
# {% if cookiecutter.rooms %}
`rooms/`          members, history and presence of rooms
# {% endif %}
# {% if cookiecutter.redis %}
`redis/`          messages between nodes, and what all of them know
# {% endif %}
`auth/`           the chosen way to authenticate
`limits/`         what a client may do, and how fast
`http/`           health, metrics, and the routes of your backend
`server/`         the process, and uvicorn
================  ====================================================================

Your files import from here, and from `app.realtime.auth`.
"""

from .application import Application
from .auth import AuthSettings, Identity
from .commands.router import CommandRouter
from .connection import Connection
from .errors import (
    BadRequest,
    CommandError,
    Forbidden,
    LimitExceeded,
    Rejected,
    Unauthorized,
    Unavailable,
)
from .http.dependencies import CurrentUser, get_service
from .jobs import Job
from .manager import ConnectionManager
from .policy import Policy
from .protocol import Command, Ok, Reply, ServerFrame
from .server.process import serve
from .service import Service
from .settings import RealtimeSettings

__all__ = [
    "Application",
    "AuthSettings",
    "BadRequest",
    "Command",
    "CommandError",
    "CommandRouter",
    "Connection",
    "ConnectionManager",
    "CurrentUser",
    "Forbidden",
    "Identity",
    "Job",
    "LimitExceeded",
    "Ok",
    "Policy",
    "RealtimeSettings",
    "Rejected",
    "Reply",
    "ServerFrame",
    "Service",
    "Unauthorized",
    "Unavailable",
    "get_service",
    "serve",
]
