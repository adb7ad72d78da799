"""One connection's life: admit, authenticate, welcome, receive and dispatch, clean up."""

from asyncio import Future, wait
from collections.abc import Sequence
from http import HTTPStatus
from time import monotonic
from typing import Any

import structlog
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket

from .admission import network_of
from .auth import Identity
from .commands import CommandRouter, Dispatcher, Observer
from .connection import Connection
from .errors import Refused, Rejected, Stopping
from .flusher import FEW
from .protocol import (
    INTERNAL_ERROR,
    NO_STATUS,
    SERVICE_RESTART,
    SUBPROTOCOL,
    UNSUPPORTED_DATA,
    Close,
    Welcome,
)
from .service import Service
from .wire import Wire, asgi_wire, offered_wire

log = structlog.stdlib.get_logger(__name__)

BURST = 32
"""How many frames of one client are handled in a row, before everybody else has a turn."""


class Endpoint:
    """The WebSocket route."""

    def __init__(self, service: Service, router: CommandRouter) -> None:
        self._service = service
        self._router = router
        metrics = service.metrics
        self._dispatcher = Dispatcher(router, metrics)
        self._refused = metrics.count_by(
            "status", "handshakes_refused", "Handshakes answered with an HTTP status."
        )
        self._rejected = metrics.count_by(
            "code", "connections_rejected", "Connections closed in place of a welcome."
        )
        self._opened = metrics.count("connections_opened", "Connections that began.")
        self._closed = metrics.count_by("code", "connections_closed", "Connections that ended.")

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one connection, from its handshake to its end."""
        service, settings = self._service, self._service.settings
        # The address of the proxy's client, if uvicorn trusts the proxy.
        host = None if websocket.client is None else websocket.client.host
        network = None if host is None else network_of(host)
        try:
            if service.manager.draining:
                raise Stopping
            # First what tells strangers apart, so that none can use up what the others share.
            service.admission.check_network(network)
            service.origins.check(websocket)
            service.admission.enter(network)
        except Refused as refusal:
            await self._deny(websocket, refusal)
            return
        try:
            identity = await self._admit(websocket)
            if identity is None:
                return
            if wire := offered_wire(websocket, settings.close_timeout_s):
                await self._live(identity, wire, host)
            else:
                async with asgi_wire(websocket, settings.close_timeout_s) as wire:
                    await self._live(identity, wire, host)
        finally:
            service.admission.leave(network)

    async def _admit(self, websocket: WebSocket) -> Identity | None:
        offered = websocket.scope["subprotocols"]
        subprotocol = SUBPROTOCOL if SUBPROTOCOL in offered else None
        try:
            identity = await self._service.authenticator.authenticate(websocket)
        except Refused as refusal:
            await self._deny(websocket, refusal)
            return None
        except Rejected as rejection:
            # A browser learns nothing from a refused handshake, but it can read a close code.
            log.info("connection rejected", reason=rejection.close_as.reason)
            self._rejected.add(rejection.close_as.code)
            await websocket.accept(subprotocol)
            await websocket.close(*rejection.close_as)
            return None
        await websocket.accept(subprotocol)
        # Credentials, for the greater part, which need not lie in memory as long as this lasts.
        websocket.scope.update(headers=[], query_string=b"", subprotocols=[])
        return identity

    async def _live(self, identity: Identity, wire: Wire, host: str | None) -> None:
        connection = Connection(identity, wire, self._service.flusher, self._service.settings)
        # For every line logged in this connection's task, which ends with it.
        structlog.contextvars.bind_contextvars(connection=connection.id, user=connection.user)
        log.info("connection opened", client=host)
        self._opened.add()
        opened_at = monotonic()
        welcomed = False
        try:
            await self._service.manager.add(connection)
            connection.open(self._welcome(connection))
            welcomed = True
            await self._tell(self._router.on_connect, connection)
            await self._receive(connection, wire)
        except Rejected as rejection:
            connection.close(rejection.close_as)
        except Exception:
            log.exception("connection failed")
            connection.close(INTERNAL_ERROR)
        finally:
            # Still open only if this task was cancelled, at the end of the server's patience.
            connection.close(SERVICE_RESTART)
            self._service.manager.remove(connection)
            if welcomed:
                await self._tell(self._router.on_disconnect, connection)
            code, reason = connection.closed or (None, None)
            self._closed.add(code)
            log.info(
                "connection closed",
                code=code,
                reason=reason,
                seconds=round(monotonic() - opened_at, 3),
            )

    async def _receive(self, connection: Connection, wire: Wire) -> None:
        service, flusher = self._service, self._service.flusher
        unanswered: Future[Any] | None = None
        handled = 0
        while connection.closed is None:
            if await wire.arrival():
                handled = 0
            for event in wire.take():
                handed_out = flusher.handed_out
                text = event.get("text")
                if text is not None:
                    if connection.closed is None:
                        unanswered = await self._dispatcher.dispatch(service, connection, text)
                elif event["type"] == "websocket.disconnect":
                    code = int(event.get("code") or NO_STATUS)  # the library's are of an enum
                    # Not the event's reason, which may be the client's text.
                    connection.lost(Close(code, event.get("cause", "closed by the client")))
                else:
                    connection.close(UNSUPPORTED_DATA)
                handled += 1
                gave_many = flusher.handed_out - handed_out > FEW
                if handled % BURST == 0 or (gave_many and flusher.full):
                    await self._give_way(unanswered)

    async def _give_way(self, unanswered: Future[Any] | None) -> None:
        if unanswered is not None:
            await wait([unanswered])
        await self._service.flusher.catch_up()

    async def _tell(self, observers: Sequence[Observer], connection: Connection) -> None:
        for observer in observers:
            try:
                await observer(self._service, connection)
            except Exception:
                log.exception("observer failed")

    async def _deny(self, websocket: WebSocket, refusal: Refused) -> None:
        host = websocket.client and websocket.client.host
        log.info("handshake refused", status=refusal.status, reason=refusal.reason, client=host)
        self._refused.add(refusal.status)
        if "websocket.http.response" not in websocket.scope.get("extensions", {}):
            await websocket.close()  # which such a server turns into a plain 403
            return
        headers = {}
        if refusal.retry_after_s is not None:
            headers["Retry-After"] = str(refusal.retry_after_s)
        phrase = HTTPStatus(refusal.status).phrase
        await websocket.send_denial_response(PlainTextResponse(phrase, refusal.status, headers))

    def _welcome(self, connection: Connection) -> Welcome:
        settings = self._service.settings
        return Welcome(
            connection=connection.id,
            user=connection.user,
            heartbeat=settings.heartbeat_terms(),
            limits=settings.limits(),
            expires_at=connection.identity.expires_at,
        )
