"""The database and the job that deletes old messages."""

from app.resources import Service, delete_old_messages

from .chat import fill


async def test_old_messages_are_deleted(service: Service) -> None:
    database = await fill(service)
    await database.execute("INSERT INTO messages (room, stored_at) VALUES ('ship', 0)")
    await delete_old_messages(service)
    assert await database.execute("SELECT id FROM messages") == []
