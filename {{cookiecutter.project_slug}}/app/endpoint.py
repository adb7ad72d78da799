"""One connection's life: admit, authenticate, welcome, receive and dispatch, clean up."""

from collections.abc import Sequence
from http import HTTPStatus
from time import monotonic

import structlog
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket

from .commands import CommandRouter, Dispatcher, Observer
from .connection import Connection
from .errors import Refused, Rejected
from .protocol import (
    INTERNAL_ERROR,
    SERVICE_RESTART,
    SUBPROTOCOL,
    UNSUPPORTED_DATA,
    Close,
    Welcome,
)
from .service import Service
from .wire import Wire, open_wire

log = structlog.stdlib.get_logger(__name__)


class Endpoint:
    """The WebSocket route."""

    def __init__(self, service: Service, router: CommandRouter) -> None:
        self._service = service
        self._router = router
        self._dispatcher = Dispatcher(router)

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one connection, from its handshake to its end."""
        try:
            with self._service.manager.slot():
                self._service.origins.check(websocket)
                await self._admit(websocket)
        except Refused as refusal:
            log.info("handshake refused", status=refusal.status)
            await _deny(websocket, refusal)

    async def _admit(self, websocket: WebSocket) -> None:
        offered = websocket.scope["subprotocols"]
        subprotocol = SUBPROTOCOL if SUBPROTOCOL in offered else None
        try:
            identity = await self._service.authenticator.authenticate(websocket)
        except Rejected as rejection:
            # A browser learns nothing from a refused handshake, but it can read a close code.
            log.info("connection rejected", reason=rejection.close.reason)
            await websocket.accept(subprotocol)
            await websocket.close(*rejection.close)
            return
        await websocket.accept(subprotocol)
        async with open_wire(websocket) as wire:
            service = self._service
            connection = Connection(identity, wire, service.flusher, service.settings)
            with structlog.contextvars.bound_contextvars(
                connection=connection.id, user=connection.user
            ):
                log.info("connection opened", client=websocket.client and websocket.client.host)
                await self._live(connection, wire)

    async def _live(self, connection: Connection, wire: Wire) -> None:
        opened_at = monotonic()
        try:
            await self._service.manager.add(connection)
            connection.send(self._welcome(connection))
            await self._tell(self._router.on_connect, connection)
            await self._receive(connection, wire)
        except Rejected as rejection:
            connection.close(rejection.close)
        except Exception:
            log.exception("connection failed")
            connection.close(INTERNAL_ERROR)
        finally:
            connection.close(SERVICE_RESTART)  # says nothing unless the server cancelled this task
            self._service.manager.remove(connection)
            await self._tell(self._router.on_disconnect, connection)
            log.info(
                "connection closed",
                code=connection.closed and connection.closed.code,
                seconds=round(monotonic() - opened_at, 3),
            )

    async def _receive(self, connection: Connection, wire: Wire) -> None:
        while True:
            event = await wire.receive()
            if event["type"] == "websocket.disconnect":
                connection.lost(Close(int(event["code"]), "closed by the client"))
                return
            if connection.closed is not None:
                continue
            frame = event.get("text")
            if frame is None:
                connection.close(UNSUPPORTED_DATA)
            else:
                await self._dispatcher.dispatch(self._service, connection, frame)

    async def _tell(self, observers: Sequence[Observer], connection: Connection) -> None:
        for observer in observers:
            try:
                await observer(self._service, connection)
            except Exception:
                log.exception("observer failed")

    def _welcome(self, connection: Connection) -> Welcome:
        settings = self._service.settings
        return Welcome(
            connection=connection.id,
            user=connection.user,
            heartbeat=settings.heartbeat_terms(),
            limits=settings.limits(),
            expires_at=connection.identity.expires_at,
        )


async def _deny(websocket: WebSocket, refusal: Refused) -> None:
    if "websocket.http.response" not in websocket.scope.get("extensions", {}):
        await websocket.close()  # which such a server turns into a plain 403
        return
    headers = {}
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    phrase = HTTPStatus(refusal.status).phrase
    await websocket.send_denial_response(PlainTextResponse(phrase, refusal.status, headers))
