"""The WebSocket endpoint: the life of a connection from the handshake to the clean-up."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

import structlog
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..auth.identity import Identity
from ..commands.dispatcher import Dispatcher
from ..commands.router import CommandRouter, Observer
from ..connections.connection import Connection
from ..connections.delivery import MANY_FRAMES, MESSAGES_IN_A_ROW
from ..connections.guard import Guard
from ..errors import ConnectionEnded, Refused, Rejected, TimedOut, Unavailable, close_codes
from ..limits.admission import network_of
from ..metrics import OTHER
from ..policy import Policy, settled
from ..protocol import (
    CLIENT_CODES,
    INTERNAL_ERROR,
    NO_STATUS,
    SERVICE_RESTART,
    UNSUPPORTED_DATA,
    ClientClose,
    Close,
)
from ..service import Service
from ..wire.asgi import CLOSED_BY_CLIENT, Wire, connect_wire
from ..wire.inbox import AsgiEvent
from .handshake import Handshakes, welcome
from .turns import Turns

DURATIONS_S = (1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0)

LEAVE_GRACE_S = 0.5
"""How long the messages of a client may be handled after it has disconnected."""

log = structlog.stdlib.get_logger(__name__)


class Endpoint:
    """The WebSocket route."""

    def __init__(self, service: Service, router: CommandRouter, policy: Policy[Any, Any]) -> None:
        self.service = service
        self.policy = policy
        self.router = router
        metrics = service.metrics
        self.dispatcher = Dispatcher(router, metrics, service.settings.handler_timeout_s)
        self.handshakes = Handshakes(service)
        self.turns = Turns()
        self.opened = metrics.counter("connections_opened", "Connections opened.")
        self.closed = metrics.counter(
            "connections_closed",
            "Connections closed, by the server or by the client. A lost connection and a protocol "
            "error of the client count as closed by the client.",
            labels=("by", "code"),
            known=_known_ends(),
        )
        self.durations = metrics.histogram(
            "connection_duration_seconds", "How long closed connections were open.", DURATIONS_S
        )

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one connection, from its handshake to its end."""
        address = websocket.client  # the one that a proxy reports, if uvicorn trusts the proxy
        network = None if address is None else network_of(address.host)
        try:
            self.handshakes.admit(websocket, network)
        except Refused as refusal:
            await self.handshakes.refuse(websocket, refusal)
            return
        client = AdmittedClient(self, websocket, network)
        try:
            async with connect_wire(websocket, self.service.settings) as wire:
                await client.run(wire)
        finally:
            client.close()


class AdmittedClient:
    """A client that was admitted: its handshake, then its connection.

    After the client has disconnected, its messages are handled for `LEAVE_GRACE_S` at most. Then
    the connection is removed everywhere, and the team's code that runs for it is cancelled.
    """

    __slots__ = (
        "_connection",
        "_endpoint",
        "_guard",
        "_is_admitted",
        "_leave_timer",
        "_network",
        "_websocket",
        "_wire",
    )

    def __init__(self, endpoint: Endpoint, websocket: WebSocket, network: str | None) -> None:
        self._endpoint = endpoint
        self._websocket = websocket
        self._network = network
        self._wire: Wire
        self._guard = Guard(endpoint.service.settings.handshake_timeout_s)
        self._connection: Connection | None = None
        self._is_admitted = True
        self._leave_timer: asyncio.TimerHandle | None = None

    async def run(self, wire: Wire) -> None:
        """Complete the handshake and serve the connection."""
        self._wire = wire
        wire.inbox.when_gone(self._leave_soon)
        identity = None
        with suppress(OSError, WebSocketDisconnect):  # the client has gone
            identity = await self._endpoint.handshakes.complete(self._websocket, self._guard)
        if identity is not None and self._is_admitted:
            await self._serve_connection(identity)

    async def _serve_connection(self, identity: Identity) -> None:
        endpoint = self._endpoint
        service, router, wire = endpoint.service, endpoint.router, self._wire
        self._guard.close()
        budget = service.budgets.enter(identity.user)
        connection = Connection(identity, wire, service.delivery, service.settings, budget)
        self._connection, self._guard = connection, connection.guard
        wire.inbox.count_frames = connection.pay_for_frames
        # For every line logged in this connection's task, which ends with it.
        structlog.contextvars.bind_contextvars(connection=connection.id, user=connection.user)
        log.info("connection opened", client=self._websocket.client and self._websocket.client.host)
        endpoint.opened.inc()
        opened_at, was_welcomed = monotonic(), False
        try:
            was_welcomed = await self._begin(connection)
            if was_welcomed:
                await self._observe(router.on_connect, connection, Rejected, ConnectionEnded)
            await self._receive(connection)
        except ConnectionEnded:
            pass
        except (Rejected, Unavailable) as rejection:
            connection.reject(rejection)
        except Exception:
            log.exception("connection failed")
            connection.close(INTERNAL_ERROR)
        finally:
            # Still open only if this task was cancelled, because the server stops.
            connection.close(SERVICE_RESTART)
            wire.inbox.count_frames = None  # a reference cycle
            service.budgets.leave(connection.user)
            self._leave()
            self._note_end(connection.closed or SERVICE_RESTART, monotonic() - opened_at)
            if was_welcomed:
                await self._observe(router.on_disconnect, connection)

    async def _begin(self, connection: Connection) -> bool:
        """Register the connection and welcome the client, unless the connection has ended."""
        router, service = self._endpoint.router, self._endpoint.service
        if router.begin is not None:
            with self._guard:
                connection.state = await router.begin(service, connection)
        with self._guard:
            if await settled(self._endpoint.policy.can_exceed_rates(service, connection)):
                connection.limits.exempt()
        with self._guard:
            await service.manager.add(connection)
            await service.check_ban(connection.user)  # a later ban finds the connection registered
        if connection.closed is not None:
            return False
        connection.open(welcome(connection, service.settings))
        service.manager.replace_older(connection)
        return True

    async def _receive(self, connection: Connection) -> None:
        endpoint, service, wire = self._endpoint, self._endpoint.service, self._wire
        delivery, dispatcher, turns = service.delivery, endpoint.dispatcher, endpoint.turns
        unanswered: asyncio.Future[object] | None = None
        handled = 0
        while connection.closed is None:
            if await wire.arrival():
                handled = 0
            for message in wire.inbox.take():
                if monotonic() > turns.end:
                    await turns.begin(connection.user, wire)
                enqueued = delivery.enqueued
                if isinstance(message, str):
                    if connection.closed is None and self._is_admitted:
                        pending = await dispatcher.dispatch(service, connection, message)
                        unanswered = pending or unanswered
                else:
                    _end_by(connection, message)
                handled += 1
                sent_many = delivery.enqueued - enqueued > MANY_FRAMES
                must_end = sent_many and delivery.is_congested
                turns.count(connection.user, message, must_end=must_end)
                if handled % MESSAGES_IN_A_ROW == 0 or (sent_many and delivery.is_full):
                    await self._give_way(unanswered)

    async def _give_way(self, unanswered: asyncio.Future[object] | None) -> None:
        if unanswered is not None and self._is_admitted:
            with suppress(TimedOut, ConnectionEnded), self._guard:
                await asyncio.wait([unanswered])
        await self._endpoint.service.delivery.catch_up()

    async def _observe(
        self, observers: list[Observer], connection: Connection, *raised: type[Exception]
    ) -> None:
        for observer in observers:
            try:
                with self._guard:
                    await observer(self._endpoint.service, connection)
            except raised:
                raise
            except Exception:
                log.exception("observer failed")

    def _leave_soon(self) -> None:
        if self._is_admitted:
            # During the handshake there is no message to handle.
            delay_s = 0.0 if self._connection is None else LEAVE_GRACE_S
            loop = asyncio.get_running_loop()
            self._leave_timer = loop.call_later(delay_s, self._interrupt)

    def _interrupt(self) -> None:
        if self._connection is not None:
            for message in self._wire.inbox.take():
                if not isinstance(message, str) and message["type"] == "websocket.disconnect":
                    self._connection.mark_closed(_end_of(message))
        self._leave()
        self._guard.end()

    def _leave(self) -> None:
        """Remove the connection everywhere. Idempotent; never waits."""
        if self._leave_timer is not None:
            self._leave_timer.cancel()
        try:
            if self._connection is not None:
                self._endpoint.service.forget(self._connection)
        finally:
            if self._is_admitted:
                self._is_admitted = False
                self._endpoint.service.admission.leave(self._network)

    def close(self) -> None:
        """Remove the connection everywhere, and stop the timers. Idempotent."""
        self._leave()
        self._guard.close()

    def _note_end(self, end: Close, open_s: float) -> None:
        by = "client" if isinstance(end, ClientClose) else "server"
        # Clients can send nearly any code, also 1011, which would look like an internal error.
        counted_code = end.code if by == "server" or end.code in CLIENT_CODES else OTHER
        self._endpoint.closed.labels(by, counted_code).inc()
        self._endpoint.durations.observe(open_s)
        log.info(
            "connection closed", by=by, code=end.code, reason=end.reason, seconds=round(open_s, 3)
        )


def _end_by(connection: Connection, event: AsgiEvent) -> None:
    if event["type"] == "websocket.disconnect":
        connection.mark_closed(_end_of(event))
    else:
        connection.close(UNSUPPORTED_DATA)


def _end_of(event: AsgiEvent) -> Close:
    code = int(event.get("code") or NO_STATUS)  # the library's codes are an enum's
    cause = event.get("cause", CLOSED_BY_CLIENT)
    if cause is None:  # by our protocol class itself, because the server stops
        return Close(code, event["reason"])
    return ClientClose(code, cause)  # not the event's reason, which may be the client's text


def _known_ends() -> Iterator[tuple[str, object]]:
    for code in (*CLIENT_CODES, OTHER):
        yield "client", code
    for close in close_codes():
        yield "server", close.code
