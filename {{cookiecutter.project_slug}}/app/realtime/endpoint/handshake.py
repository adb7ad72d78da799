"""Handshakes: admission and authentication, with an HTTP status or a close code for refusals."""

from http import HTTPStatus

import structlog
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from ..auth.identity import Identity, authenticating
from ..connections.guard import Guard
from ..errors import PROBLEM_TYPE, ConnectionEnded, Refused, Rejected, declared, problem
from ..limits.admission import network_of
from ..metrics import OTHER
from ..protocol import SUBPROTOCOL, Close
from ..service import Service

log = structlog.stdlib.get_logger(__name__)


def network_behind(websocket: WebSocket) -> str | None:
    """Return the client's network, None if the server cannot tell.

    The client is the one that a proxy reports, if uvicorn trusts the proxy.
    """
    return None if websocket.client is None else network_of(websocket.client.host)


class Handshakes:
    """Admits and authenticates clients, for all connections of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._refused = service.metrics.counter(
            "handshakes_refused",
            "Handshakes answered with an HTTP status.",
            labels=("status", "reason"),
            known=((status, reason) for reason, status in Refused.REASONS.items()),
        )
        self._rejected = service.metrics.counter(
            "connections_rejected",
            "Connections closed because authentication failed or was impossible.",
            labels=("code",),
            known=((close.code,) for close in declared(Rejected, "close_as", Close)),
        )

    def admit(self, websocket: WebSocket, network: str | None) -> None:
        """Admit a client; then `Admission.leave` must be called exactly once.

        The limits of one network come before those that all share, so that no client can use up
        the shared ones.

        Raises:
            Refused: the service does not take this client now.

        """
        service = self._service
        if not service.started:
            reason = "the application around this one does not run its lifespan"
            raise Refused(503, reason, retry_after_s=5)
        if service.manager.draining:
            raise Refused(503, "the service is stopping", retry_after_s=5)
        service.admission.check_network(network)
        service.origins.check(websocket)
        service.admission.enter(network)

    async def complete(self, websocket: WebSocket, guard: Guard) -> Identity | None:
        """Authenticate the client and answer the handshake; return None if that failed."""
        offered = websocket.scope["subprotocols"]
        subprotocol = SUBPROTOCOL if SUBPROTOCOL in offered else None
        try:
            with authenticating(), guard:
                identity = await self._service.authenticator.authenticate(websocket)
        except Refused as refusal:
            await self.refuse(websocket, refusal)
            return None
        except ConnectionEnded:
            return None
        except Rejected as rejection:
            # Browsers can read a close code, but not the HTTP status of a refused handshake.
            reason = rejection.close_as.reason
            log.info("connection rejected", reason=reason, cause=rejection.cause)
            self._rejected.labels(rejection.close_as.code).inc()
            await websocket.accept(subprotocol)
            await websocket.close(*rejection.close_as)
            return None
        await websocket.accept(subprotocol)
        # Mostly credentials, which would stay in memory as long as the connection.
        websocket.scope.update(headers=[], query_string=b"", subprotocols=[])
        return identity

    async def refuse(self, websocket: WebSocket, refusal: Refused) -> None:
        """Answer a handshake with an HTTP status."""
        host = websocket.client and websocket.client.host
        log.info("handshake refused", status=refusal.status, reason=refusal.reason, client=host)
        reason = refusal.reason if refusal.reason in Refused.REASONS else OTHER
        self._refused.labels(refusal.status, reason).inc()
        if "websocket.http.response" not in websocket.scope.get("extensions", {}):
            await websocket.close()  # such a server answers 403
            return
        headers = {}
        if refusal.retry_after_s is not None:
            headers["Retry-After"] = str(refusal.retry_after_s)
        body = problem(refusal.status, HTTPStatus(refusal.status).phrase)
        denial = JSONResponse(body, refusal.status, headers, PROBLEM_TYPE)
        await websocket.send_denial_response(denial)
