"""The team's own frames: those that clients would mistake for others are refused."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from app.realtime import Ok, ServerFrame
from app.realtime.protocol import DirectMessage


@pytest.mark.parametrize("kind", ["message", "welcome", "ok", "error", "ping", "pong", "resync"])
def test_a_frame_cannot_have_a_type_of_the_engine(kind: str) -> None:
    with pytest.raises(TypeError, match=f"^Mine: the type '{kind}' is the engine's"):
        type("Mine", (ServerFrame,), {"type": kind, "__module__": "app.handlers"})


def test_a_frame_cannot_default_to_a_type_of_the_engine() -> None:
    with pytest.raises(TypeError, match=r"^Mine: the type 'message'"):

        @dataclass(slots=True, kw_only=True)
        class Mine(ServerFrame):
            type: Literal["message"] = field(default="message")


def test_a_frame_cannot_have_an_id() -> None:
    with pytest.raises(TypeError, match=r"^Mine: rename the field id"):

        @dataclass(slots=True, kw_only=True)
        class Mine(ServerFrame):
            type: Literal["mine"] = "mine"
            id: str


def test_a_frame_cannot_inherit_an_id() -> None:
    @dataclass(kw_only=True)
    class Named:
        id: str

    with pytest.raises(TypeError, match=r"^Mine: rename the field id"):

        @dataclass(kw_only=True)
        class Mine(Named, ServerFrame):
            type: Literal["mine"] = "mine"


def test_a_frame_cannot_inherit_a_type_of_the_engine() -> None:
    with pytest.raises(TypeError, match=r"^Mine: the type 'message' is the engine's"):

        @dataclass(kw_only=True)
        class Mine(DirectMessage):
            more: int


def test_other_frames_and_replies_may_be_defined() -> None:
    @dataclass(slots=True, kw_only=True)
    class Base(ServerFrame):
        identity: str

    @dataclass(slots=True, kw_only=True)
    class Mine(Base):
        type: Literal["mine"] = "mine"

    @dataclass(slots=True, kw_only=True)
    class MineOk(Ok):
        type: Literal["ok"] = "ok"
        length: int

    assert Mine(identity="x").type == "mine"
    assert MineOk(length=1).id is None
