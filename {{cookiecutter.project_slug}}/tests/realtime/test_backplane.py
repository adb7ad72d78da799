"""The backplane of a single node."""

import pytest
from pydantic import ValidationError
from pydantic_core import to_json

from app.realtime.backplane import Backplane, Envelope
from app.realtime.connections.manager import DirectEnvelope
# {% if cookiecutter.rooms %}
from app.realtime.rooms.history import RoomEnvelope
# {% endif %}

from .backplane_contract import BackplaneContract


class TestBackplane(BackplaneContract):
    """One node: both views are the same."""

    @pytest.fixture
    def backplane(self) -> Backplane:
        """Return the node."""
        return Backplane()

    @pytest.fixture
    def other(self, backplane: Backplane) -> Backplane:
        """Return the same node."""
        return backplane


Fields = dict[str, object]

FRAME: Fields = {"sender": None, "data": {}, "event": "frame"}
FORGED: list[tuple[type[Envelope], Fields, Fields]] = [
    (DirectEnvelope, FRAME, Fields(data=1)),
    # {% if cookiecutter.rooms %}
    (RoomEnvelope, FRAME, Fields(data=1)),
    *(
        (RoomEnvelope, Fields(sender="alice", data=None, event=event), Fields(sender=None))
        for event in ("joined", "updated", "left", "evicted")
    ),
    # {% endif %}
]


def test_fields_of_the_next_version_are_ignored() -> None:
    for kind in {kind for kind, _, _ in FORGED}:
        assert kind.decode(b'{"sender": "alice", "data": 1, "added": 2}').data == 1


@pytest.mark.parametrize(("kind", "valid", "change"), FORGED)
def test_an_event_needs_a_sender_and_a_frame_an_object(
    kind: type[Envelope], valid: Fields, change: Fields
) -> None:
    kind.decode(to_json(valid))
    with pytest.raises(ValidationError):
        kind.decode(to_json(valid | change))
