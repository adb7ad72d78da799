"""Wires and recipients without a socket, for tests of connections and delivery."""

import asyncio
from collections.abc import Sequence

from app.realtime.auth.identity import Identity
from app.realtime.connections.connection import Connection
from app.realtime.connections.delivery import Delivery
from app.realtime.limits.budget import UserBudget
from app.realtime.protocol import Close, Ok
from app.realtime.wire.inbox import Inbox

from .live import make_settings

SETTINGS = make_settings()
"""Shared: some tests open a thousand connections."""


class RecordingWire:
    """A wire that records writes and closes."""

    heard_at = 0.0

    def __init__(self) -> None:
        self.writes: list[list[bytes]] = []
        self.closes: list[Close] = []
        self.unsent = 0
        self.inbox = Inbox(asyncio.get_running_loop())

    async def arrival(self) -> bool:
        """Return at once."""
        return True

    def pause_reading(self) -> None:
        """Do nothing: there is nothing to read."""

    resume_reading = pause_reading

    def write(self, frames: Sequence[bytes], max_unsent_bytes: int) -> int | None:
        """Record one write, unless `unsent` has reached the limit."""
        if self.unsent >= max_unsent_bytes:
            return None
        self.writes.append(list(frames))
        return self.unsent

    def unsent_bytes(self) -> int:
        """Return `unsent`, which a test sets."""
        return self.unsent

    async def drain(self) -> None:
        """Return at once."""

    def close(self, close: Close) -> None:
        """Record the close."""
        self.closes.append(close)

    def abort(self) -> None:
        """Discard the unsent bytes."""
        self.unsent = 0


def open_connection(
    wire: RecordingWire | None = None,
    delivery: Delivery | None = None,
    *,
    user: str = "alice",
    **overrides: object,
) -> Connection:
    """Return an open connection, with the writes of its opening removed from the record."""
    wire = wire or RecordingWire()
    delivery = delivery or Delivery()
    settings = make_settings(**overrides) if overrides else SETTINGS
    connection: Connection = Connection(
        Identity(user), wire, delivery, settings, UserBudget(settings)
    )
    connection.open(Ok())
    connection.flush()
    wire.writes.clear()
    return connection
