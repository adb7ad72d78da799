"""Rooms: their members in this process, and the messages that the members get."""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Unpack, cast

import structlog
from pydantic import AfterValidator, Field, JsonValue

from ..arguments import Arguments, check_arguments
from ..backplane import Envelope
from ..connections.connection import Connection
from ..connections.delivery import Delivery
from ..errors import BadRequest, CommandError, Forbidden, LimitExceeded
from ..jobs import without_exit
from ..protocol import ServerFrame
from ..settings.settings import RealtimeSettings
from ..wire.frame import check_frame_size, encode, frame_data
from .frames import Evicted, room_frame
from .history import NOWHERE, History, Position, Replay, room_channel
from .options import RoomOptions, Rules, make_rules
from .presence import Members, Presence, encode_info

log = structlog.stdlib.get_logger(__name__)

BeforePublish = Callable[[str, str | None, JsonValue, bool], JsonValue | Awaitable[JsonValue]]
"""Takes room, sender (None for the server), data and ``keep``; returns the data to publish."""

ROOM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")


class BadRoom(CommandError, ValueError):  # a `ValueError`, so that a validator may raise it
    """The name of the room is not valid."""

    code = "bad_room"


class NotJoined(CommandError):
    """The connection is not in the room."""

    code = "not_joined"


def _check_room_name(name: str) -> str:
    if ROOM_NAME.fullmatch(name) is None:
        msg = "room names have 1 to 64 of A-Z a-z 0-9 _ . : - and start with a letter or digit"
        raise BadRoom(msg)
    return name


RoomName = Annotated[
    str,
    AfterValidator(_check_room_name),
    Field(json_schema_extra={"pattern": f"^{ROOM_NAME.pattern}$"}),
]


@dataclass(slots=True, eq=False)
class Room:
    """The members of a room in this process.

    ``complete_since`` maps connection ids to the position since which the member missed nothing.
    ``joining`` counts the joins of each connection that are in progress. ``evicted`` has the
    connections among these whose joins must fail, because their user was evicted meanwhile.
    """

    name: str
    rules: Rules
    members: dict[str, Connection] = field(default_factory=dict)
    complete_since: dict[str, Position] = field(default_factory=dict)
    joining: Counter[Connection] = field(default_factory=Counter)
    evicted: set[Connection] = field(default_factory=set)


class Rooms:
    """All rooms with members in this process. A room exists as long as it has members.

    Call the methods in the event loop's thread. In another thread, those that send or change
    something, and each ``async def``, raise `WrongThread` and do nothing. An invalid room name
    raises `BadRoom`, any other invalid argument `BadRequest`, and a message larger than
    ``MAX_UNSENT_BYTES`` raises `TooLarge`.
    """

    def __init__(
        self, settings: RealtimeSettings, history: History, presence: Presence, delivery: Delivery
    ) -> None:
        self._settings = settings
        self._history = history
        self._presence = presence
        self._delivery = delivery
        self._rooms: dict[str, Room] = {}
        self._joined: dict[str, set[str]] = {}
        self._waiting: set[asyncio.Task[Position]] = set()
        self._before_publish: BeforePublish = lambda room, sender, data, keep: data

    def __len__(self) -> int:
        """Return the number of rooms with members."""
        return len(self._rooms)

    def _check_call(self, room: str, **arguments: Unpack[Arguments]) -> None:
        self._delivery.check_thread()
        _check_room_name(room)
        check_arguments(**arguments)

    async def join(
        self,
        connection: Connection,
        name: str,
        since: Position | None = None,
        last: int = 0,
        info: JsonValue = None,
    ) -> Replay:
        """Make the connection a member; after this has returned, it misses no message.

        Returns the frames since a position, or the ``last`` ones. The caller must enqueue them
        before its next ``await``. A member that joins again gets no message twice: it is only told
        whether it missed any. An ``info`` other than null becomes that of the user in this room.

        Raises:
            Forbidden: the user was evicted meanwhile.
            BadRequest: the info is too large, or both ``since`` and ``last`` are given.
            LimitExceeded: the connection is in the maximum number of rooms.
            Unavailable: the subscription is not confirmed, or the history cannot be read.
        """
        self._check_call(name, last=last)
        check_since_or_last(since, last)
        encoded = None if info is None else encode_info(info)
        self._check_limit(connection, name)
        room = self._rooms.get(name) or self._open(name)
        room.joining[connection] += 1
        try:
            if connection.id in room.members:  # it gets all messages already, so none is read
                replay = await self._history.replay(name, NOWHERE if since else None)
            else:
                replay = await self._history.replay(name, since, last)
            if connection in room.evicted:
                raise Forbidden("the user was taken out of the room")
            if connection.id in room.members:
                self._count(room, connection, 0, encoded)
                return _replay_of_member(replay.position, since, room.complete_since[connection.id])
            self._check_limit(connection, name)  # it may have joined other rooms meanwhile
            if connection.closed is None:
                self._joined.setdefault(connection.id, set()).add(name)
                room.members[connection.id] = connection
                room.complete_since[connection.id] = replay.position
                self._count(room, connection, 1, encoded)
            return replay
        finally:
            room.joining[connection] -= 1
            if not room.joining[connection]:
                del room.joining[connection]
                room.evicted.discard(connection)
            self._free_if_empty(room)

    def _open(self, name: str) -> Room:
        room = Room(name, self._history.rules_of(name))
        # {% if cookiecutter.redis %}
        self._history.open(name, partial(self._deliver, room), partial(self._announce, room))
        # {% else %}
        self._history.open(name, partial(self._deliver, room))
        # {% endif %}
        self._rooms[name] = room
        return room

    def _deliver(self, room: Room, envelope: Envelope) -> None:
        if envelope.event == "evicted":
            self._evict(room, envelope)
        else:
            self._delivery.send_all(room.members, room_frame(room.name, envelope), envelope.exclude)

    # {% if cookiecutter.redis %}
    def _announce(self, room: Room, frame: ServerFrame, position: Position) -> None:
        room.complete_since = dict.fromkeys(room.members, position)
        self._delivery.send_all(room.members, frame)

    # {% endif %}
    def _check_limit(self, connection: Connection, name: str) -> None:
        joined = self._joined.get(connection.id, ())
        if name not in joined and len(joined) >= self._settings.max_rooms_per_connection:
            msg = f"a connection may be in at most {self._settings.max_rooms_per_connection} rooms"
            raise LimitExceeded(msg)

    def set_info(self, connection: Connection, name: str, info: JsonValue) -> None:
        """Change the user's info; raise `NotJoined`, or `BadRequest` if the info is too large."""
        self._delivery.check_thread()
        self.check_joined(connection, name)
        self._count(self._rooms[name], connection, 0, encode_info(info))

    def _count(
        self, room: Room, connection: Connection, difference: int, info: bytes | None
    ) -> None:
        if room.rules.has_presence and (difference or info is not None):
            self._presence.count(room.name, room.rules, connection, difference, info)

    def leave(self, connection: Connection, name: str) -> None:
        """End a membership. Idempotent."""
        self._delivery.check_thread()
        joined = self._joined.get(connection.id, set())
        if name not in joined:
            return
        joined.remove(name)
        if not joined:
            del self._joined[connection.id]
        room = self._rooms[name]
        del room.members[connection.id], room.complete_since[connection.id]
        try:
            self._count(room, connection, -1, None)
        finally:
            self._free_if_empty(room)

    def leave_all(self, connection: Connection) -> None:
        """End all memberships of a connection, even if ending one of them fails."""
        for name in list(self._joined.get(connection.id, ())):
            self._leave_surely(connection, name)

    def _leave_surely(self, connection: Connection, name: str) -> None:
        """End a membership; if telling the other members fails, only log it."""
        try:
            self.leave(connection, name)
        except Exception:
            log.exception("leaving a room failed", room=name)

    def evict(self, room: str, user: str, reason: str | None = None) -> asyncio.Future[int]:
        """Take all connections of a user out of a room, and send them the reason.

        The user may join again unless `Policy.can_join` refuses. The future yields the number of
        processes that have members, or fails with `Unavailable`.
        """
        self._check_call(room, user=user, reason=reason)
        envelope = Envelope(user, reason, event="evicted")
        return self._history.backplane.publish(room_channel(room), envelope)

    def _evict(self, room: Room, envelope: Envelope) -> None:
        user = envelope.sender
        frame = encode(Evicted(room=room.name, reason=cast(str | None, envelope.data)))
        check_frame_size(frame, self._settings.max_unsent_bytes)  # before anybody has left
        members = [each for each in room.members.values() if each.user == user]
        joining = {each for each in room.joining if each.user == user}
        room.evicted |= joining
        for connection in joining.union(members):
            self._leave_surely(connection, room.name)
            connection.send_encoded(frame)

    def publish(
        self,
        room: str,
        data: JsonValue,
        *,
        sender: str | None = None,
        exclude: str | None = None,
        keep: bool = True,
    ) -> asyncio.Future[Position]:
        """Send to all members except the excluded connection.

        The future yields the message's position. Without ``keep``, the message is not part of the
        history, and its offset is 0. The future fails with `Unavailable` if the message cannot be
        passed on. If `before_publish` returns an awaitable, the future fails with what that raises.

        Raises:
            Forbidden: the policy refuses the message.
        """
        self._check_call(room, sender=sender, exclude=exclude)
        answer = self._before_publish(room, sender, data, keep)
        if not isinstance(answer, Awaitable):
            return self._history.publish(room, Envelope(sender, answer, exclude), keep=keep)

        async def publish() -> Position:
            envelope = Envelope(sender, await without_exit(lambda: answer), exclude)
            return await self._history.publish(room, envelope, keep=keep)

        task = asyncio.create_task(publish())
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return task

    async def pass_on(
        self,
        room: str,
        data: JsonValue,
        *,
        member: Connection | None = None,
        exclude: str | None = None,
        keep: bool = True,
        message_id: str | None = None,
    ) -> asyncio.Future[Position]:
        """Publish like `publish`, but wait for the policy: one caller's messages stay in order.

        Arguments are not checked. Without ``member``, the server is the sender. A message that
        failed may be passed on again with the same id: members get it once.

        Raises:
            Forbidden: the policy refuses the message.
            NotJoined: ``member`` has left or was evicted, perhaps while this waited for the policy.
        """
        self._delivery.check_thread()
        sender = None
        if member is not None:
            self.check_joined(member, room)
            sender = member.user
        answer = self._before_publish(room, sender, data, keep)
        if answer is not data:  # the default policy returns the same object
            data = await answer if isinstance(answer, Awaitable) else answer
            if member is not None:
                self.check_joined(member, room)
        envelope = Envelope(sender, data, exclude)
        return self._history.publish(room, envelope, keep=keep, message_id=message_id)

    def send_frame(
        self, room: str, frame: ServerFrame, *, exclude: str | None = None
    ) -> asyncio.Future[int]:
        """Send a frame of your own to all members; it is not kept.

        `before_publish` is not called. The future yields the number of processes that have members,
        or fails with `Unavailable`.
        """
        self._check_call(room, exclude=exclude)
        envelope = Envelope(None, frame_data(frame), exclude, event="frame")
        return self._history.backplane.publish(room_channel(room), envelope)

    def set_policy(
        self, before_publish: BeforePublish, room_options: Callable[[str], RoomOptions]
    ) -> None:
        """Set two functions of the policy.

        ``before_publish``, a ``def`` or an ``async def``, is called for every message;
        ``room_options``, a ``def``, for every room whose options are not cached.
        """
        self._history.rules_of = make_rules(self._settings, room_options)
        self._before_publish = before_publish

    async def presence(self, name: str) -> Members:
        """Return the users in the room.

        Raises:
            Forbidden: the room has no presence.
            Unavailable: the users are not known now.
        """
        self._check_call(name)
        room = self._rooms.get(name)
        rules = self._history.rules_of(name) if room is None else room.rules
        if not rules.has_presence:
            raise Forbidden("this room has no presence")
        return await self._presence.read(name, rules)

    async def history(self, name: str, since: Position | None = None, last: int = 0) -> Replay:
        """Return the room's position, and its messages since another position, or the last ones.

        Like `presence`, it also works for rooms that have no member in this process.

        Raises:
            BadRequest: both ``since`` and ``last`` are given.
            Unavailable: they cannot be read now.
        """
        self._check_call(name, last=last)
        check_since_or_last(since, last)
        return await self._history.read(name, since, last)

    def members_here(self, name: str) -> int:
        """Return the number of members in this process."""
        room = self._rooms.get(name)
        return 0 if room is None else len(room.members)

    def check_joined(self, connection: Connection, name: str) -> None:
        """Raise `NotJoined` unless the connection is a member."""
        if name not in self._joined.get(connection.id, ()):
            raise NotJoined("join the room first")

    def _free_if_empty(self, room: Room) -> None:
        if not room.members and not room.joining:
            del self._rooms[room.name]
            self._history.close(room.name)


def check_since_or_last(since: Position | None, last: int) -> None:
    """Raise `BadRequest` if messages are requested both since a position and by their number."""
    if since is not None and last:
        raise BadRequest("last: give since or last, not both")


def _replay_of_member(
    position: Position, since: Position | None, complete_since: Position
) -> Replay:
    if since is None:
        return Replay(position)
    is_same_epoch = since.epoch == position.epoch
    recovered = is_same_epoch and complete_since.offset <= since.offset <= position.offset
    return Replay(position, recovered=recovered)
