"""Rooms: which connection is in which, and what everybody in one of them gets to hear."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Annotated, Literal, Self, cast

import structlog
from pydantic import AfterValidator, JsonValue, model_validator

from ..backplane import Envelope, Publication
from ..connections.connection import Connection
from ..connections.delivery import Delivery
from ..errors import CommandError, LimitExceeded
from ..protocol import Message, ServerFrame
from ..settings.settings import RealtimeSettings
from .history import History, Past, Position, RoomEnvelope
from .presence import Attendance, Presence

log = structlog.stdlib.get_logger(__name__)

BeforePublish = Callable[[str, str | None, JsonValue], JsonValue | Awaitable[JsonValue]]
"""Takes room, sender (null for the server) and data; returns the data to publish."""

ROOM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")


class BadRoom(CommandError, ValueError):
    """No room can have this name. A `ValueError`, so that a validator may raise it."""

    code = "bad_room"


class NotJoined(CommandError):
    """The connection is not in the room."""

    code = "not_joined"


def _check_room_name(name: str) -> str:
    if ROOM_NAME.fullmatch(name) is None:
        msg = "room names have 1 to 64 of A-Z a-z 0-9 _ . : - and start with a letter or digit"
        raise BadRoom(msg)
    return name


RoomName = Annotated[str, AfterValidator(_check_room_name)]


@dataclass(slots=True, kw_only=True)
class RoomMessage(Message):
    """Data for everybody in a room. ``offset`` is its number in the room's epoch."""

    room: str
    offset: int


@dataclass(slots=True, kw_only=True)
class Joined(ServerFrame):
    """A user's first connection has entered the room."""

    type: Literal["joined"] = "joined"
    room: str
    user: str


@dataclass(slots=True, kw_only=True)
class Left(ServerFrame):
    """A user's last connection has left the room."""

    type: Literal["left"] = "left"
    room: str
    user: str


class RoomPublication(Publication):
    """What the team's backend publishes: to one room, to one user, or to everybody."""

    room: RoomName | None = None

    @model_validator(mode="after")
    def _check_one_target(self) -> Self:
        if self.room is not None and self.user is not None:
            msg = "name a room or a user, not both"
            raise ValueError(msg)
        return self


def room_frame(room: str, envelope: RoomEnvelope) -> RoomMessage | Joined | Left:
    """Return what members get of an envelope."""
    if envelope.event is None:
        return RoomMessage(envelope.sender, envelope.data, room=room, offset=envelope.offset)
    frame = Joined if envelope.event == "joined" else Left
    return frame(room=room, user=cast(str, envelope.sender))


class Room:
    """The part of a room that is connected to this node."""

    def __init__(self, name: str, history: History, presence: Presence, delivery: Delivery) -> None:
        self.name = name
        self.members: dict[str, Connection] = {}
        self._delivery = delivery
        self.joining = 0
        self.feed = history.open(name, self._deliver, self._announce)
        self.roster = presence.open(name)

    def _deliver(self, envelope: RoomEnvelope) -> None:
        self._delivery.send_all(self.members, room_frame(self.name, envelope), envelope.exclude)

    def _announce(self, frame: ServerFrame) -> None:
        self._delivery.send_all(self.members, frame)


class Rooms:
    """All rooms with members on this node. A room exists as long as somebody is in it.

    They belong to the event loop's thread. From another thread, whatever sends or changes raises
    `WrongThread` and does nothing.
    """

    def __init__(
        self, settings: RealtimeSettings, history: History, presence: Presence, delivery: Delivery
    ) -> None:
        self._settings = settings
        self._history = history
        self._presence = presence
        self._delivery = delivery
        self._rooms: dict[str, Room] = {}
        self._joined: dict[str, dict[str, Position]] = {}
        self._waiting: set[asyncio.Future[int]] = set()
        self.set_policy(lambda room, sender, data: data)

    def __len__(self) -> int:
        """Return the number of rooms with members."""
        return len(self._rooms)

    async def join(self, connection: Connection, name: str, since: Position | None = None) -> Past:
        """Make the connection a member; from its return on nothing escapes it.

        Returns what was said since a position, for the caller to send before anything waits. A
        member that joins again has had all that was said since it joined, so it gets nothing twice.

        Raises:
            LimitExceeded: the connection is in as many rooms as allowed.
            Unavailable: the backplane does not confirm the room's channel, or has no history.

        """
        self._delivery.check_thread()
        joined = self._joined.get(connection.id, {})
        if name not in joined and len(joined) >= self._settings.max_rooms_per_connection:
            msg = f"a connection may be in {self._settings.max_rooms_per_connection} rooms"
            raise LimitExceeded(msg)
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = Room(name, self._history, self._presence, self._delivery)
        room.joining += 1
        try:
            past = await room.feed.past(since)
            if name in self._joined.get(connection.id, {}):
                return self._past_of_member(room, connection, since)
            if connection.closed is None:
                self._enter(room, connection, past.position)
            return past
        finally:
            room.joining -= 1
            self._free_if_empty(room)

    def _past_of_member(self, room: Room, connection: Connection, since: Position | None) -> Past:
        position = room.feed.position
        if since is None:
            return Past(position)
        entered_at = self._joined[connection.id][room.name]
        has_seen_since = entered_at.epoch != position.epoch or entered_at.offset <= since.offset
        return Past(position, recovered=has_seen_since and room.feed.is_whole_since(since))

    def leave(self, connection: Connection, name: str) -> None:
        """End a membership. Idempotent."""
        self._delivery.check_thread()
        joined = self._joined.get(connection.id, {})
        if name not in joined:
            return
        del joined[name]
        if not joined:
            del self._joined[connection.id]
        room = self._rooms[name]
        del room.members[connection.id]
        room.roster.leave(connection)
        self._free_if_empty(room)

    def leave_all(self, connection: Connection) -> None:
        """End all memberships of a connection, whatever happens to one of them."""
        for name in list(self._joined.get(connection.id, ())):
            try:
                self.leave(connection, name)
            except Exception:
                log.exception("leaving a room failed", room=name)

    def publish(
        self, room: str, data: JsonValue, *, sender: str | None = None, exclude: str | None = None
    ) -> asyncio.Future[int]:
        """Send to every member, on every node, but the excluded connection.

        The future yields the message's offset. It fails with `Unavailable` if the message cannot
        be passed on, and with `Forbidden` if a policy that waits refuses it.

        Raises:
            Forbidden: a policy that does not wait refuses the message.

        """
        self._delivery.check_thread()
        if not self._policy_waits:
            data = cast(JsonValue, self._before_publish(room, sender, data))
            return self._history.publish(room, Envelope(sender, data, exclude))
        passing = self.pass_on(room, data, sender=sender, exclude=exclude)
        task = asyncio.ensure_future(_both(passing))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return task

    async def pass_on(
        self, room: str, data: JsonValue, *, sender: str | None, exclude: str | None
    ) -> asyncio.Future[int]:
        """Do the same, but return as soon as the policy has agreed, so that order is kept."""
        answer = self._before_publish(room, sender, data)
        if self._policy_waits:
            answer = await cast(Awaitable[JsonValue], answer)
        return self._history.publish(room, Envelope(sender, cast(JsonValue, answer), exclude))

    def set_policy(self, before_publish: BeforePublish) -> None:
        """Have every message pass this function, ``def`` or ``async def``, before it is sent."""
        self._before_publish = before_publish
        self._policy_waits = iscoroutinefunction(before_publish)

    async def attendance(self, connection: Connection, name: str) -> Attendance:
        """Return who is in the room, on every node.

        Raises:
            NotJoined: the connection is not in the room.
            Unavailable: that cannot be told just now.

        """
        self._delivery.check_thread()
        self.check_joined(connection, name)
        return await self._rooms[name].roster.attendance()

    def check_joined(self, connection: Connection, name: str) -> None:
        """Let only members pass.

        Raises:
            NotJoined: the connection is not in the room.

        """
        if name not in self._joined.get(connection.id, ()):
            msg = "join the room first"
            raise NotJoined(msg)

    def _free_if_empty(self, room: Room) -> None:
        if not room.members and not room.joining:
            del self._rooms[room.name]
            room.feed.close()

    def _enter(self, room: Room, connection: Connection, position: Position) -> None:
        self._joined.setdefault(connection.id, {})[room.name] = position
        room.members[connection.id] = connection
        room.roster.enter(connection)


async def _both(passing: Awaitable[asyncio.Future[int]]) -> int:
    return await (await passing)
