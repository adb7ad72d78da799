"""A wire that goes nowhere, for tests of what a connection does with it."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.protocol import Close


class RecordingWire:
    """A wire that keeps what it is given."""

    heard_at = 0.0

    def __init__(self) -> None:
        self.writes: list[list[bytes]] = []
        self.closes: list[Close] = []
        self.unsent = 0

    async def receive(self) -> Mapping[str, Any]:
        """Return nothing that matters here."""
        return {}

    def write(self, frames: Sequence[bytes]) -> None:
        """Note one write."""
        if frames:
            self.writes.append(list(frames))

    def unsent_bytes(self) -> int:
        """Return what the test has set."""
        return self.unsent

    def close(self, close: Close, timeout_s: float) -> None:
        """Note the close."""
        self.closes.append(close)
