"""A wire that goes nowhere, for tests of what a connection does with it."""

from collections.abc import Callable, Sequence

from app.realtime.auth.identity import Identity
from app.realtime.connections.connection import Connection
from app.realtime.connections.delivery import Delivery
from app.realtime.connections.guard import Guard
from app.realtime.protocol import Close, Ok
from app.realtime.wire.asgi import Message

from .live import make_settings

SETTINGS = make_settings()
"""Made once, since some tests open a thousand connections."""


class RecordingWire:
    """A wire that keeps what it is given."""

    heard_at = 0.0

    def __init__(self) -> None:
        self.writes: list[list[bytes]] = []
        self.closes: list[Close] = []
        self.unsent = 0

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Never call back: this peer stays."""

    async def arrival(self) -> bool:
        """Wait for nothing."""
        return True

    def take(self) -> Sequence[Message]:
        """Return nothing that matters here."""
        return ()

    def write(self, frames: Sequence[bytes], max_unsent_bytes: int) -> bool:
        """Note one write, unless the test has the client owe too much."""
        if self.unsent >= max_unsent_bytes:
            return False
        self.writes.append(list(frames))
        return True

    def unsent_bytes(self) -> int:
        """Return what the test has set."""
        return self.unsent

    def close(self, close: Close) -> None:
        """Note the close."""
        self.closes.append(close)


def open_connection(
    wire: RecordingWire | None = None,
    delivery: Delivery | None = None,
    *,
    user: str = "alice",
    **overrides: object,
) -> Connection:
    """Return a connection on a wire to which nothing has been written yet."""
    wire = wire or RecordingWire()
    delivery = delivery or Delivery()
    settings = make_settings(**overrides) if overrides else SETTINGS
    guard = Guard(settings.handler_timeout_s)
    connection: Connection = Connection(Identity(user), wire, delivery, settings, guard)
    connection.open(Ok())
    connection.flush()
    wire.writes.clear()
    return connection
