"""Envelopes that come from Redis: those of the next version, and forged ones."""

from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import from_json, to_json

from app.realtime.backplane import ALL, Channel, Envelope, user_channel
from app.realtime.errors import BadRequest
from app.realtime.protocol import DirectMessage
from app.realtime.redis.envelopes import decode, encode
# {% if cookiecutter.rooms %}
from app.realtime.rooms.history import room_channel
# {% endif %}
from app.realtime.wire.frame import encode as encode_frame
from app.realtime.wire.frame import frame_payload

Fields = dict[str, object]

USER = user_channel("alice")
# {% if cookiecutter.rooms %}
ROOM = room_channel("lobby")
# {% endif %}


def nested(levels: int) -> object:
    """Return an array in so many others."""
    return [nested(levels - 1)] if levels else []


FRAME: Fields = {"sender": None, "data": {}, "event": "frame"}
DISCONNECT: Fields = {"sender": None, "data": None, "event": "disconnect"}
FORGED: list[tuple[Channel, Fields, Fields]] = [
    (USER, FRAME, Fields(data=1)),
    (USER, DISCONNECT, Fields(event="unknown")),
    (ALL, FRAME, DISCONNECT),
    # {% if cookiecutter.rooms %}
    (USER, DISCONNECT, Fields(sender="alice", event="joined")),
    (ROOM, FRAME, Fields(data=1)),
    (ROOM, FRAME, DISCONNECT),
    (ROOM, Fields(sender="alice", data="a reason", event="evicted"), Fields(data={"a": 1})),
    *(
        (ROOM, Fields(sender="alice", data=None, event=event), Fields(sender=None))
        for event in ("joined", "updated", "left", "evicted")
    ),
    # {% endif %}
]


def test_fields_of_the_next_version_are_ignored() -> None:
    for channel in {channel for channel, _, _ in FORGED}:
        assert decode(channel, b'{"sender": "alice", "data": 1, "added": 2}').data == 1


@pytest.mark.parametrize(("channel", "valid", "change"), FORGED)
def test_an_event_of_another_kind_of_channel_or_with_other_fields_is_refused(
    channel: Channel, valid: Fields, change: Fields
) -> None:
    decode(channel, to_json(valid))
    with pytest.raises(ValidationError):
        decode(channel, to_json(valid | change))


@pytest.mark.parametrize("data", [nested(201), 10**5_000], ids=["deep", "long"])
def test_what_could_not_be_read_again_is_refused(data: Any) -> None:
    with pytest.raises(BadRequest, match="nested too deeply"):
        encode(Envelope(None, data))


class Score(BaseModel):
    """A model of the team's."""

    points: int = 0
    note: str | None = Field(default=None, serialization_alias="text")


def test_data_is_the_same_as_without_redis() -> None:
    data: Any = {"score": Score(), "": None, "list": [0, False, []]}
    frame = from_json(frame_payload(encode_frame(DirectMessage(None, data, "user"))))
    assert decode(USER, encode(Envelope(None, data))).data == frame["data"]
    assert frame["data"]["score"]["points"] == 0
