"""Who is in a room: its users, each with a number of connections.

A user joins with a first connection and leaves with the last one. Those who are in the room are
told, unless it is so large that such news would be most of the traffic.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

from ..connection import Connection
from ..settings import RealtimeSettings
from .history import Deliver, RoomEnvelope


@dataclass(frozen=True, slots=True)
class Attendance:
    """Users with their numbers of connections, as many as are listed, of so many in total."""

    users: Mapping[str, int]
    total: int


class Roster(Protocol):
    """Who is in one room, as long as this node has members of it."""

    def enter(self, connection: Connection) -> None:
        """Count a connection in."""

    def leave(self, connection: Connection) -> None:
        """Count a connection out that was counted in."""

    async def attendance(self) -> Attendance:
        """Return who is in the room, with all that were counted before.

        Raises:
            Unavailable: that cannot be told just now.

        """
        ...


class Presence(Protocol):
    """Knows who is in each room, on every node."""

    def open(self, room: str, deliver: Deliver) -> Roster:
        """Keep a room's roster; its events come by ``deliver``, or by the room's channel."""
        ...


class LocalPresence:
    """The presence of a single node."""

    def __init__(self, settings: RealtimeSettings) -> None:
        self._settings = settings

    def open(self, room: str, deliver: Deliver) -> "LocalRoster":
        """Begin a roster."""
        return LocalRoster(deliver, self._settings)


class LocalRoster:
    """Who is in a room of a single node."""

    def __init__(self, deliver: Deliver, settings: RealtimeSettings) -> None:
        self._deliver = deliver
        self._settings = settings
        self._users: Counter[str] = Counter()

    def enter(self, connection: Connection) -> None:
        """Count a connection in, and tell of a user's first."""
        self._users[connection.user] += 1
        if self._users[connection.user] == 1:
            self._tell("joined", connection)

    def leave(self, connection: Connection) -> None:
        """Count a connection out, and tell of a user's last."""
        self._users[connection.user] -= 1
        if self._users[connection.user] == 0:
            self._tell("left", connection)
            del self._users[connection.user]

    async def attendance(self) -> Attendance:
        """Return who is in the room."""
        listed = islice(self._users.items(), self._settings.max_members_listed)
        return Attendance(dict(listed), len(self._users))

    def _tell(self, event: Literal["joined", "left"], cause: Connection) -> None:
        if len(self._users) <= self._settings.max_members_for_presence_events:
            self._deliver(RoomEnvelope(cause.user, None, exclude=cause.id, event=event))
