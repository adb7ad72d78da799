"""``typing`` reaches the other members, with the user's title, and is not stored."""

import pytest

from app.handlers import Typing, typing
from app.realtime import CommandError
from app.resources import Connection, Service

from .chat import fill, join_ship
from .realtime.live import Live


async def test_typing_reaches_members_and_is_not_stored(live: Live, service: Service) -> None:
    database = await fill(service)
    alice, bob = await join_ship(live, "alice"), await join_ship(live, "bob")
    assert (await alice.ask(type="typing", room="ship"))["type"] == "ok"
    expected = {"type": "typing", "room": "ship", "user": "alice", "title": "Captain"}
    assert await bob.receive("typing") == expected
    assert await database.execute("SELECT id FROM messages") == []


async def test_only_members_may_type(service: Service, connection: Connection) -> None:
    with pytest.raises(CommandError):
        await typing(service, connection, Typing(type="typing", room="ship"))
