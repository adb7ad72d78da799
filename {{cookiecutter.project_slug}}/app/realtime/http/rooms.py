"""The routes of rooms for your backend: who is there, and what was said."""

from dataclasses import dataclass
from typing import Annotated, Self

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import to_json

from ..commands.rooms import Member, members_within
from ..rooms.history import Position, RoomMessage, room_channel
from ..rooms.rooms import RoomName
from ..wire.frame import frame_payload
from .backend import FAILURES
from .dependencies import ServiceDep, require_key

DEFAULT_LAST = 100

router = APIRouter(
    prefix="/rooms/{room}", dependencies=[require_key("backend_key")], responses=FAILURES
)


@dataclass(slots=True, kw_only=True)
class RoomState:
    """The position of a room, its users, and how many nodes have some of them."""

    epoch: str
    offset: int
    users: int
    nodes: int


@dataclass(slots=True, kw_only=True)
class Members:
    """The users in a room: ``total``, of which large rooms list only some."""

    members: list[Member]
    total: int


@dataclass(slots=True, kw_only=True)
class Messages:
    """A position, and messages before it; ``recovered`` is as in the answer to ``join``."""

    epoch: str
    offset: int
    recovered: bool | None
    messages: list[RoomMessage]


class Extent(BaseModel):
    """Which messages: those after a position, or the last ones, by default 100."""

    model_config = ConfigDict(extra="forbid")

    epoch: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    offset: Annotated[int | None, Field(ge=0, lt=2**53)] = None
    last: Annotated[int | None, Field(ge=0, lt=2**53)] = None

    @model_validator(mode="after")
    def _check_position(self) -> Self:
        if (self.epoch is None) != (self.offset is None):
            raise ValueError("epoch and offset go together")
        if self.epoch is not None and self.last is not None:
            raise ValueError("last does not go together with a position")
        return self


@router.get("")
async def read_room(room: RoomName, service: ServiceDep) -> RoomState:
    """Return the room's position, and how many are there."""
    past = await service.rooms.kept(room)
    attendance = await service.rooms.attendance(room)
    nodes = await service.backplane.count_nodes(room_channel(room))
    position = past.position
    return RoomState(
        epoch=position.epoch, offset=position.offset, users=attendance.total, nodes=nodes
    )


@router.get("/members")
async def read_members(room: RoomName, service: ServiceDep) -> Members:
    """List the room's users, in an answer no larger than a message may be."""
    attendance = await service.rooms.attendance(room)
    members = members_within(service.settings.max_message_bytes, attendance)
    return Members(members=list(members), total=attendance.total)


@router.get("/messages", response_model=Messages)
async def read_messages(
    room: RoomName, service: ServiceDep, extent: Annotated[Extent, Query()]
) -> Response:
    """Return the messages after a position, or the last ones, as far as they are kept."""
    if extent.epoch is not None and extent.offset is not None:
        past = await service.rooms.kept(room, Position(extent.epoch, extent.offset))
    else:
        last = DEFAULT_LAST if extent.last is None else extent.last
        past = await service.rooms.kept(room, last=last)
    head = {"epoch": past.position.epoch, "offset": past.position.offset}
    body = to_json(head | {"recovered": past.recovered})[:-1]
    messages = b",".join(map(frame_payload, past.messages))  # which are JSON already
    return Response(body + b',"messages":[' + messages + b"]}", media_type="application/json")
