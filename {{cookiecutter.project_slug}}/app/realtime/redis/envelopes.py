"""Envelopes as JSON, on their way through Redis."""

from typing import Annotated, Any

from pydantic import AfterValidator, TypeAdapter
from pydantic_core import from_json

from ..backplane import Channel, Envelope
from ..connections.manager import DirectEnvelope
from ..errors import BadRequest
# {% if cookiecutter.rooms %}
from ..rooms.history import RoomEnvelope, room_channel

ROOMS = room_channel("")
# {% endif %}

MAX_BRACKETS = 200
"""JSON with no more of them is never nested too deeply to be read again."""

MAX_BYTES = 4_300
"""JSON of this size has no number that is too long to be read again."""


def encode(envelope: Envelope) -> bytes:
    """Return an envelope as JSON.

    Raises:
        BadRequest: no node could read it again.

    """
    payload = _adapters[type(envelope)].serializer.to_json(envelope, exclude_defaults=True)
    brackets = payload.count(b"[") + payload.count(b"{")
    if brackets > MAX_BRACKETS or len(payload) > MAX_BYTES:
        try:
            from_json(payload)
        except ValueError as failure:
            msg = "data: is nested too deeply, or has a number that is too long"
            raise BadRequest(msg) from failure
    return payload


def decode(channel: Channel, payload: bytes) -> Any:
    """Return the envelope that came over a channel.

    Raises:
        ValidationError: it is no envelope.

    """
    # {% if cookiecutter.rooms %}
    kind = RoomEnvelope if channel.startswith(ROOMS) else DirectEnvelope
    return _adapters[kind].validator.validate_json(payload)
    # {% else %}
    return _adapters[DirectEnvelope].validator.validate_json(payload)
    # {% endif %}


def _check_frame(envelope: Any) -> Any:
    if envelope.event == "frame" and not isinstance(envelope.data, dict):
        raise ValueError("a frame is a JSON object")
    return envelope


# {% if cookiecutter.rooms %}
def _check_event(envelope: RoomEnvelope) -> RoomEnvelope:
    if envelope.event not in (None, "frame") and envelope.sender is None:
        raise ValueError("an event needs a sender")
    return envelope


# {% endif %}
_adapters: dict[type[Envelope], TypeAdapter[Any]] = {
    DirectEnvelope: TypeAdapter(Annotated[DirectEnvelope, AfterValidator(_check_frame)]),
    # {% if cookiecutter.rooms %}
    RoomEnvelope: TypeAdapter(
        Annotated[RoomEnvelope, AfterValidator(_check_frame), AfterValidator(_check_event)]
    ),
    Envelope: TypeAdapter(Envelope),  # a message that a script numbers
    # {% endif %}
}
