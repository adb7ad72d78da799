"""Recipients without a connection, for tests of delivery."""

from collections.abc import Sequence

from app.realtime.connections.delivery import Delivery, Recipient
from app.realtime.protocol import ServerFrame


class Reader(Recipient):
    """A recipient that reads everything at once."""

    def unsent_bytes(self) -> int:
        """Return 0."""
        return 0

    def cut_off(self) -> None:
        """Do nothing."""


class Note(Reader):
    """A recipient that adds its name to a list when it is flushed."""

    def __init__(self, name: str, flushed: list[str]) -> None:
        super().__init__()
        self._name = name
        self._flushed = flushed

    def flush(self) -> None:
        """Add the name."""
        self.outbox.clear()
        self._flushed.append(self._name)


def enqueue_all(
    delivery: Delivery, recipients: Sequence[Recipient], frame: ServerFrame | bytes = b""
) -> None:
    """Send a frame to several recipients."""
    delivery.send_all({str(number): each for number, each in enumerate(recipients)}, frame)
