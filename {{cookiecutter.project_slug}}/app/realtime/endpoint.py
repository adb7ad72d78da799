"""One connection's life: admit, authenticate, welcome, receive and dispatch, clean up."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from time import monotonic

import structlog
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket

from . import protocol
from .auth.identity import Identity
from .commands.router import CommandRouter, Dispatcher, Observer
from .connection import Connection
from .delivery import BURST, FEW
from .errors import (
    AuthenticatorDown,
    AuthenticatorFailed,
    ConnectionEnded,
    NotStarted,
    Refused,
    Rejected,
    Stopping,
    TimedOut,
    declared,
)
from .guard import Guard
from .limits.admission import Place, network_of
from .metrics import OTHER
from .protocol import (
    CLIENT_CODES,
    INTERNAL_ERROR,
    NO_STATUS,
    SERVICE_RESTART,
    SUBPROTOCOL,
    UNSUPPORTED_DATA,
    ClientClose,
    Close,
    HeartbeatTerms,
    Welcome,
)
from .service import Service
from .settings import RealtimeSettings
from .wire.asgi import Event, Wire, connect_wire

LEAVE_GRACE_S = 0.5
"""How long what a peer has sent may still be handled after it has gone."""

log = structlog.stdlib.get_logger(__name__)


class Endpoint:
    """The WebSocket route."""

    def __init__(self, service: Service, router: CommandRouter) -> None:
        self.service = service
        self.router = router
        self.limits = limits_of(service.settings)
        self.heartbeat = heartbeat_of(service.settings)
        metrics = service.metrics
        self.dispatcher = Dispatcher(router, metrics, service.settings.handler_timeout_s)
        self._refused = metrics.count_by(
            ("status",),
            "handshakes_refused",
            "Handshakes answered with an HTTP status.",
            known=((status,) for status in declared(Refused, "status", int)),
        )
        self.rejected = metrics.count_by(
            ("code",),
            "connections_rejected",
            "Connections closed in place of a welcome.",
            known=((close.code,) for close in declared(Rejected, "close_as", Close)),
        )
        self.opened = metrics.count("connections_opened", "Connections that began.")
        self.closed = metrics.count_by(
            ("by", "code"),
            "connections_closed",
            "Connections that ended, closed by the server, or by the client: it has left, is lost, "
            "or broke the protocol.",
            known=known_ends(),
        )

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one connection, from its handshake to its end."""
        service = self.service
        # The address of the proxy's client, if uvicorn trusts the proxy.
        host = None if websocket.client is None else websocket.client.host
        network = None if host is None else network_of(host)
        try:
            if not service.started:
                raise NotStarted
            if service.manager.draining:
                raise Stopping
            # First what tells strangers apart, so that none can use up what the others share.
            service.admission.check_network(network)
            service.origins.check(websocket)
            place = service.admission.enter(network)
        except Refused as refusal:
            await self.deny(websocket, refusal)
            return
        try:
            async with connect_wire(websocket, service.settings.close_timeout_s) as wire:
                await Session(self, websocket, wire, place).run()
        finally:
            place.leave()

    async def deny(self, websocket: WebSocket, refusal: Refused) -> None:
        """Answer a handshake with an HTTP status."""
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


class Session:
    """A handshake that has been admitted, and the connection that it becomes.

    When the peer has gone, what it sent last is still handled, but only for `LEAVE_GRACE_S`: then
    the connection is taken out of everything, whatever the team's code is doing for it, and that
    code is cancelled.
    """

    __slots__ = (
        "_connection",
        "_endpoint",
        "_guard",
        "_leave_by",
        "_place",
        "_websocket",
        "_wire",
    )

    def __init__(self, endpoint: Endpoint, websocket: WebSocket, wire: Wire, place: Place) -> None:
        self._endpoint = endpoint
        self._websocket = websocket
        self._wire = wire
        self._place = place
        self._guard = Guard(endpoint.service.settings.handshake_timeout_s)
        self._connection: Connection | None = None
        self._leave_by: asyncio.TimerHandle | None = None
        wire.when_gone(self._leave_soon)

    async def run(self) -> None:
        """Serve it to its end."""
        try:
            identity = await self._admit()
            if identity is not None:
                await self._live(identity)
        finally:
            self._leave()
            self._guard.close()

    def _leave_soon(self) -> None:
        if self._place.is_taken:
            loop = asyncio.get_running_loop()
            self._leave_by = loop.call_later(LEAVE_GRACE_S, self._interrupt)

    def _interrupt(self) -> None:
        if self._connection is not None:
            for event in self._wire.take():
                if event["type"] == "websocket.disconnect":
                    self._connection.lost(_end_of(event))
        self._leave()
        self._guard.end()

    def _leave(self) -> None:
        """Take the connection out of everything. Idempotent, and nothing here waits."""
        if self._leave_by is not None:
            self._leave_by.cancel()
        try:
            if self._connection is not None:
                self._endpoint.service.forget(self._connection)
        finally:
            self._place.leave()

    async def _admit(self) -> Identity | None:
        websocket = self._websocket
        offered = websocket.scope["subprotocols"]
        subprotocol = SUBPROTOCOL if SUBPROTOCOL in offered else None
        try:
            identity = await self._authenticate()
        except Refused as refusal:
            await self._endpoint.deny(websocket, refusal)
            return None
        except ConnectionEnded:
            return None
        except Rejected as rejection:
            # A browser learns nothing from a refused handshake, but it can read a close code.
            reason = rejection.close_as.reason
            log.info("connection rejected", reason=reason, cause=rejection.cause)
            self._endpoint.rejected.add(rejection.close_as.code)
            await websocket.accept(subprotocol)
            await websocket.close(*rejection.close_as)
            return None
        await websocket.accept(subprotocol)
        # Credentials, for the greater part, which need not lie in memory as long as this lasts.
        websocket.scope.update(headers=[], query_string=b"", subprotocols=[])
        return identity

    async def _authenticate(self) -> Identity:
        service = self._endpoint.service
        try:
            call = service.authenticator.authenticate(self._websocket)
            return await self._guard.run(call)
        except (Refused, Rejected, ConnectionEnded):
            raise
        except (TimedOut, OSError) as failure:
            log.warning("authenticator down", error=type(failure).__name__)
            raise AuthenticatorDown from failure
        except Exception as failure:
            log.exception("authenticator failed")
            raise AuthenticatorFailed from failure

    async def _live(self, identity: Identity) -> None:
        endpoint, service = self._endpoint, self._endpoint.service
        connection = Connection(identity, self._wire, service.flusher, service.settings)
        self._guard.close()
        self._connection, self._guard = connection, connection.guard
        # For every line logged in this connection's task, which ends with it.
        structlog.contextvars.bind_contextvars(connection=connection.id, user=connection.user)
        log.info("connection opened", client=self._websocket.client and self._websocket.client.host)
        endpoint.opened.add()
        opened_at = monotonic()
        welcomed = False
        try:
            if endpoint.router.begin is not None:
                connection.state = await self._guard.run(endpoint.router.begin(service, connection))
            await service.manager.add(connection)
            connection.open(self._welcome(connection))
            welcomed = True
            for observer in endpoint.router.on_connect:
                await self._tell(observer, connection)
            await self._receive(connection)
        except ConnectionEnded:
            pass
        except Rejected as rejection:
            connection.close(rejection.close_as)
        except Exception:
            log.exception("connection failed")
            connection.close(INTERNAL_ERROR)
        finally:
            # Still open only if this task was cancelled, at the end of the server's patience.
            connection.close(SERVICE_RESTART)
            self._leave()
            if welcomed:
                await self._say_goodbye(connection)
            end = connection.closed or SERVICE_RESTART
            by, counted_code = end_labels(end)
            endpoint.closed.add(by, counted_code)
            log.info(
                "connection closed",
                by=by,
                code=end.code,
                reason=end.reason,
                seconds=round(monotonic() - opened_at, 3),
            )

    async def _receive(self, connection: Connection) -> None:
        service, dispatcher = self._endpoint.service, self._endpoint.dispatcher
        wire, flusher = self._wire, service.flusher
        unanswered: asyncio.Future[object] | None = None
        handled = 0
        while connection.closed is None:
            if await wire.arrival():
                handled = 0
            for event in wire.take():
                handed_out = flusher.handed_out
                text = event.get("text")
                if text is not None:
                    if connection.closed is None:
                        unanswered = await dispatcher.dispatch(service, connection, text)
                elif event["type"] == "websocket.disconnect":
                    connection.lost(_end_of(event))
                else:
                    connection.close(UNSUPPORTED_DATA)
                handled += 1
                gave_many = flusher.handed_out - handed_out > FEW
                if handled % BURST == 0 or (gave_many and flusher.full):
                    await self._give_way(unanswered)

    async def _give_way(self, unanswered: asyncio.Future[object] | None) -> None:
        if unanswered is not None:
            with suppress(TimedOut):
                await self._guard.run(_settled(unanswered))
        await self._endpoint.service.flusher.catch_up()

    async def _tell(self, observer: Observer, connection: Connection) -> None:
        try:
            await self._guard.run(observer(self._endpoint.service, connection))
        except (Rejected, ConnectionEnded):
            raise
        except Exception:
            log.exception("observer failed")

    async def _say_goodbye(self, connection: Connection) -> None:
        for observer in self._endpoint.router.on_disconnect:
            try:
                await self._tell(observer, connection)
            except Rejected:
                log.exception("observer failed")

    def _welcome(self, connection: Connection) -> Welcome:
        return Welcome(
            connection=connection.id,
            user=connection.user,
            heartbeat=self._endpoint.heartbeat,
            limits=self._endpoint.limits,
            expires_at=connection.identity.expires_at,
        )


def limits_of(settings: RealtimeSettings) -> dict[str, int]:
    """Return the limits that ``welcome`` tells to clients."""
    return {
        "message_bytes": settings.max_message_bytes,
        "messages_per_s": settings.max_messages_per_s,
        "bytes_per_s": settings.max_bytes_per_s,
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
    """Return null: the server sends no pings of its own."""
    return None


# {% endif %}
def _end_of(event: Event) -> ClientClose:
    # Not the event's reason, which may be the client's text. The library's codes are of an enum.
    code = int(event.get("code") or NO_STATUS)
    return ClientClose(code, event.get("cause", "closed by the client"))


async def _settled(future: asyncio.Future[object]) -> None:
    await asyncio.wait([future])


def end_labels(close: Close) -> tuple[str, object]:
    """Return what a connection's end counts as: ``server`` or ``client``, and the code.

    Clients can send nearly any code, 1011 among them, which would look like an internal error.
    """
    if not isinstance(close, ClientClose):
        return "server", close.code
    return "client", close.code if close.code in CLIENT_CODES else OTHER


def known_ends() -> Iterator[tuple[str, object]]:
    """Yield the labels of all ends that can be told before one happens."""
    for code in (*CLIENT_CODES, OTHER):
        yield "client", code
    constants = (value for value in vars(protocol).values() if isinstance(value, Close))
    for close in (*constants, *declared(Rejected, "close_as", Close)):
        yield "server", close.code
