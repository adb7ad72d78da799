"""The wire on uvicorn: its protocol class for one connection, with a shorter way in and out.

What the service mostly deals with, whole text messages, is read and written here. The handshake,
control frames, fragments and whatever breaks the rules stay with uvicorn and the library under it.
"""

import asyncio
import select
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import OPEN

from .frame import masked_frame_size, read_texts
from .metrics import CountBy
from .protocol import Close
from .wire import EXTENSION, READ_AHEAD_BYTES, Event

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

    def put_text(self, text: str) -> None:
        """Add a message."""
        self.size += len(text)
        self._put({"type": "websocket.receive", "text": text})

    def put_nowait(self, event: Event) -> None:
        """Add an event of uvicorn's, which knows an `asyncio.Queue` here."""
        if event["type"] == "websocket.disconnect":
            self.has_end = True
            self.when_gone(self._gone)
        else:
            self.size += len(event.get("text") or "")
        self._put(event)

    def _put(self, event: Event) -> None:
        self._events.append(event)
        if self._reader is not None and not self._reader.done():
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

    uvicorn closes a transport and waits: a peer that does not read keeps it, and what it was sent,
    for good. Here every close has a deadline, also those that uvicorn begins.
    """

    __slots__ = (
        "_cut_off",
        "_early",
        "_inbox",
        "_received_at",
        "_refusals",
        "_unparsed_bytes",
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

    def __init__(self, *args: Any, refusals: CountBy, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refusals = refusals
        self._inbox = Inbox(self.loop)
        self.queue = self._inbox  # type: ignore[assignment]  # which has what uvicorn calls
        self.writable = WRITABLE
        self._received_at = 0.0
        self._unparsed_bytes = 0
        self._early = b""
        self._cut_off: asyncio.TimerHandle | None = None

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
        """Let go of the library's parser, which refers to itself by way of its own frame.

        Memory is free as soon as nothing refers to it, without the garbage collector, which has
        better things to do than to walk through all that the living connections hold.
        """
        super().connection_lost(exc)
        self.conn.parser.close()
        self.conn.parser_exc = None
        if self._cut_off is not None:
            self._cut_off.cancel()

    async def send(self, message: ASGISendEvent) -> None:
        """Do what the app says; with the handshake answered, read what came too early."""
        await super().send(message)
        if self._early and self.handshake_complete:
            early, self._early = self._early, b""
            self.data_received(early)

    def data_received(self, data: bytes) -> None:
        """Read whole text messages, as long as no frame or message is unfinished."""
        self._received_at = self.loop.time()
        if self.conn.state is OPEN and not self._unparsed_bytes and self.conn.current_size is None:
            texts, size = read_texts(data, self.config.ws_max_size)
            for text in texts:
                self._inbox.put_text(text)
            if self._inbox.size >= READ_AHEAD_BYTES:
                self._pause_reading()
            if size == len(data):
                return
            data = data[size:]
        if self.handshake_initiated:
            if not self.handshake_complete:
                self._keep_early(data)
                return
            self._unparsed_bytes += len(data)
        try:
            super().data_received(data)
        except InvalidState:  # bad text, and behind it a close frame that is answered already
            self.handle_parser_exception()

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
        """Note which frames the library has finished, and whether it has refused the handshake."""
        for event in self.conn.events:
            if isinstance(event, Frame):
                self._unparsed_bytes -= masked_frame_size(len(event.data))
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
        """Answer a close frame, or take it for the answer, and wait no longer for the rest."""
        super().handle_close(event)
        self._cut_off_later()

    def eof_received(self) -> None:
        """Take it for the end when the peer will send no more."""
        super().eof_received()
        self._cut_off_later()

    def pause_writing(self) -> None:
        """Make uvicorn's own `send` wait, for other routes than the service's."""
        self.writable = asyncio.Event()

    def keepalive_timeout(self) -> None:
        """Close on a peer that answers no ping, which may well not take the close frame either."""
        super().keepalive_timeout()
        self._cut_off_later()

    def shutdown(self) -> None:
        """Leave a closing handshake that is under way to its own deadline."""
        if self.close_timer is None:
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
        if self.close_sent or self.transport.is_closing():
            return
        self._inbox.put_nowait(
            {"type": "websocket.disconnect", "code": close.code, "reason": close.reason}
        )
        self.conn.send_close(*close)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:  # or the peer's answer would never be read
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)
        self._cut_off_later()

    def _cut_off_later(self) -> None:
        # A transport that is only closed waits for its buffer, which a stuck peer never empties.
        if self._cut_off is None and not self.disconnected:
            self._cut_off = self.loop.call_later(self.close_timeout, self.transport.abort)


def has_hung_up(transport: asyncio.BaseTransport) -> bool:
    """Return whether the peer has ended the connection, even if unread data comes before the end.

    Linux alone tells of an orderly end in that case (POLLRDHUP).
    """
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), HANG_UP)
    return bool(poll.poll(0))
