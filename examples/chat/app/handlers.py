"""The chat's command ``typing``, and the state of a connection."""

import sqlite3
from typing import Literal

from .realtime import Command, CommandRouter, Unavailable
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


@router.command(Typing)
async def typing(service: Service, connection: Connection, command: Typing) -> None:
    """Publish it to the room, with the user's title."""
    service.rooms.check_joined(connection, command.room)
    await service.rooms.publish(
        command.room,
        {"typing": connection.user, "title": connection.state.title},
        sender=connection.user,
        exclude=connection.id,
    )
