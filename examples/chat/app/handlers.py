"""The chat's command ``typing`` with its frame, and the state of a connection."""

import sqlite3
from dataclasses import dataclass
from typing import Literal

from .realtime import Command, CommandRouter, ServerFrame, Unavailable
from .resources import Connection, Service, State

router = CommandRouter()
router.failures[sqlite3.Error] = Unavailable("the database is not available")


@router.connecting
async def begin(service: Service, connection: Connection) -> State:
    """Look up the user's title."""
    found = await service.resources.database.execute(
        "SELECT title FROM users WHERE name = ?", connection.user
    )
    return State(title=found[0][0] if found else "")


class Typing(Command):
    """Tell the other members of a room that the user is typing."""

    type: Literal["typing"]
    room: str


@dataclass(slots=True, kw_only=True)
class IsTyping(ServerFrame):
    """A user in the room is typing."""

    type: Literal["typing"] = "typing"
    room: str
    user: str
    title: str


@router.command(Typing)
async def typing(service: Service, connection: Connection, command: Typing) -> None:
    """Send it to the room, with the user's title."""
    service.rooms.check_joined(connection, command.room)
    frame = IsTyping(room=command.room, user=connection.user, title=connection.state.title)
    await service.rooms.send_frame(command.room, frame, exclude=connection.id)
