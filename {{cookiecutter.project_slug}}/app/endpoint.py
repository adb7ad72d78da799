"""One connection's life: admit, authenticate, welcome, receive and dispatch, clean up."""

from asyncio import sleep
from collections.abc import Sequence
from http import HTTPStatus
from itertools import count
from time import monotonic

import structlog
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket

from .commands import CommandRouter, Dispatcher, Observer
from .connection import Connection, Flusher
from .errors import Refused, Rejected
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
from .wire import Wire, open_wire

log = structlog.stdlib.get_logger(__name__)

BURST = 32
"""How many frames of one client are handled in a row, before everybody else has a turn."""


class Endpoint:
    """The WebSocket route."""

    def __init__(self, service: Service, router: CommandRouter) -> None:
        self._service = service
        self._router = router
        self._dispatcher = Dispatcher(router)
        self._flusher = Flusher()

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
            log.info("connection rejected", reason=rejection.close_as.reason)
            await websocket.accept(subprotocol)
            await websocket.close(*rejection.close_as)
            return
        await websocket.accept(subprotocol)
        settings = self._service.settings
        async with open_wire(websocket, settings.close_timeout_s) as wire:
            connection = Connection(identity, wire, self._flusher, settings)
            with structlog.contextvars.bound_contextvars(
                connection=connection.id, user=connection.user
            ):
                log.info("connection opened", client=websocket.client and websocket.client.host)
                await self._live(connection, wire)

    async def _live(self, connection: Connection, wire: Wire) -> None:
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
            log.info(
                "connection closed",
                code=connection.closed and connection.closed.code,
                seconds=round(monotonic() - opened_at, 3),
            )

    async def _receive(self, connection: Connection, wire: Wire) -> None:
        for received in count(1):
            event = await wire.receive()
            if event["type"] == "websocket.disconnect":
                connection.lost(Close(event.get("code") or NO_STATUS, "closed by the client"))
                return
            if connection.closed is not None:
                continue
            frame = event.get("text")
            if frame is None:
                connection.close(UNSUPPORTED_DATA)
            else:
                await self._dispatcher.dispatch(self._service, connection, frame)
            if received % BURST == 0:
                await sleep(0)

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
