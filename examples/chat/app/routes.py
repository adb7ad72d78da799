"""The HTTP routes of the chat."""

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException
from pydantic import BaseModel

from .realtime import CurrentUser, get_service
from .resources import Service

ServiceDep = Annotated[Service, Depends(get_service)]

router = APIRouter()


class StoredMessage(BaseModel):
    """A stored message."""

    id: int
    sender: str
    text: str


@router.get("/rooms/{room}/messages")
async def read_messages(room: str, user: CurrentUser, service: ServiceDep) -> list[StoredMessage]:
    """Return the stored messages of a room to its members."""
    database = service.resources.database
    if not await database.execute(
        "SELECT 1 FROM members WHERE room = ? AND user = ?", room, user.user
    ):
        raise HTTPException(403, "you are not a member of this room")
    rows = await database.execute(
        "SELECT id, sender, text FROM messages WHERE room = ? ORDER BY id", room
    )
    return [StoredMessage(id=int(id_), sender=sender, text=text) for id_, sender, text in rows]
