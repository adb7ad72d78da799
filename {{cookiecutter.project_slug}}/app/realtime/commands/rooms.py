"""What clients can ask of rooms."""

from asyncio import CancelledError, Future
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from ..connections.connection import Connection
from ..errors import Forbidden
from ..policy import Policy
from ..protocol import STRICT, Command, Data, Ok, Reply
from ..rooms.history import Position
from ..rooms.rooms import RoomName, room_frame
from ..service import Service
from .router import CommandRouter


class Since(BaseModel):
    """The position up to which the client has everything."""

    model_config = STRICT

    epoch: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    offset: Annotated[int, Field(ge=0, lt=2**53)]

    @property
    def position(self) -> Position:
        """The same for `Rooms`."""
        return Position(self.epoch, self.offset)


class Join(Command):
    """Enter a room; with ``since``, go on from where an earlier visit ended."""

    type: Literal["join"]
    room: RoomName
    since: Since | None = None


class Leave(Command):
    """Leave a room."""

    type: Literal["leave"]
    room: RoomName


class Publish(Command):
    """Send ``data`` to everybody in a room; to this connection only with ``echo``."""

    type: Literal["publish"]
    room: RoomName
    data: Data
    echo: bool = False


class Presence(Command):
    """Ask who is in a room."""

    type: Literal["presence"]
    room: RoomName


@dataclass(slots=True, kw_only=True)
class JoinOk(Ok):
    """The connection is in the room; ``offset`` is the position after the replayed messages.

    ``recovered`` is null without ``since``, and false when messages may have been missed.
    """

    room: str
    epoch: str
    offset: int
    recovered: bool | None
    replayed: int


@dataclass(slots=True, kw_only=True)
class PublishOk(Ok):
    """The message was accepted; ``offset`` is its number in the room's epoch.

    It says nothing about older messages, which may still be under way to the publisher.
    """

    offset: int


@dataclass(slots=True, kw_only=True)
class Member:
    """A user in a room."""

    user: str
    connections: int


@dataclass(slots=True, kw_only=True)
class PresenceOk(Ok):
    """Who is in the room: ``total`` users, of which a large room lists some."""

    members: list[Member]
    total: int


def reply_when_published(published: Future[int]) -> Reply | Future[Reply]:
    """Return the reply to a publication, at once or later. It takes no task."""
    if published.done():
        return PublishOk(offset=published.result())
    reply: Future[Reply] = published.get_loop().create_future()

    def finish(published: Future[int]) -> None:
        failure = CancelledError() if published.cancelled() else published.exception()
        if reply.done():
            return
        if failure is not None:
            reply.set_exception(failure)
        else:
            reply.set_result(PublishOk(offset=published.result()))

    published.add_done_callback(finish)
    return reply


def room_commands(policy: Policy[Any, Any]) -> CommandRouter:
    """Return the commands of rooms, which ask this policy."""
    router = CommandRouter()

    @router.command(Join)
    async def join(service: Service, connection: Connection, command: Join) -> JoinOk:
        """Enter the room, if the team's policy lets the user in; missed messages follow."""
        answer = policy.can_join(service, connection, command.room)
        if not (answer if isinstance(answer, bool) else await answer):
            msg = "you may not join this room"
            raise Forbidden(msg)
        since = None if command.since is None else command.since.position
        past = await service.rooms.join(connection, command.room, since)
        return JoinOk(
            room=command.room,
            epoch=past.position.epoch,
            offset=past.position.offset,
            recovered=past.recovered,
            replayed=len(past.messages),
            followed_by=[room_frame(command.room, missed) for missed in past.messages],
        )

    @router.command(Leave)
    async def leave(service: Service, connection: Connection, command: Leave) -> None:
        """Leave the room; nothing happens to who is not in it."""
        service.rooms.leave(connection, command.room)

    @router.command(Publish)
    async def publish(
        service: Service, connection: Connection, command: Publish
    ) -> Reply | Future[Reply]:
        """Send to the room's members, of which the sender must be one, if policy allows it."""
        service.rooms.check_joined(connection, command.room)
        answer = policy.can_publish(service, connection, command.room)
        if not (answer if isinstance(answer, bool) else await answer):
            msg = "you may not publish to this room"
            raise Forbidden(msg)
        exclude = None if command.echo else connection.id
        published = await service.rooms.pass_on(
            command.room, command.data, sender=connection.user, exclude=exclude
        )
        return reply_when_published(published)

    @router.command(Presence)
    async def presence(service: Service, connection: Connection, command: Presence) -> PresenceOk:
        """List the room's users."""
        attendance = await service.rooms.attendance(connection, command.room)
        members = [Member(user=user, connections=n) for user, n in attendance.users.items()]
        return PresenceOk(members=members, total=attendance.total)

    return router
