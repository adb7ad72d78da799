"""Presence: the users in each room, with their numbers of connections.

A user joins with the first connection and leaves with the last one. The members are told, unless
the room is so large that these events would be most of its traffic.
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
    """Listed users with their numbers of connections, and the total number of users."""

    users: Mapping[str, int]
    total: int


class Presence:
    """Counts the connections of each user in each room. This one is for a single node."""

    def __init__(self, backplane: Backplane, settings: RealtimeSettings) -> None:
        self._backplane = backplane
        self._settings = settings
        self._users: dict[str, Counter[str]] = {}

    def enter(self, room: str, connection: Connection) -> None:
        """Count a connection in."""
        self._count(room, connection, 1)

    def leave(self, room: str, connection: Connection) -> None:
        """Count a connection out."""
        self._count(room, connection, -1)

    def _count(self, room: str, connection: Connection, difference: int) -> None:
        users = self._users.setdefault(room, Counter())
        users[connection.user] += difference
        size, connections = len(users), users[connection.user]
        if not connections:
            del users[connection.user]
            if not users:
                del self._users[room]
            self._tell(room, "left", connection, size)
        elif connections == 1 and difference == 1:
            self._tell(room, "joined", connection, size)

    def _tell(self, room: str, event: Event, cause: Connection, size: int) -> None:
        if size <= self._settings.max_members_for_presence_events:
            envelope = RoomEnvelope(cause.user, None, exclude=cause.id, event=event)
            self._backplane.publish(room_channel(room), envelope)

    async def attendance(self, room: str) -> Attendance:
        """Return the users in the room, including all that were counted before."""
        users: Mapping[str, int] = self._users.get(room, {})
        listed = islice(users.items(), self._settings.max_members_listed)
        return Attendance(dict(listed), len(users))
