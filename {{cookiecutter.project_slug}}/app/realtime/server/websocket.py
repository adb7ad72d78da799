"""The wire on uvicorn: its protocol class for one connection, with a shorter way in and out.

What the service mostly deals with, whole text messages, is read and written here. The handshake,
control frames, fragments and whatever breaks the rules stay with uvicorn and the library under it.
"""

import asyncio
import select
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import OPEN

from ..metrics import CountBy
from ..protocol import ABNORMAL_CLOSURE, SERVICE_RESTART, Close
from ..wire.asgi import EXTENSION, READ_AHEAD_BYTES, Event
from ..wire.frame import FrameScanner, read_texts

log = structlog.stdlib.get_logger(__name__)

REFUSALS = (
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.UPGRADE_REQUIRED,
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
)
"""What the library answers to requests that are no handshake, besides 400."""

WRITABLE = asyncio.Event()
"""Shared by all connections that can be written to, which is nearly all of them."""
WRITABLE.set()

PEER_CHECK_S = 0.25
"""How often a connection that is not read from is looked at."""

HANG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR

LOST = Close(ABNORMAL_CLOSURE, "")
PING_UNANSWERED = Close(1011, "keepalive ping timeout")

BROKE_RULES = "the client broke the protocol"
ENDED_EARLY = "the client ended the connection without a close frame"
RESET = "the client reset the connection"
TIMED_OUT = "the client did not take what it was sent in time, or has vanished"
SILENT = "the client did not answer a ping in time"
UNKNOWN = "the connection was lost"
"""Why a connection ends that nobody has closed on purpose."""


class Inbox:
    """Events that wait for their one reader: an `asyncio.Queue` of a tenth of the size."""

    __slots__ = ("_events", "_gone", "_loop", "_reader", "has_end", "size")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: list[Event] = []
        self._reader: asyncio.Future[bool] | None = None
        self._gone: Callable[[], None] | None = None
        self.has_end = False
        self.size = 0
        """How many characters of text wait."""

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        """Call back, once, when the end has come, in the next turn of the loop at the earliest."""
        self._gone = callback
        if self.has_end and callback is not None:
            self._loop.call_soon(callback)
            self._gone = None

    def empty(self) -> bool:
        """Return whether nothing waits."""
        return not self._events

    def put_texts(self, texts: Iterable[str]) -> None:
        """Add messages."""
        for text in texts:
            self.size += len(text)
            self._events.append({"type": "websocket.receive", "text": text})
        self._wake()

    def put_nowait(self, event: Event) -> None:
        """Add an event of uvicorn's, which knows an `asyncio.Queue` here."""
        if event["type"] == "websocket.disconnect":
            self.has_end = True
            self.when_gone(self._gone)
        else:
            self.size += len(event.get("text") or "")
        self._events.append(event)
        self._wake()

    def _wake(self) -> None:
        if self._events and self._reader is not None and not self._reader.done():
            self._reader.set_result(True)

    async def get(self) -> Event:
        """Wait for the next event."""
        await self.arrival()
        event = self._events.pop(0)
        self.size -= len(event.get("text") or "")
        return event

    def take(self) -> list[Event]:
        """Return all there are."""
        events, self._events = self._events, []
        self.size = 0
        return events

    def arrival(self) -> asyncio.Future[bool]:
        """Return what is done as soon as there is an event, and tells whether that took time."""
        self._reader = self._loop.create_future()
        if self._events:
            self._reader.set_result(False)
        return self._reader


class FrameProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which also is a `Wire`, and always ends what it closes.

    uvicorn closes a transport at once, or waits for good. If bytes have come that nobody read, the
    system answers such a close by a reset, which overtakes the close frame; and a peer that does
    not read keeps the transport, and what it was sent. Here each connection with a close frame is
    read on, and what comes is dropped, until the peer has answered and gone (RFC 6455 §7.1.1), or
    until a deadline.

    ``close_sent`` is uvicorn's name for: nothing more is sent, or handed to the app.
    """

    __slots__ = (
        "_early",
        "_inbox",
        "_received_at",
        "_refusals",
        "_scanner",
        # uvicorn's own, asked for each message. With them, its other attributes are few enough (30)
        # for CPython to keep their names once for all connections.
        "close_sent",
        "config",
        "conn",
        "handshake_complete",
        "handshake_initiated",
        "loop",
        "queue",
        "read_paused",
        "transport",
        "writable",
    )

    def __init__(
        self, *args: Any, refusals: CountBy, close_timeout_s: float, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.close_timeout = close_timeout_s
        self._refusals = refusals
        self._inbox = Inbox(self.loop)
        self.queue = self._inbox  # type: ignore[assignment]  # which has what uvicorn calls
        self.writable = WRITABLE
        self._received_at = 0.0
        self._scanner = FrameScanner()
        self._early = b""

    @property
    def heard_at(self) -> float:
        """When bytes came last; now, while the app is busy and nobody listens."""
        return self.loop.time() if self.read_paused else self._received_at

    def handle_connect(self, event: Request) -> None:
        """Offer the connection to the app, which runs in the next turn of the loop."""
        super().handle_connect(event)
        if self.response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            self.scope["extensions"][EXTENSION] = {"wire": self}
        else:
            self._note_refusal(self.response.status_code)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """Make sure that the connection ends with the app."""
        super().on_task_complete(task)
        self._inbox.when_gone(None)
        del self.scope["extensions"][EXTENSION]  # which refers to this object
        self._cut_off_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the app why, and let go of the library's parser, which refers to itself.

        Memory is free as soon as nothing refers to it, without the garbage collector, which has
        better things to do than to walk through all that the living connections hold.
        """
        if not self.close_sent:
            self._tell_app(LOST, cause_of(exc))
        super().connection_lost(exc)
        self.conn.parser.close()
        self.conn.parser_exc = None

    async def send(self, message: ASGISendEvent) -> None:
        """Do what the app says; with the handshake answered, read what came too early.

        Raises:
            ClientDisconnected: the connection is closing.

        """
        if self.handshake_complete and message["type"] == "websocket.close":
            self.close(Close(message.get("code", 1000), message.get("reason") or ""))
            return
        if self.close_sent:
            raise ClientDisconnected
        await super().send(message)
        if self._early and self.handshake_complete:
            early, self._early = self._early, b""
            self.data_received(early)

    def data_received(self, data: bytes) -> None:
        """Read whole text messages, as long as no frame or message is unfinished."""
        self._received_at = self.loop.time()
        conn = self.conn
        if conn.state is OPEN and self._scanner.between_frames and conn.current_size is None:
            texts, size = read_texts(data, self.config.ws_max_size)
            self._inbox.put_texts(texts)
            if self._inbox.size >= READ_AHEAD_BYTES:
                self._pause_reading()
            if size == len(data):
                return
            data = data[size:]
        self._read_others(data)

    def _read_others(self, data: bytes) -> None:
        if self.handshake_initiated:
            if not self.handshake_complete:
                self._keep_early(data)
                return
            self._scanner.scan(data)
        if not self.close_sent:
            try:
                super().data_received(data)
            except InvalidState:  # bad text, and behind it a close frame that is answered already
                self.handle_parser_exception()
        if self.close_sent and self._scanner.closed:
            self._end()

    def send_receive_event_to_app(self) -> None:
        """Take in a message of several frames, and pause no earlier than for others."""
        was_paused = self.read_paused
        super().send_receive_event_to_app()
        if not was_paused and self.read_paused:
            self.read_paused = False
            if self._inbox.size >= READ_AHEAD_BYTES:
                self._pause_reading()
            else:
                self.transport.resume_reading()

    def _pause_reading(self) -> None:
        # The app is busy with what came before: the rest waits in the system's buffers.
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()
            self.loop.call_later(PEER_CHECK_S, self._check_peer)

    def _check_peer(self) -> None:
        # The event loop does not tell of the end of a connection that it does not read from.
        if self.read_paused and not self.disconnected:
            if has_hung_up(self.transport):
                self.transport.abort()
            else:
                self.loop.call_later(PEER_CHECK_S, self._check_peer)

    def _keep_early(self, data: bytes) -> None:
        # A client has to wait for the answer (RFC 6455 §4.1); most that do not mean no harm.
        self._early += data
        if len(self._early) > self.config.ws_max_size:
            self.transport.abort()

    def handle_events(self) -> None:
        """Note whether the library has refused the handshake."""
        super().handle_events()
        if not self.handshake_initiated:  # though the whole request has come
            self._refuse()

    def _refuse(self) -> None:
        # The library's own answer, if it has one, lies where uvicorn does not look for it.
        answer = b"".join(self.conn.data_to_send())
        if not answer:
            reason = "This is no WebSocket handshake.\n"
            answer = self.conn.reject(HTTPStatus.BAD_REQUEST, reason).serialize()
        _, status, _ = answer.split(b" ", 2)  # HTTP/1.1 400 Bad Request
        self._note_refusal(int(status))
        self.transport.write(answer)
        self.transport.close()

    def _note_refusal(self, status: int) -> None:
        log.info("request refused", status=status, client=self.client and self.client[0])
        self._refusals.add(status)

    def handle_ping(self) -> None:
        """Answer, unless the peer leaves its answers unread; a later one will do (§5.5.3)."""
        closing = self.conn.state is not OPEN  # the answer to a close frame waits with the pongs
        if closing or self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def handle_close(self, event: Frame) -> None:
        """Send the library's answer to a close frame (RFC 6455 §5.5.1)."""
        if not self.close_sent and self.conn.close_rcvd is not None:
            self._begin_to_close(Close(self.conn.close_rcvd.code, self.conn.close_rcvd.reason))

    def handle_parser_exception(self) -> None:
        """Send the library's close frame to a peer that breaks the rules (RFC 6455 §7.1.7)."""
        if not self.close_sent and self.conn.close_sent is not None:
            close = Close(self.conn.close_sent.code, self.conn.close_sent.reason)
            self._begin_to_close(close, BROKE_RULES)

    def eof_received(self) -> None:
        """Take it for the end when the peer will send no more."""
        if not self.close_sent and self.handshake_complete:
            self._begin_to_close(LOST, ENDED_EARLY)
        self._cut_off_later()

    def pause_writing(self) -> None:
        """Make uvicorn's own `send` wait, for other routes than the service's."""
        self.writable = asyncio.Event()

    def keepalive_timeout(self) -> None:
        """Close on a peer that answers no ping, which may well not take the close frame either."""
        self.pong_timer = None
        if not self.close_sent:
            self._tell_app(LOST, SILENT)
            self.close(PING_UNANSWERED)

    def shutdown(self) -> None:
        """Begin the closing handshake, unless it is under way."""
        if self.handshake_complete:
            self.close(SERVICE_RESTART)
        else:
            super().shutdown()

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call back, once, when the peer has gone or the closing handshake has begun."""
        self._inbox.when_gone(callback)

    def arrival(self) -> asyncio.Future[bool]:
        """Wait until the peer has sent something, or has gone."""
        return self._inbox.arrival()

    def take(self) -> Sequence[Event]:
        """Return what has come, and listen for more."""
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        return self._inbox.take()

    def write(self, frames: Sequence[bytes], max_unsent_bytes: int) -> bool:
        """Write all frames in one go, unless that is too much."""
        owed = self.transport.get_write_buffer_size()
        if owed and owed + sum(map(len, frames)) > max_unsent_bytes:
            return False
        if not self.close_sent and not self.transport.is_closing():
            self.transport.write(b"".join(frames))
        return True

    def unsent_bytes(self) -> int:
        """Return the size of the transport's buffer."""
        return self.transport.get_write_buffer_size()

    def close(self, close: Close) -> None:
        """Start the closing handshake (RFC 6455 §7.1.2)."""
        if not self.close_sent and not self.transport.is_closing():
            self.conn.send_close(*close)
            self._begin_to_close(close)

    def _begin_to_close(self, close: Close, cause: str | None = None) -> None:
        # Sends the close frame that the library has made, if it has made one.
        self._tell_app(close, cause)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:  # or the peer's answer would never be read
            self.read_paused = False
            self.transport.resume_reading()
        self._cut_off_later()

    def _tell_app(self, close: Close, cause: str | None = None) -> None:
        # The reason may be the client's text. The cause is the service's own, for the log.
        event = {"type": "websocket.disconnect", "code": close.code, "reason": close.reason}
        self._inbox.put_nowait(event if cause is None else event | {"cause": cause})

    def _end(self) -> None:
        # Close frames have gone both ways. The peer ends the connection as soon as it has read
        # that nothing follows. TLS cannot be ended in one direction alone.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _cut_off_later(self) -> None:
        # A transport that is only closed waits for its buffer, which a stuck peer never empties.
        # uvicorn, too, leaves a connection with this timer alone, and cancels it in the end.
        if self.close_timer is None and not self.disconnected:
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)


def has_hung_up(transport: asyncio.BaseTransport) -> bool:
    """Return whether the peer has ended the connection, even if unread data comes before the end.

    Linux alone tells of an orderly end in that case (POLLRDHUP).
    """
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), HANG_UP)
    return bool(poll.poll(0))


def cause_of(failure: Exception | None) -> str:
    """Return in words why the system has given a connection up."""
    if isinstance(failure, ConnectionResetError | BrokenPipeError):
        return RESET
    return TIMED_OUT if isinstance(failure, TimeoutError) else UNKNOWN
