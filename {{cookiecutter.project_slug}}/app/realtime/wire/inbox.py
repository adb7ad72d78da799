"""The inbox of a connection: messages that the server has read and the app has not taken yet."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

AsgiEvent = Mapping[str, Any]

Incoming = str | AsgiEvent
"""A text message; or a ``websocket.receive`` with bytes, or a ``websocket.disconnect``."""


MESSAGE_BYTES = 256
"""Memory that a message takes besides its payload."""


class Inbox:
    """Messages for one reader: like an `asyncio.Queue`, with a tenth of its memory."""

    __slots__ = ("_gone", "_loop", "_reader", "count_frames", "has_end", "messages", "unread_bytes")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._reader: asyncio.Future[bool] | None = None
        self._gone: Callable[[], None] | None = None
        self.count_frames: Callable[[int], None] | None = None
        """Called with the number of control frames and fragments, if the server tells it."""
        self.messages: list[Incoming] = []
        self.has_end = False
        """Whether a ``websocket.disconnect`` was added."""
        self.unread_bytes = 0
        """Bytes received since the reader was last idle; an event counts `MESSAGE_BYTES` more."""

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        """Call back once, in a later turn of the loop, after a ``websocket.disconnect`` event."""
        self._gone = callback
        if self.has_end and callback is not None:
            self._loop.call_soon(callback)
            self._gone = None

    def empty(self) -> bool:
        """Return whether nothing waits."""
        return not self.messages

    def put_messages(self, messages: Sequence[Incoming], size_bytes: int) -> None:
        """Add messages of this total size."""
        self.messages += messages
        self.unread_bytes += size_bytes
        reader = self._reader
        if messages and reader is not None and not reader.done():
            reader.set_result(True)

    def put_nowait(self, event: AsgiEvent) -> None:
        """Add an event. uvicorn calls this, too."""
        text = event.get("text")
        if text is not None:
            self.put_messages([text], MESSAGE_BYTES + len(text.encode()))
            return
        if event["type"] == "websocket.disconnect":
            self.has_end = True
            self.when_gone(self._gone)
        self.put_messages([event], MESSAGE_BYTES + len(event.get("bytes") or b""))

    async def get(self) -> AsgiEvent:
        """Wait for the next event. uvicorn calls this for other WebSocket routes."""
        await self.arrival()
        message = self.messages.pop(0)
        if not self.messages:
            self.unread_bytes = 0
        if not isinstance(message, str):
            return message
        return {"type": "websocket.receive", "text": message}

    def take(self) -> list[Incoming]:
        """Return and remove all messages. A ``websocket.disconnect`` is the last one."""
        messages, self.messages = self.messages, []
        return messages

    def arrival(self) -> asyncio.Future[bool]:
        """Return a future that is done when there is a message.

        It yields false if a message was waiting already, otherwise true. Call this only when all
        taken messages are handled: it acknowledges them.
        """
        self._reader = self._loop.create_future()
        if self.messages:
            self._reader.set_result(False)
        else:
            self.unread_bytes = 0
        return self._reader
