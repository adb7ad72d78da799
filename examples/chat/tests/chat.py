"""Helpers of the chat's tests: a database with one room and two members."""

from app.resources import Database, Service

from .realtime.client import Client
from .realtime.live import Live


async def fill(service: Service) -> Database:
    """Empty the database, then make alice and bob members of the room ``ship``."""
    database = service.resources.database
    for table in ("users", "members", "messages"):
        await database.execute(f"DELETE FROM {table}")  # noqa: S608
    await database.execute("INSERT INTO users VALUES ('alice', 'Captain')")
    for user in ("alice", "bob"):
        await database.execute("INSERT INTO members VALUES ('ship', ?)", user)
    return database


async def join_ship(live: Live, user: str) -> Client:
    """Connect as the user and join the room ``ship``."""
    client = await live.connect(user)
    assert (await client.ask(type="join", room="ship"))["type"] == "ok"
    return client
