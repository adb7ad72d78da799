"""What clients can ask of rooms."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from . import policy
from .commands import CommandRouter, Later
from .connection import Connection
from .errors import Forbidden
from .protocol import STRICT, Command, Data, Ok
from .rooms import RoomName
from .service import Service

router = CommandRouter()


class Position(BaseModel):
    """A place in a room's history."""

    model_config = STRICT

    epoch: str
    offset: int


class Join(Command):
    """Enter a room; with ``since``, go on from where an earlier visit ended."""

    type: Literal["join"]
    room: RoomName
    since: Position | None = None


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
    """The connection is in the room.

    ``recovered`` is null without ``since``, and false when messages may have been missed.
    """

    room: str
    epoch: str | None
    offset: int | None
    recovered: bool | None
    replayed: int


@dataclass(slots=True, kw_only=True)
class PublishOk(Ok):
    """The message was accepted; ``offset`` is its place in the room's history, if kept."""

    offset: int | None


@dataclass(slots=True, kw_only=True)
class Member:
    """A user in a room."""

    user: str
    connections: int


@dataclass(slots=True, kw_only=True)
class PresenceOk(Ok):
    """Who is in the room."""

    members: list[Member]


@router.command(Join)
async def join(service: Service, connection: Connection, command: Join) -> JoinOk:
    """Enter the room, if the team's policy lets the user in."""
    if not await policy.can_join(connection.identity, command.room):
        msg = "you may not join this room"
        raise Forbidden(msg)
    await service.rooms.join(connection, command.room)
    # No history is kept, so nothing proves that a returning client missed nothing.
    recovered = None if command.since is None else False
    return JoinOk(room=command.room, epoch=None, offset=None, recovered=recovered, replayed=0)


@router.command(Leave)
async def leave(service: Service, connection: Connection, command: Leave) -> None:
    """Leave the room; nothing happens to who is not in it."""
    service.rooms.leave(connection, command.room)


@router.command(Publish)
async def publish(service: Service, connection: Connection, command: Publish) -> Later:
    """Send to the room's members, of which the sender must be one."""
    service.rooms.check_joined(connection, command.room)
    exclude = None if command.echo else connection.id
    passed_on = service.rooms.publish(
        command.room, command.data, sender=connection.user, exclude=exclude
    )
    return Later(passed_on, PublishOk(offset=None))


@router.command(Presence)
async def presence(service: Service, connection: Connection, command: Presence) -> PresenceOk:
    """List the room's users."""
    users = service.rooms.presence(connection, command.room)
    return PresenceOk(members=[Member(user=user, connections=n) for user, n in users.items()])


@router.disconnected
async def leave_all(service: Service, connection: Connection) -> None:
    """Leave every room when the connection has ended."""
    service.rooms.leave_all(connection)
