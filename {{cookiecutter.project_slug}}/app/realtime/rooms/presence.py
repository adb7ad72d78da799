"""Presence: the users in each room, each with a number of connections and an info.

A user joins with the first connection and leaves with the last one. The info is the newest that any
of the user's connections has set. Members get these changes as events, unless the room is so large
that the events would be most of its traffic.
"""

from dataclasses import dataclass
from itertools import islice

from pydantic import JsonValue
from pydantic_core import from_json, to_json

from ..backplane import Backplane, Envelope, Event
from ..connections.connection import Connection
from ..errors import BadRequest
from ..settings.settings import RealtimeSettings
from .history import room_channel
from .options import Rules

MAX_INFO_BYTES = 1_024
"""Size of an info as JSON."""

NO_INFO = b"null"


def encode_info(info: JsonValue) -> bytes:
    """Return an info as JSON, or raise `BadRequest` if it is too large or too deep."""
    encoded = to_json(info, inf_nan_mode="null")
    if len(encoded) > MAX_INFO_BYTES:
        raise BadRequest(f"info: has {len(encoded)} bytes as JSON; the limit is {MAX_INFO_BYTES}")
    try:
        from_json(encoded)
    except ValueError as failure:
        raise BadRequest("info: is nested too deeply") from failure
    return encoded


@dataclass(slots=True, kw_only=True)
class Member:
    """A user in a room; ``info`` is null if none was set."""

    user: str
    connections: int
    info: JsonValue


@dataclass(frozen=True, slots=True)
class Members:
    """The users in a room, in large rooms only some of them, and the total number of users."""

    members: list[Member]
    total: int


@dataclass(slots=True)
class _Present:
    connections: int = 0
    info: bytes = NO_INFO


class Presence:
    """Counts the connections of each user in each room, in memory."""

    def __init__(self, backplane: Backplane, settings: RealtimeSettings) -> None:
        self._backplane = backplane
        self._settings = settings
        self._users: dict[str, dict[str, _Present]] = {}

    def count(
        self, room: str, rules: Rules, connection: Connection, difference: int, info: bytes | None
    ) -> None:
        """Count a connection that joined (1) or left (-1), or only change its user's info (0)."""
        users = self._users.setdefault(room, {})
        present = users.setdefault(connection.user, _Present())
        present.connections += difference
        known = present.info
        present.info = info = info or known
        event: Event | None = None
        size = len(users)
        if not present.connections:
            event, info = "left", NO_INFO
            del users[connection.user]
            if not users:
                del self._users[room]
        elif present.connections == difference:
            event = "joined"
        elif info != known:
            event = "updated"
        if event is not None and size <= rules.max_members_for_events:
            envelope = Envelope(connection.user, from_json(info), connection.id, event=event)
            self._backplane.publish(room_channel(room), envelope)

    async def read(self, room: str, rules: Rules) -> Members:
        """Return the users in the room, after all earlier calls of `count`."""
        users = self._users.get(room, {})
        members = [
            Member(user=user, connections=present.connections, info=from_json(present.info))
            for user, present in islice(users.items(), self._settings.max_members_listed)
        ]
        return Members(members, len(users))
