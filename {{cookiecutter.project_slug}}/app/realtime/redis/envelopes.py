"""Envelopes as JSON, on their way through Redis."""

from collections.abc import Collection
from dataclasses import MISSING, fields
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, TypeAdapter
from pydantic_core import from_json

from ..backplane import Channel, Envelope, Event
from ..errors import BadRequest

# {% if cookiecutter.rooms %}
ROOM_EVENTS: Collection[Event] = ("joined", "updated", "left", "evicted")

# {% endif %}
EVENTS: dict[str, Collection[Event | None]] = {
    "all": (None, "frame"),
    "user": (None, "frame", "disconnect"),
    # {% if cookiecutter.rooms %}
    "room": (None, "frame", *ROOM_EVENTS),
    # {% endif %}
}
"""The events that envelopes may have, by the kind of their channel; None is a message."""

OPTIONAL = [each.name for each in fields(Envelope) if each.default is not MISSING]
"""Fields of an envelope that are left out of the JSON while they are empty."""

MAX_BRACKETS = 200
"""JSON with at most this many brackets is never nested too deeply to be parsed."""

MAX_BYTES = 4_300
"""JSON of at most this size has no number that is too long to be parsed."""


def encode(envelope: Envelope) -> bytes:
    """Return an envelope as JSON.

    Raises:
        BadRequest: no node could parse it.
    """
    empty = {name for name in OPTIONAL if not getattr(envelope, name)}
    payload = _serializer.to_json(envelope, exclude=empty)
    brackets = payload.count(b"[") + payload.count(b"{")
    if brackets > MAX_BRACKETS or len(payload) > MAX_BYTES:
        try:
            from_json(payload)
        except ValueError as failure:
            msg = "data: is nested too deeply, or has a number that is too long"
            raise BadRequest(msg) from failure
    return payload


def decode(channel: Channel, payload: bytes) -> Envelope:
    """Return the envelope that came over a channel.

    Raises:
        ValidationError: it is no envelope, or has an event that this channel cannot carry.
    """
    envelope: Envelope = _validators[channel.partition(":")[0]].validate_json(payload)
    return envelope


def _check(events: Collection[Event | None], envelope: Envelope) -> Envelope:
    event, data = envelope.event, envelope.data
    if event not in events:
        raise ValueError("this channel cannot carry this event")
    if event == "frame" and not isinstance(data, dict):
        raise ValueError("a frame is a JSON object")
    # {% if cookiecutter.rooms %}
    if event in ROOM_EVENTS and envelope.sender is None:
        raise ValueError("an event needs a sender")
    if event == "evicted" and not isinstance(data, str | None):
        raise ValueError("a reason is a string")
    # {% endif %}
    return envelope


_serializer = TypeAdapter(Envelope).serializer
_validators = {
    kind: TypeAdapter(Annotated[Envelope, AfterValidator(partial(_check, events))]).validator
    for kind, events in EVENTS.items()
}
