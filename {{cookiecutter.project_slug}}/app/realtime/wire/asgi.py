"""The interface between a connection and the server, and its implementation over plain ASGI.

A message to many connections is encoded only once. ASGI cannot send encoded frames, so our
uvicorn protocol (`FrameProtocol`) offers itself to the app as an ASGI extension. On other servers,
`AsgiWire` does the same work behind a queue.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

from ..protocol import Close
from ..settings.settings import RealtimeSettings
from .frame import frame_payload
from .inbox import Inbox

EXTENSION = "app.realtime.wire.asgi"

TOO_BIG = Close(1009, "too big")
"""For a message that is too large; the WebSocket library sends the same code (RFC 6455 §7.4.1)."""

CLOSED_BY_CLIENT = "closed by the client"
PROTOCOL_ERROR = "protocol error of the client"
"""Causes of an end, for the log."""

READ_AHEAD_BYTES = 32_768
"""Once this many bytes of a client are received but not yet handled, reading from it pauses.

Reading ahead detects the end of a connection while a handler waits. In overload, less is read.
"""


class Wire(Protocol):
    """One accepted connection. Only `arrival` and `drain` wait."""

    inbox: Inbox
    """What the peer has sent, and whether it has gone. `arrival` waits for more."""

    @property
    def heard_at(self) -> float:
        """When the peer last sent anything, on the event loop's clock."""
        ...

    def arrival(self) -> Awaitable[bool]:
        """Wait until the peer has sent something, or has gone.

        Calling this acknowledges all taken messages; reading may resume.
        Returns true if this had to wait, so that other tasks ran.
        """
        ...

    def pause_reading(self) -> None:
        """Stop reading, if the server can. Idempotent."""

    def resume_reading(self) -> None:
        """Resume reading, unless too many bytes are unread. Idempotent."""

    def write(self, frames: Sequence[bytes], max_unsent_bytes: int) -> int | None:
        """Write frames in order; drop them if the connection is closing.

        Returns how many bytes are unsent; after a small write, this may be 0 though some are. If
        more than ``max_unsent_bytes`` would be unsent, drops the remaining frames and returns None.
        """
        ...

    def unsent_bytes(self) -> int:
        """Return how many written bytes are still in this process."""
        ...

    async def drain(self) -> None:
        """Wait until nearly all that was written has left this process."""

    def close(self, close: Close) -> None:
        """Send a close frame. The disconnect follows, after a timeout at the latest."""

    def abort(self) -> None:
        """End the connection and drop what is unsent."""


class AsgiWire:
    """A `Wire` over plain ASGI: a task that reads, and a queue with a task that sends."""

    def __init__(self, websocket: WebSocket, settings: RealtimeSettings) -> None:
        self._websocket = websocket
        self._close_timeout_s = settings.close_timeout_s
        self._max_bytes = settings.max_message_bytes
        self._queue: asyncio.Queue[bytes | Close] = asyncio.Queue()
        self._unsent_bytes = 0
        self._sent = asyncio.Event()
        self.has_closed = False
        """Whether this side has closed. Later messages of the peer are dropped."""
        self._drops_writes = False
        self.reading: asyncio.Task[None]
        self.leave_by = 0.0
        """When a peer that does not answer the close is cut off, on the event loop's clock."""
        self.inbox = Inbox(asyncio.get_running_loop())
        self._handled = asyncio.Event()
        self._received_at = asyncio.get_running_loop().time()

    @property
    def heard_at(self) -> float:
        """When the last event arrived; the current time while the app is too busy to read."""
        if self.inbox.unread_bytes >= READ_AHEAD_BYTES:
            return asyncio.get_running_loop().time()
        return self._received_at

    def arrival(self) -> asyncio.Future[bool]:
        """Wait for the next ASGI event. Resume reading if nothing waits."""
        if self.inbox.empty():
            self._handled.set()
        return self.inbox.arrival()

    def pause_reading(self) -> None:
        """Do nothing: without reading, the end of the connection would not be noticed."""

    def resume_reading(self) -> None:
        """Do nothing: reading goes on."""

    def write(self, frames: Sequence[bytes], max_unsent_bytes: int) -> int | None:
        """Queue frames until too many bytes would be unsent."""
        if not self._drops_writes:
            for frame in frames:
                if self._unsent_bytes + len(frame) > max_unsent_bytes:
                    return None
                self._queue.put_nowait(frame)
                self._unsent_bytes += len(frame)
        return self._unsent_bytes

    def unsent_bytes(self) -> int:
        """Return the size of the queued frames."""
        return self._unsent_bytes

    async def drain(self) -> None:
        """Wait until all queued frames are sent or dropped."""
        self._sent.clear()
        if self._unsent_bytes:
            await self._sent.wait()

    def close(self, close: Close) -> None:
        """Queue the close frame; the peer has ``CLOSE_TIMEOUT_S`` to disconnect."""
        if not self.has_closed:
            self.has_closed = True
            if not self._drops_writes:
                self._drops_writes = True
                self._queue.put_nowait(close)
            self.leave_by = asyncio.get_running_loop().time() + self._close_timeout_s
            end = {"code": close.code, "reason": close.reason, "cause": None}
            self.inbox.put_nowait({"type": "websocket.disconnect", **end})
            self._handled.set()

    def abort(self) -> None:
        """Drop what is queued, and stop waiting for the peer to disconnect."""
        self.drop()
        self.reading.cancel()

    def drop(self) -> None:
        """Drop what is queued, and what is written from now on."""
        self._drops_writes = True
        while not self._queue.empty():
            self._queue.get_nowait()
        self._unsent_bytes = 0
        self._sent.set()

    async def read(self) -> None:
        """Read until disconnected; close if a message is too large. Once closed, drop messages."""
        while True:
            event = await self._websocket.receive()
            self._received_at = asyncio.get_running_loop().time()
            is_end = event["type"] == "websocket.disconnect"
            if not self.has_closed and len((event.get("text") or "").encode()) > self._max_bytes:
                end = {"type": "websocket.disconnect", "code": TOO_BIG.code}
                self.inbox.put_nowait(end | {"cause": PROTOCOL_ERROR})
                self.close(TOO_BIG)
            if is_end or not self.has_closed:
                self.inbox.put_nowait(event)
            if is_end:
                return
            self._handled.clear()
            if self.inbox.unread_bytes >= READ_AHEAD_BYTES and not self.has_closed:
                await self._handled.wait()

    async def send(self) -> None:
        """Send what is queued, the close frame last."""
        # Both exceptions mean that the peer has gone.
        with suppress(WebSocketDisconnect, RuntimeError):
            while isinstance(item := await self._queue.get(), bytes):
                await self._websocket.send_text(frame_payload(item).decode())
                self._unsent_bytes = max(0, self._unsent_bytes - len(item))  # `drop` sets it to 0
                if not self._unsent_bytes:
                    self._sent.set()
            await self._websocket.close(*item)
        self.drop()


@asynccontextmanager
async def connect_wire(websocket: WebSocket, settings: RealtimeSettings) -> AsyncIterator[Wire]:
    """Yield the server's wire, if it has one, or one over plain ASGI.

    When the connection has ended, a peer that does not disconnect in time is cut off.
    """
    extension = websocket.scope.get("extensions", {}).get(EXTENSION)
    if extension is not None:
        yield extension["wire"]
        return
    await websocket.receive()  # the connect event
    wire = AsgiWire(websocket, settings)
    try:
        # If one task fails, the group cancels the other one, which would never end.
        async with asyncio.TaskGroup() as tasks:
            wire.reading = tasks.create_task(wire.read())
            sending = tasks.create_task(wire.send())
            yield wire
            if wire.has_closed:  # some servers send the close frame only after all input is read
                left_s = wire.leave_by - asyncio.get_running_loop().time()
                await asyncio.wait([wire.reading], timeout=max(0.0, left_s))
            wire.reading.cancel()
            sending.cancel()
    finally:
        wire.drop()
