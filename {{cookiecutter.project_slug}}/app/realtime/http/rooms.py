"""The routes of rooms for your backend: position, members, messages, and eviction."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Query, Request, Response, status
from pydantic_core import to_json

from ..arguments import Text
from ..commands.rooms import members_within
from ..errors import BadRequest, Forbidden
from ..rooms.frames import RoomMessage
from ..rooms.history import Position, room_channel
from ..rooms.presence import Members
from ..rooms.rooms import RoomName
from ..wire.frame import frame_payload
from .body import UserBody, described, parse
from .dependencies import ServiceDep, engine_router

DEFAULT_LAST = 100

Count = Annotated[int | None, Query(ge=0, lt=2**53)]
Epoch = Annotated[str | None, Query(min_length=1, max_length=64)]

router = engine_router(prefix="/rooms/{room}")


class Eviction(UserBody):
    """A user to take out of a room, and the reason to tell."""

    reason: Text | None = None


@dataclass(frozen=True, slots=True)
class RoomState:
    """The position of a room, its users, and the number of nodes that have some of them.

    ``users`` is null if the room has no presence.
    """

    epoch: str
    offset: int
    users: int | None
    nodes: int


@dataclass(frozen=True, slots=True)
class Messages:
    """A position, and messages before it; ``recovered`` is as in the answer to ``join``."""

    epoch: str
    offset: int
    recovered: bool | None
    messages: list[RoomMessage]


@router.get("")
async def read_room(room: RoomName, service: ServiceDep) -> RoomState:
    """Return the room's position, and its numbers of users and nodes."""
    position = (await service.rooms.history(room)).position
    try:
        users = (await service.rooms.presence(room)).total
    except Forbidden:
        users = None
    nodes = await service.backplane.count_nodes(room_channel(room))
    return RoomState(position.epoch, position.offset, users, nodes)


@router.get("/members")
async def list_members(room: RoomName, service: ServiceDep) -> Members:
    """List the room's users, as many as fit in the largest allowed message."""
    presence = await service.rooms.presence(room)
    members = members_within(service.settings.max_message_bytes, presence)
    return Members(list(members), presence.total)


@router.get("/messages", response_model=Messages)
async def list_messages(
    room: RoomName,
    service: ServiceDep,
    epoch: Epoch = None,
    offset: Count = None,
    last: Count = None,
) -> Response:
    """Return the messages after a position, or the last ones, by default 100."""
    if epoch is not None and offset is not None and last is None:
        replay = await service.rooms.history(room, Position(epoch, offset))
    elif epoch is None and offset is None:
        replay = await service.rooms.history(room, last=DEFAULT_LAST if last is None else last)
    else:
        raise BadRequest("give epoch and offset, or last alone")
    head = {"epoch": replay.position.epoch, "offset": replay.position.offset}
    body = to_json(head | {"recovered": replay.recovered})[:-1]
    messages = b",".join(map(frame_payload, replay.frames))  # encoded as JSON already
    return Response(body + b',"messages":[' + messages + b"]}", media_type="application/json")


@router.post("/evict", status_code=status.HTTP_202_ACCEPTED, openapi_extra=described(Eviction))
async def evict_user(request: Request, service: ServiceDep, room: RoomName) -> dict[str, str]:
    """Take all connections of a user out of a room, and send them the reason."""
    body = await parse(Eviction, request)
    await service.rooms.evict(room, body.user, body.reason)
    return {"status": "accepted"}
