"""The frames that the members of a room get: messages, presence, evictions."""

from dataclasses import dataclass
from typing import Literal, cast

from pydantic import JsonValue
from pydantic_core import to_json

from ..backplane import Envelope
from ..protocol import Message, ServerFrame
from ..wire.frame import encode, text_frame


@dataclass(slots=True, kw_only=True)
class RoomMessage(Message):
    """Data for all members of a room.

    ``offset`` is its number in the room's epoch, or null if the message is not kept.
    """

    type: Literal["message"] = "message"
    room: str
    offset: int | None


@dataclass(slots=True, kw_only=True)
class Joined(ServerFrame):
    """A user's first connection has entered the room."""

    type: Literal["joined"] = "joined"
    room: str
    user: str
    info: JsonValue


@dataclass(slots=True, kw_only=True)
class Updated(ServerFrame):
    """The info of a user in the room has changed."""

    type: Literal["updated"] = "updated"
    room: str
    user: str
    info: JsonValue


@dataclass(slots=True, kw_only=True)
class Left(ServerFrame):
    """A user's last connection has left the room."""

    type: Literal["left"] = "left"
    room: str
    user: str


@dataclass(slots=True, kw_only=True)
class Evicted(ServerFrame):
    """The server has taken the connection out of the room."""

    type: Literal["evicted"] = "evicted"
    room: str
    reason: str | None


def message_frame(room: str, envelope: Envelope) -> bytes:
    """Return the encoded frame with a room's message."""
    offset = envelope.offset or None
    return encode(RoomMessage(envelope.sender, envelope.data, room=room, offset=offset))


def room_frame(room: str, envelope: Envelope) -> bytes | ServerFrame:
    """Return the frame that members get."""
    if envelope.event is None:
        return envelope.frame or message_frame(room, envelope)
    if envelope.event == "frame":
        return text_frame(to_json(envelope.data))
    user = cast(str, envelope.sender)
    if envelope.event == "left":
        return Left(room=room, user=user)
    frame = Joined if envelope.event == "joined" else Updated
    return frame(room=room, user=user, info=envelope.data)
