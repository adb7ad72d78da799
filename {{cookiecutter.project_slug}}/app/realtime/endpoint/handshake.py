"""Handshakes: admission, authentication, and the welcome, which is the first frame."""

from http import HTTPStatus

import structlog
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from ..auth.identity import Identity, authenticating, check_identity
from ..connections.connection import Connection
from ..connections.guard import Guard
from ..errors import (
    PROBLEM_TYPE,
    CommandError,
    ConnectionEnded,
    Refused,
    Rejected,
    ServiceError,
    declared,
    problem,
)
# {% if cookiecutter.heartbeat %}
from ..protocol import SUBPROTOCOL, Close, HeartbeatTerms, Welcome
# {% else %}
from ..protocol import SUBPROTOCOL, Close, Welcome
# {% endif %}
from ..service import Service
from ..settings.settings import RealtimeSettings

log = structlog.stdlib.get_logger(__name__)


class Handshakes:
    """Admits and authenticates clients, for all connections of a service.

    A refusal is an HTTP status or, so that browsers can read it, a close code.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._refused = service.metrics.counter(
            "handshakes_refused",
            "Handshakes answered with an HTTP status.",
            labels=("status", "reason"),
            known=((status, reason) for reason, (status, _) in Refused.REASONS.items()),
        )
        self._rejected = service.metrics.counter(
            "connections_rejected",
            "Connections closed because authentication failed or was impossible.",
            labels=("code",),
            known=((close.code,) for close in declared(ServiceError, "close_as", Close)),
        )

    def admit(self, websocket: WebSocket, network: str | None) -> None:
        """Admit a client; then `Admission.leave` must be called exactly once.

        Raises:
            Refused: the service does not take this client now.
        """
        service = self._service
        if not service.started:
            raise Refused("the lifespan does not run")
        self._check_draining()
        service.admission.check_network(network)
        service.origins.check(HTTPConnection(websocket.scope))
        service.admission.enter(network)

    async def complete(self, websocket: WebSocket, guard: Guard) -> Identity | None:
        """Authenticate the client and answer the handshake; return None if that failed."""
        offered = websocket.scope.get("subprotocols", [])
        subprotocol = SUBPROTOCOL if SUBPROTOCOL in offered else None
        try:
            identity = await self._authenticate(websocket, guard)
            self._check_draining()
        except Refused as refusal:
            await self.refuse(websocket, refusal)
            return None
        except ConnectionEnded:
            return None
        except (Rejected, CommandError) as rejection:
            # Browsers can read a close code, but not the HTTP status of a refused handshake.
            reason = rejection.close_as.reason
            log.info("connection rejected", reason=reason, cause=rejection.cause)
            self._rejected.labels(rejection.close_as.code).inc()
            await websocket.accept(subprotocol)
            await websocket.close(*rejection.close_as)
            return None
        await websocket.accept(subprotocol)
        # These may hold credentials, and would stay in memory as long as the connection.
        websocket.scope.update(headers=[], query_string=b"", subprotocols=[])
        return identity

    async def _authenticate(self, websocket: WebSocket, guard: Guard) -> Identity:
        try:
            with authenticating(), guard:
                # Not the WebSocket, which would cache parsed headers as long as it is connected.
                handshake = HTTPConnection(websocket.scope)
                return check_identity(await self._service.authenticator.authenticate(handshake))
        except Exception:
            self._check_draining()
            raise

    def _check_draining(self) -> None:
        if self._service.manager.draining:
            raise Refused("the service is stopping")

    async def refuse(self, websocket: WebSocket, refusal: Refused) -> None:
        """Answer a handshake with an HTTP status."""
        host = websocket.client and websocket.client.host
        log.info("handshake refused", status=refusal.status, reason=refusal.reason, client=host)
        self._refused.labels(refusal.status, refusal.reason).inc()
        if "websocket.http.response" not in websocket.scope.get("extensions", {}):
            await websocket.close()  # without the extension, the server answers 403
            return
        body = problem(refusal.status, HTTPStatus(refusal.status).phrase)
        denial = JSONResponse(body, refusal.status, refusal.headers, PROBLEM_TYPE)
        await websocket.send_denial_response(denial)


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


def welcome(connection: Connection, settings: RealtimeSettings) -> Welcome:
    """Return the first frame of a connection."""
    return Welcome(
        connection=connection.id,
        user=connection.user,
        # {% if cookiecutter.heartbeat %}
        heartbeat=HeartbeatTerms(
            interval_s=settings.heartbeat_interval_s, timeout_s=settings.heartbeat_timeout_s
        ),
        # {% else %}
        heartbeat=None,
        # {% endif %}
        limits=limits_of(settings),
        expires_at=connection.identity.expires_at,
    )
