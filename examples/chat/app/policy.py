"""Members of a room in the database may join it and publish; messages are stored."""

from pydantic import JsonValue

from . import realtime
from .realtime import Forbidden
from .resources import Connection, Service

MAX_TEXT = 2_000


class Policy(realtime.Policy[Service, Connection]):
    """The rules of the chat."""

    async def can_join(self, service: Service, connection: Connection, room: str) -> bool:
        """Return whether the user is a member of the room."""
        found = await service.resources.database.execute(
            "SELECT 1 FROM members WHERE room = ? AND user = ?", room, connection.user
        )
        return found != []

    async def before_publish(
        self, service: Service, room: str, sender: str | None, data: JsonValue, keep: bool
    ) -> JsonValue:
        """Store a message with a text, and add its id; leave other messages unchanged."""
        if not keep or not isinstance(data, dict) or not isinstance(data.get("text"), str):
            return data
        if len(str(data["text"])) > MAX_TEXT:
            msg = f"a text may have {MAX_TEXT} characters"
            raise Forbidden(msg)
        ((stored_id,),) = await service.resources.database.execute(
            "INSERT INTO messages (room, sender, text, stored_at) "
            "VALUES (?, ?, ?, unixepoch('now')) RETURNING id",
            *(room, sender, data["text"]),
        )
        return data | {"id": int(stored_id)}
