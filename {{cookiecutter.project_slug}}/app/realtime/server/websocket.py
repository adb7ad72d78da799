"""uvicorn's WebSocket protocol with a fast path: the wire of a connection.

Whole text messages are read and written here. uvicorn and the websockets library handle the
handshake, control frames, fragments and protocol errors.
"""

import asyncio
import select
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, cast

import structlog
from prometheus_client import Counter
from pydantic_core import to_json
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from ..errors import PROBLEM_TYPE, problem
from ..protocol import ABNORMAL_CLOSURE, SERVICE_RESTART, Close
from ..wire.asgi import CLOSED_BY_CLIENT, EXTENSION, PROTOCOL_ERROR, READ_AHEAD_BYTES
from ..wire.frame import FrameScanner, read_texts
from ..wire.inbox import Inbox

log = structlog.stdlib.get_logger(__name__)

REFUSALS = (
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.UPGRADE_REQUIRED,
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
)
"""Statuses for malformed handshakes, besides 400."""

WRITABLE = asyncio.Event()
"""Shared by all connections whose transport has not paused writing, which are nearly all."""
WRITABLE.set()

WRITABLE_BYTES = 16_384
"""Unsent bytes beyond which a transport pauses writing, until nearly all are sent."""

FRAMES_AT_ONCE = 100
"""Control frames and fragments that are read before they are counted."""

MAX_DROPPED_FRAMES = 10_000
"""Such frames that are dropped after a close frame; a peer that sends more is cut off."""

LARGE_BYTES = 65_536
"""A write of this size or more counts unsent bytes; a smaller one leaves that to the next write."""

PEER_CHECK_S = 0.25
"""How often a connection is checked while reading from it is paused."""

HANG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR

LOST = Close(ABNORMAL_CLOSURE, "")
PING_UNANSWERED = Close(1011, "keepalive ping timeout")

ENDED_EARLY = "the client ended the connection without a close frame"
RESET = "the client reset the connection"
TIMED_OUT = "the client did not acknowledge data in time, or has vanished"
NO_ANSWER = "the client did not answer a ping in time"
UNKNOWN = "the connection was lost"
"""Causes, for the log, of ends without a close by the client or by the service."""


class LibraryProtocol(ServerProtocol):
    """The library's protocol. It refuses a handshake with a problem (RFC 9457) of fixed texts."""

    def reject(self, status: int, text: str) -> Response:
        """Return a problem; a wrong version gets 426 with the right one (RFC 6455 §4.4)."""
        detail = "A WebSocket handshake is a GET request of HTTP/1.1 with an upgrade."
        if self.handshake_exc is None:  # the application refuses it, or has failed
            detail = HTTPStatus(status).phrase
        fields = {"Content-Type": PROBLEM_TYPE}
        if name := getattr(self.handshake_exc, "name", None):  # of a header, as the library has it
            detail = f"The WebSocket handshake has no valid {name}."
        if name == "Sec-WebSocket-Version":
            status, fields = 426, fields | {"Upgrade": "websocket", name: "13"}
        body = problem(int(status), detail)
        answer = super().reject(status, to_json(body).decode())
        del answer.headers["Content-Type"]
        answer.headers.update(fields)
        return answer


class FrameProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol as a `Wire`, with a deadline for the closing handshake.

    uvicorn closes a transport at once, or never. If unread bytes have arrived, the system turns
    such a close into a reset, which overtakes the close frame; and a peer that does not read keeps
    the transport and its buffer alive. Here, after a close frame, bytes are read and dropped until
    the peer has answered and disconnected (RFC 6455 §7.1.1), or until the deadline.

    After ``close_sent`` (uvicorn's name), nothing is sent or passed to the app.
    """

    __slots__ = (
        "_early",
        "_is_checking_peer",
        "_late_pong",
        "_received_at",
        "_refusals",
        "_scanner",
        # Attributes of uvicorn that are read for each message. Without them, the other ones are few
        # enough (30) for CPython to share their names among all connections.
        "close_sent",
        "config",
        "conn",
        "handshake_complete",
        "handshake_initiated",
        "inbox",
        "loop",
        "queue",
        "read_paused",
        "transport",
        "writable",
    )

    def __init__(
        self, *args: Any, refusals: Counter, close_timeout_s: float, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.conn.__class__ = LibraryProtocol  # uvicorn makes the object itself
        self.close_timeout = close_timeout_s
        self._refusals = refusals
        self.inbox = Inbox(self.loop)
        self.queue = self.inbox  # type: ignore[assignment]  # has the methods that uvicorn calls
        self.writable = WRITABLE
        self._received_at = 0.0
        self._scanner = FrameScanner()
        self._early = b""
        self._is_checking_peer = False
        self._late_pong = b""

    @property
    def heard_at(self) -> float:
        """When bytes last arrived; now, while reading is paused because the app is busy."""
        return self.loop.time() if self.read_paused else self._received_at

    def handle_connect(self, event: Request) -> None:
        """Offer the wire to the app, which starts in the next turn of the loop."""
        super().handle_connect(event)
        if self.response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            self.scope["extensions"][EXTENSION] = {"wire": self}
            self.transport.set_write_buffer_limits(WRITABLE_BYTES)
        else:
            self._count_refusal(self.response.status_code)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """End the connection with the app."""
        super().on_task_complete(task)
        self.inbox.when_gone(None)
        del self.scope["extensions"][EXTENSION]  # a reference cycle
        self._cut_off_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end to the app, and break the reference cycles of the library's parser.

        So the memory is freed at once, without a garbage collection.
        """
        if not self.close_sent:
            self._report_end(LOST, cause_of(exc))
        super().connection_lost(exc)
        self.conn.parser.close()
        self.conn.parser_exc = None

    async def send(self, message: ASGISendEvent) -> None:
        """Send an event of the app; after the handshake, read the bytes that came too early.

        Raises:
            ClientDisconnected: the connection is closing.
        """
        if self.handshake_complete and message["type"] == "websocket.close":
            self.close(Close(message.get("code", 1000), message.get("reason") or ""))
            return
        if self.close_sent or self.disconnected:
            raise ClientDisconnected
        if message["type"] == "websocket.accept" and self.inbox.has_end:
            # The server stops. The route receives a ``websocket.disconnect`` next.
            self.transport.write(self.conn.reject(HTTPStatus.SERVICE_UNAVAILABLE, "").serialize())
            self.handshake_complete = self.close_sent = True
            self.transport.close()
            return
        await super().send(message)
        if self._early and self.handshake_complete:
            early, self._early = self._early, b""
            scanner = FrameScanner()
            scanner.scan(early, FRAMES_AT_ONCE)
            if scanner.others >= FRAMES_AT_ONCE:  # no budget is charged yet
                self.transport.abort()
                return
            self.data_received(early)

    def data_received(self, data: bytes) -> None:
        """Read whole text messages, unless a frame or a fragmented message is incomplete."""
        self._received_at = self.loop.time()
        conn = self.conn
        if conn.state is OPEN and self._scanner.between_frames and conn.current_size is None:
            texts, size = read_texts(data, self.config.ws_max_size)
            inbox = self.inbox
            inbox.put_messages(texts, size)
            if inbox.unread_bytes >= READ_AHEAD_BYTES:
                self.pause_reading()
            if size == len(data):
                return
            data = data[size:]
        self._read_other_frames(data)

    def _read_other_frames(self, data: bytes) -> None:
        if not self.handshake_initiated:
            self._pass_on(data)
        elif not self.handshake_complete:
            # A client must wait for the answer (RFC 6455 §4.1), but some send at once.
            self._early += data
            if len(self._early) > self.config.ws_max_size:
                self.transport.abort()
        else:
            self._read_frames(data)

    def _read_frames(self, data: bytes) -> None:
        # In slices, so that a flood is noticed before it is handled.
        scanner = self._scanner
        while data:
            before = scanner.others
            size = scanner.scan(data, FRAMES_AT_ONCE)
            count = self.inbox.count_frames
            if count is not None and scanner.others > before:
                count(scanner.others - before)
            if self.close_sent and scanner.others > MAX_DROPPED_FRAMES:
                self.transport.abort()
                return
            self._pass_on(data[:size])
            data = data[size:]

    def _pass_on(self, data: bytes) -> None:
        if not self.close_sent:
            try:
                super().data_received(data)
            except InvalidState:  # invalid UTF-8, followed by a close frame already answered
                self.handle_parser_exception()
        if self.close_sent and self._scanner.closed:
            # Both close frames are sent. The peer disconnects when it has read the end of the
            # stream. TLS cannot end one direction alone.
            if self.transport.can_write_eof():
                self.transport.write_eof()
            else:
                self.transport.close()

    def send_receive_event_to_app(self) -> None:
        """Receive a fragmented message; pause reading at the same limit as for others."""
        was_paused = self.read_paused
        super().send_receive_event_to_app()
        if not was_paused and self.read_paused:
            self.read_paused = False
            if self.inbox.unread_bytes >= READ_AHEAD_BYTES:
                self.pause_reading()
            else:
                self.transport.resume_reading()

    def pause_reading(self) -> None:
        """Leave the rest in the system's buffers: the app is busy with earlier messages."""
        if not self.read_paused and not self.close_sent:
            self.read_paused = True
            self.transport.pause_reading()
            if not self._is_checking_peer:
                self._is_checking_peer = True
                self.loop.call_later(PEER_CHECK_S, self._check_peer)

    def _check_peer(self) -> None:
        # While reading is paused, the event loop does not report the end of a connection.
        self._is_checking_peer = self.read_paused and not self.disconnected
        if self._is_checking_peer:
            if has_hung_up(self.transport):
                if self.inbox.unread_bytes >= READ_AHEAD_BYTES:
                    self.transport.abort()
                    return
                self.resume_reading()  # paused by `Turns`: the app is not behind
            self.loop.call_later(PEER_CHECK_S, self._check_peer)

    def resume_reading(self) -> None:
        """Read on, unless the app is still behind."""
        if self.read_paused and self.inbox.unread_bytes < READ_AHEAD_BYTES:
            self._resume_reading()

    def _resume_reading(self) -> None:
        self.read_paused = False
        self.transport.resume_reading()

    def handle_events(self) -> None:
        """Answer the handshake if the library has refused it."""
        super().handle_events()
        if self.handshake_initiated:
            return
        # uvicorn does not send the library's own answer, if there is one.
        answer = b"".join(self.conn.data_to_send()) or self.conn.reject(400, "").serialize()
        _, status, _ = answer.split(b" ", 2)  # HTTP/1.1 400 Bad Request
        self._count_refusal(int(status))
        self.transport.write(answer)
        self.transport.close()

    def _count_refusal(self, status: int) -> None:
        # The text of the exception may repeat the client's input; its type does not.
        reason = type(self.conn.handshake_exc or ValueError()).__name__
        host = self.client and self.client[0]
        log.info("request refused", status=status, reason=reason, client=host)
        self._refusals.labels(status).inc()

    def handle_ping(self) -> None:
        """Answer a ping; while the peer does not read, only the latest, later (RFC 6455 §5.5.3)."""
        pongs = self.conn.data_to_send()
        closing = self.conn.state is not OPEN  # the answer to a close frame is sent with the pong
        if closing or self.writable.is_set():
            self.transport.write(b"".join(pongs))
        elif pongs:
            self._late_pong = pongs[-1]

    def resume_writing(self) -> None:
        """Let uvicorn's `send` go on, and answer the latest ping."""
        super().resume_writing()
        if self._late_pong and not self.close_sent:
            self.transport.write(self._late_pong)
        self._late_pong = b""

    def handle_close(self, event: Frame) -> None:
        """Send the library's answer to a close frame (RFC 6455 §5.5.1)."""
        if not self.close_sent and self.conn.close_rcvd is not None:
            close = Close(self.conn.close_rcvd.code, self.conn.close_rcvd.reason)
            self._begin_to_close(close, CLOSED_BY_CLIENT)

    def handle_parser_exception(self) -> None:
        """Send the library's close frame after a protocol error (RFC 6455 §7.1.7)."""
        if not self.close_sent and self.conn.close_sent is not None:
            close = Close(self.conn.close_sent.code, self.conn.close_sent.reason)
            self._begin_to_close(close, PROTOCOL_ERROR)

    def eof_received(self) -> None:
        """End the connection when the peer will send nothing more."""
        if not self.close_sent and self.handshake_complete:
            self._begin_to_close(LOST, ENDED_EARLY)
        self._cut_off_later()

    def pause_writing(self) -> None:
        """Make uvicorn's `send`, which other WebSocket routes use, wait."""
        self.writable = asyncio.Event()

    def keepalive_timeout(self) -> None:
        """Close the connection of a peer that did not answer a ping."""
        self.pong_timer = None
        if self.read_paused:  # the answer may wait in the system's buffers
            self.pong_timer = self.loop.call_later(
                cast(float, self.ping_timeout), self.keepalive_timeout
            )
        elif not self.close_sent:
            self._report_end(LOST, NO_ANSWER)
            self.close(PING_UNANSWERED)

    def shutdown(self) -> None:
        """Start the closing handshake; during the opening one, tell the app, which ends it."""
        if self.handshake_complete:
            self.close(SERVICE_RESTART)
        else:
            self._report_end(SERVICE_RESTART, None)

    def arrival(self) -> asyncio.Future[bool]:
        """Wait until the peer has sent something, or has gone. Resume reading if nothing waits."""
        if self.read_paused and self.inbox.empty():
            self._resume_reading()
        return self.inbox.arrival()

    def write(self, frames: Sequence[bytes], max_unsent_bytes: int) -> int | None:
        """Write the frames at once, or one by one until too many bytes would be unsent."""
        transport = self.transport
        if self.close_sent or transport.is_closing():
            return 0
        data = b"".join(frames)
        unsent_bytes = transport.get_write_buffer_size()
        if unsent_bytes + len(data) <= max_unsent_bytes:
            transport.write(data)
            is_behind = unsent_bytes or len(data) >= LARGE_BYTES
            return transport.get_write_buffer_size() if is_behind else 0
        for frame in frames:
            if transport.get_write_buffer_size() + len(frame) > max_unsent_bytes:
                return None
            transport.write(frame)
        return transport.get_write_buffer_size()

    def unsent_bytes(self) -> int:
        """Return the size of the transport's buffer."""
        return self.transport.get_write_buffer_size()

    async def drain(self) -> None:
        """Wait until at most `WRITABLE_BYTES` are unsent."""
        await self.writable.wait()

    def close(self, close: Close) -> None:
        """Start the closing handshake (RFC 6455 §7.1.2)."""
        if not self.close_sent and not self.transport.is_closing():
            self.conn.send_close(*close)
            self._begin_to_close(close, None)

    def abort(self) -> None:
        """End the connection and drop what is unsent."""
        self.transport.abort()

    def _begin_to_close(self, close: Close, cause: str | None) -> None:
        # Sends the library's close frame, if there is one.
        self._report_end(close, cause)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._scanner.others = 0
        if self.read_paused:  # to read the peer's answer
            self._resume_reading()
        self._cut_off_later()

    def _report_end(self, close: Close, cause: str | None) -> None:
        # The cause is None if the service itself ends the connection.
        end = {"code": close.code, "reason": close.reason, "cause": cause}
        self.inbox.put_nowait({"type": "websocket.disconnect", **end})

    def _cut_off_later(self) -> None:
        # A closed transport still waits until its buffer is sent, which a stuck peer prevents.
        # uvicorn cancels this timer of its own when the connection is lost.
        if self.close_timer is None and not self.disconnected:
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)


def has_hung_up(transport: asyncio.BaseTransport) -> bool:
    """Return whether the peer has ended the connection, even if unread data precedes the end.

    Only Linux reports an orderly end in that case (POLLRDHUP).
    """
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), HANG_UP)
    return bool(poll.poll(0))


def cause_of(failure: Exception | None) -> str:
    """Return the cause of a lost connection, for the log."""
    if isinstance(failure, ConnectionResetError | BrokenPipeError):
        return RESET
    return TIMED_OUT if isinstance(failure, TimeoutError) else UNKNOWN
