"""The way out of the process: ready-made frames on uvicorn, plain ASGI messages elsewhere.

A message that goes to a thousand connections becomes one frame once. ASGI has no way to send a
ready frame, so `FrameProtocol` offers uvicorn's own connection to the app as an ASGI extension. On
any other server `AsgiWire` does the same job behind a queue. `Connection` sees only `Wire`.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from .protocol import Close

EXTENSION = "app.wire"

TEXT_FRAME = 0x81
"""FIN and opcode 1: a whole text message in one frame (RFC 6455 §5.2)."""


def text_frame(payload: bytes) -> bytes:
    """Return an unmasked, uncompressed WebSocket frame around UTF-8 text (RFC 6455 §5.2)."""
    size = len(payload)
    if size < 126:
        header = struct.pack("!BB", TEXT_FRAME, size)
    elif size < 65_536:
        header = struct.pack("!BBH", TEXT_FRAME, 126, size)
    else:
        header = struct.pack("!BBQ", TEXT_FRAME, 127, size)
    return header + payload


def frame_payload(frame: bytes) -> bytes:
    """Return the text that `text_frame` wrapped."""
    header_size = {126: 4, 127: 10}.get(frame[1], 2)
    return frame[header_size:]


class Wire(Protocol):
    """What a connection needs of the server beneath it. No method but `receive` ever waits."""

    @property
    def heard_at(self) -> float:
        """When the peer was last heard, on the event loop's clock."""

    async def receive(self) -> Mapping[str, Any]:
        """Return the next ASGI event: ``websocket.receive`` or ``websocket.disconnect``."""

    def write(self, frames: Sequence[bytes]) -> None:
        """Hand over frames in order; none once the connection is closing."""

    def unsent_bytes(self) -> int:
        """Return how much of what was written the peer has not taken yet."""

    def close(self, close: Close) -> None:
        """Send a close frame and `receive` a disconnect; cut a peer off that stays silent."""


class FrameProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which also is a `Wire`, and always ends what it closes.

    uvicorn closes a transport and waits: a peer that does not read keeps it, and what it was sent,
    for good. Here every close has a deadline, also those that uvicorn begins.
    """

    _received_at = 0.0

    @property
    def heard_at(self) -> float:
        """When bytes came last; now, while the app is busy and nobody listens."""
        return self.loop.time() if self.read_paused else self._received_at

    async def run_asgi(self) -> None:
        """Offer the connection to the app, run the app, and make sure that the connection ends."""
        self.scope["extensions"][EXTENSION] = {"wire": self}
        try:
            await super().run_asgi()
        finally:
            self._cut_off_later()

    def data_received(self, data: bytes) -> None:
        """Note that the peer lives: control frames count, and they never reach the app."""
        self._received_at = self.loop.time()
        super().data_received(data)

    def keepalive_timeout(self) -> None:
        """Close on a peer that answers no ping, which may well not take the close frame either."""
        super().keepalive_timeout()
        self._cut_off_later()

    def shutdown(self) -> None:
        """Leave a closing handshake that is under way to its own deadline."""
        if self.close_timer is None:
            super().shutdown()

    def write(self, frames: Sequence[bytes]) -> None:
        """Write all frames in one go."""
        if not self.close_sent and not self.transport.is_closing():
            self.transport.write(b"".join(frames))

    def unsent_bytes(self) -> int:
        """Return the size of the transport's buffer."""
        return self.transport.get_write_buffer_size()

    def close(self, close: Close) -> None:
        """Start the closing handshake (RFC 6455 §7.1.2)."""
        if self.close_sent or self.transport.is_closing():
            return
        self.queue.put_nowait(
            {"type": "websocket.disconnect", "code": close.code, "reason": close.reason}
        )
        self.conn.send_close(*close)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:  # or the peer's answer would never be read
            self.read_paused = False
            self.transport.resume_reading()
        self._cut_off_later()

    def _cut_off_later(self) -> None:
        # A transport that is only closed waits for its buffer, which a stuck peer never empties.
        if self.close_timer is None and not self.disconnected:
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)


class AsgiWire:
    """A `Wire` over nothing but ASGI: one queue, and one task that sends from it."""

    def __init__(self, websocket: WebSocket, close_timeout_s: float) -> None:
        self._websocket = websocket
        self._close_timeout_s = close_timeout_s
        self._queue: asyncio.Queue[bytes | Close] = asyncio.Queue()
        self._unsent_bytes = 0
        self._closing = False
        self._leave_by: float | None = None
        self._deadline: asyncio.Timeout | None = None
        self._finished = asyncio.Event()
        self._listening = False
        self._received_at = 0.0

    @property
    def heard_at(self) -> float:
        """When an event came last; now, while the app is busy and nobody listens."""
        return self._received_at if self._listening else asyncio.get_running_loop().time()

    async def receive(self) -> Mapping[str, Any]:
        """Return the next ASGI event."""
        self._received_at = asyncio.get_running_loop().time()
        self._listening = True
        event = await self._websocket.receive()
        self._listening = False
        return event

    def write(self, frames: Sequence[bytes]) -> None:
        """Queue all frames."""
        if not self._closing:
            for frame in frames:
                self._queue.put_nowait(frame)
                self._unsent_bytes += len(frame)

    def unsent_bytes(self) -> int:
        """Return the size of the queue's frames."""
        return self._unsent_bytes

    def close(self, close: Close) -> None:
        """Queue the close frame and give the peer some time to take it, and to leave."""
        if not self._closing:
            self._closing = True
            self._queue.put_nowait(close)
            self._leave_by = asyncio.get_running_loop().time() + self._close_timeout_s
            if self._deadline is not None:
                self._deadline.reschedule(self._leave_by)

    async def run(self) -> None:
        """Send what is queued, the close frame last, and wait to be cancelled.

        Raises:
            TimeoutError: the peer is still there some time after it was to leave.

        """
        async with asyncio.timeout_at(self._leave_by) as self._deadline:
            try:
                while isinstance(item := await self._queue.get(), bytes):
                    await self._websocket.send_text(frame_payload(item).decode())
                    self._unsent_bytes -= len(item)
                await self._websocket.close(*item)
            except (WebSocketDisconnect, RuntimeError):  # two ways to say that the peer is gone
                self._closing = True
            self._finished.set()
            await asyncio.Event().wait()

    async def finish(self) -> None:
        """Wait until the close frame is sent, if there is one to be sent."""
        if self._closing:
            await self._finished.wait()


@asynccontextmanager
async def open_wire(websocket: WebSocket, close_timeout_s: float) -> AsyncIterator[Wire]:
    """Yield the accepted connection's wire; whoever does not leave in time is cut off."""
    extension = websocket.scope.get("extensions", {}).get(EXTENSION)
    if extension is not None:
        protocol: FrameProtocol = extension["wire"]
        protocol.close_timeout = close_timeout_s
        yield protocol
        return
    try:
        # When the writer fails, the group cancels the reader, which would wait for ever.
        async with asyncio.TaskGroup() as tasks:
            wire = AsgiWire(websocket, close_timeout_s)
            writer = tasks.create_task(wire.run())
            yield wire
            await wire.finish()
            writer.cancel()
    except* TimeoutError:
        pass
