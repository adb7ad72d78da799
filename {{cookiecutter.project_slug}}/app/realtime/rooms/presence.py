"""Who is in a room: its users, each with a number of connections.

A user joins with a first connection and leaves with the last one. Those who are in the room are
told, unless it is so large that such news would be most of the traffic.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from ..backplane import Backplane
from ..connections.connection import Connection
from ..settings.settings import RealtimeSettings
from .history import Event, RoomEnvelope, room_channel


@dataclass(frozen=True, slots=True)
class Attendance:
    """Users with their numbers of connections, as many as are listed, of so many in total."""

    users: Mapping[str, int]
    total: int


class Presence:
    """Knows who is in each room. This one is for a single node."""

    def __init__(self, backplane: Backplane, settings: RealtimeSettings) -> None:
        self._backplane = backplane
        self._settings = settings

    def open(self, room: str) -> "Roster":
        """Keep a room's roster; its events come on the room's channel."""
        return Roster(room, self._backplane, self._settings)


class Roster:
    """Who is in one room, as long as this node has members of it."""

    def __init__(self, room: str, backplane: Backplane, settings: RealtimeSettings) -> None:
        self.room = room
        self._backplane = backplane
        self._settings = settings
        self._users: Counter[str] = Counter()

    def enter(self, connection: Connection) -> None:
        """Count a connection in."""
        self._users[connection.user] += 1
        self._note(connection, "joined" if self._users[connection.user] == 1 else None)

    def leave(self, connection: Connection) -> None:
        """Count a connection out that was counted in."""
        self._users[connection.user] -= 1
        self._note(connection, None if self._users[connection.user] else "left")
        if not self._users[connection.user]:
            del self._users[connection.user]

    def _note(self, cause: Connection, event: Event | None) -> None:
        """Take note of a change, and tell the room of a user's first or last connection."""
        if event and len(self._users) <= self._settings.max_members_for_presence_events:
            envelope = RoomEnvelope(cause.user, None, exclude=cause.id, event=event)
            self._backplane.publish(room_channel(self.room), envelope)

    async def attendance(self) -> Attendance:
        """Return who is in the room, with all that were counted before.

        Raises:
            Unavailable: that cannot be told just now.

        """
        listed = islice(self._users.items(), self._settings.max_members_listed)
        return Attendance(dict(listed), len(self._users))
