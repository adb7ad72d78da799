"""What a connection needs of the server beneath it, and how any ASGI server provides it.

A message that goes to a thousand connections becomes one frame once. ASGI has no way to send a
ready frame, so `wire_uvicorn` offers uvicorn's own connection to the app as an ASGI extension. On
any other server `AsgiWire` does the same job behind a queue. `Connection` sees only `Wire`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

from ..protocol import Close
from .frame import frame_payload

EXTENSION = "app.realtime.wire.asgi"

READ_AHEAD_BYTES = 65_536
"""How much a client may have sent that waits to be handled, before the rest waits in the system's
buffers. It is read so that the end of a connection is noticed while a handler waits."""

Event = Mapping[str, Any]


class Wire(Protocol):
    """One accepted connection. Nothing but `arrival` ever waits."""

    @property
    def heard_at(self) -> float:
        """When the peer was last heard, on the event loop's clock."""
        ...

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call back, once, when the peer has gone or the closing handshake has begun."""

    def arrival(self) -> Awaitable[bool]:
        """Wait until the peer has sent something, or has gone.

        Returns whether everybody else has certainly had a turn meanwhile.
        """
        ...

    def take(self) -> Sequence[Event]:
        """Return the ASGI events that have come since.

        Each is a ``websocket.receive``, or a ``websocket.disconnect`` as the last.
        """
        ...

    def write(self, frames: Sequence[bytes], max_unsent_bytes: int) -> bool:
        """Hand over frames in order; none once the connection is closing.

        Returns false, and does nothing, if the peer would then owe more than it may. One that has
        taken everything may get frames of any size.
        """
        ...

    def unsent_bytes(self) -> int:
        """Return how much of what was written the peer has not taken yet."""
        ...

    def close(self, close: Close) -> None:
        """Send a close frame, which ends in a disconnect; cut a peer off that stays silent."""


class AsgiWire:
    """A `Wire` over nothing but ASGI: a task that reads, and a queue with a task that sends."""

    def __init__(self, websocket: WebSocket, close_timeout_s: float) -> None:
        self._websocket = websocket
        self._close_timeout_s = close_timeout_s
        self._queue: asyncio.Queue[bytes | Close] = asyncio.Queue()
        self._unsent_bytes = 0
        self._closing = False
        self._leave_by: float | None = None
        self._deadline: asyncio.Timeout | None = None
        self._finished = asyncio.Event()
        self._events: list[Event] = []
        self._unread_bytes = 0
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._received_at = asyncio.get_running_loop().time()
        self._gone: Callable[[], None] | None = None

    @property
    def heard_at(self) -> float:
        """When an event came last; now, while the app is busy and nobody listens."""
        if self._unread_bytes >= READ_AHEAD_BYTES:
            return asyncio.get_running_loop().time()
        return self._received_at

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call back when the server tells of the end, or this side closes."""
        self._gone = callback

    async def arrival(self) -> bool:
        """Wait for the next ASGI event; whether it was there already, ASGI does not tell."""
        await self._arrived.wait()
        return False

    def take(self) -> Sequence[Event]:
        """Return the events that have come."""
        events, self._events = self._events, []
        self._unread_bytes = 0
        self._arrived.clear()
        self._taken.set()
        return events

    def write(self, frames: Sequence[bytes], max_unsent_bytes: int) -> bool:
        """Queue all frames, unless that is too much."""
        owed = self._unsent_bytes
        if owed and owed + sum(map(len, frames)) > max_unsent_bytes:
            return False
        if not self._closing:
            for frame in frames:
                self._queue.put_nowait(frame)
                self._unsent_bytes += len(frame)
        return True

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
            self._tell_gone()

    async def read(self) -> None:
        """Read ahead until the end."""
        while True:
            event = await self._websocket.receive()
            self._received_at = asyncio.get_running_loop().time()
            self._events.append(event)
            self._unread_bytes += len(event.get("text") or "")
            self._arrived.set()
            if event["type"] == "websocket.disconnect":
                self._tell_gone()
                return
            self._taken.clear()
            if self._unread_bytes >= READ_AHEAD_BYTES:
                await self._taken.wait()

    def _tell_gone(self) -> None:
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()

    async def send(self) -> None:
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
async def connect_wire(websocket: WebSocket, close_timeout_s: float) -> AsyncIterator[Wire]:
    """Yield the server's own wire, if it has one, or one over plain ASGI.

    A peer that does not leave in time is cut off.
    """
    extension = websocket.scope.get("extensions", {}).get(EXTENSION)
    if extension is not None:
        yield extension["wire"]
        return
    await websocket.receive()  # the event that asks to connect
    try:
        # When one task fails, the group cancels the others, which would wait for ever.
        async with asyncio.TaskGroup() as tasks:
            wire = AsgiWire(websocket, close_timeout_s)
            running = [tasks.create_task(wire.read()), tasks.create_task(wire.send())]
            yield wire
            await wire.finish()
            for task in running:
                task.cancel()
    except* TimeoutError:
        pass
