"""The connections that one message goes to: everybody, one user's, or another group of them."""

from collections.abc import Iterator

from .connection import Connection
from .delivery import Flusher
from .protocol import ServerFrame
from .wire.frame import text_frame


class Audience:
    """A set of this node's connections, in the order in which they came."""

    __slots__ = ("_flusher", "_members")

    def __init__(self, flusher: Flusher) -> None:
        self._flusher = flusher
        self._members: dict[str, Connection] = {}

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self._members)

    def __iter__(self) -> Iterator[Connection]:
        """Iterate over the connections of this moment; they may come and go meanwhile."""
        return iter(list(self._members.values()))

    def get(self, connection_id: str) -> Connection | None:
        """Return a connection by its id."""
        return self._members.get(connection_id)

    def add(self, connection: Connection) -> None:
        """Take a connection in. Idempotent."""
        self._members[connection.id] = connection

    def remove(self, connection: Connection) -> bool:
        """Let exactly this connection go; return whether it was here."""
        return self._members.pop(connection.id, None) is not None

    def write(self, frame: ServerFrame, *, exclude: str | None = None) -> None:
        """Write to all but the connection with the excluded id. The frame is encoded once.

        Nothing waits in here, so nobody comes or goes meanwhile.
        """
        ready = text_frame(frame.encode())
        source = self if len(self._members) > 1 else None
        waiting = self._flusher.waiting(source, len(self._members))
        excluded = None if exclude is None else self._members.get(exclude)
        for connection in self._members.values():
            if connection is not excluded:
                outbox = connection.outbox
                if not outbox:
                    waiting.append(connection)
                outbox.append(ready)
