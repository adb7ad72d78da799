"""A database of rooms and messages, and the job that deletes old messages."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from . import realtime
from .realtime import Job
from .settings import Settings

SCHEMA = """
CREATE TABLE users (name TEXT PRIMARY KEY, title TEXT);
CREATE TABLE members (room TEXT, user TEXT);
CREATE TABLE messages (id INTEGER PRIMARY KEY, room TEXT, sender TEXT, text TEXT, stored_at REAL);
"""

KEPT_S = 86_400
TIDY_INTERVAL_S = 3_600.0


class Database:
    """SQLite; each statement runs in a thread, one at a time."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.executescript(SCHEMA)
        self._lock = asyncio.Lock()

    async def execute(self, statement: str, *values: object) -> list[tuple[str, ...]]:
        """Return the rows that a statement yields."""
        async with self._lock:
            cursor = await asyncio.to_thread(self._connection.execute, statement, values)
            return cursor.fetchall()

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


@dataclass(slots=True)
class Resources:
    """The type of ``service.resources`` in handlers, policies, routes and jobs."""

    database: Database


@dataclass(slots=True)
class State:
    """The state of a connection: the title of its user."""

    title: str


Service = realtime.Service[Settings, Resources]
Connection = realtime.Connection[State]


@asynccontextmanager
async def open_resources(service: Service) -> AsyncIterator[Resources]:
    """Open the database, and close it when the service ends."""
    database = Database(":memory:")
    try:
        yield Resources(database)
    finally:
        database.close()


async def is_ready(service: Service) -> bool:
    """Return whether the database answers."""
    return await service.resources.database.execute("SELECT 1") != []


async def tidy(service: Service) -> None:
    """Delete old messages once an hour."""
    while True:
        await delete_old_messages(service)
        await asyncio.sleep(TIDY_INTERVAL_S)


async def delete_old_messages(service: Service) -> None:
    """Delete messages older than a day."""
    await service.resources.database.execute(
        "DELETE FROM messages WHERE stored_at < unixepoch('now') - ?", KEPT_S
    )


jobs = [Job(tidy)]
