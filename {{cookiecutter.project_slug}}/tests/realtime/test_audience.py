"""A message to many is one frame, and all frames of a moment are one write for each."""

import pytest

from app.realtime.audience import Audience
from app.realtime.delivery import Flusher
from app.realtime.protocol import REPLACED, DirectMessage
from app.realtime.wire.frame import text_frame

from .recording_wire import RecordingWire, open_connection


def make_audience(count: int) -> tuple[Audience, Flusher, list[RecordingWire]]:
    flusher = Flusher()
    audience = Audience(flusher)
    wires = [RecordingWire() for _ in range(count)]
    for wire in wires:
        audience.add(open_connection(wire, flusher))
    return audience, flusher, wires


def message(number: int) -> DirectMessage:
    return DirectMessage(sender="alice", data=number, to="all")


async def test_a_message_is_encoded_once_and_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    encode = DirectMessage.encode

    def count(frame: DirectMessage) -> bytes:
        encoded.append(frame)
        return encode(frame)

    monkeypatch.setattr(DirectMessage, "encode", count)
    audience, flusher, wires = make_audience(100)
    audience.write(message(1))
    await flusher.catch_up()
    assert len(encoded) == 1
    first = wires[0].writes[0][0]
    assert all(wire.writes[0][0] is first for wire in wires)


async def test_many_messages_are_one_write_for_each_member() -> None:
    audience, flusher, wires = make_audience(100)
    for number in range(16):
        audience.write(message(number))
    await flusher.catch_up()
    frames = [text_frame(message(number).encode()) for number in range(16)]
    assert all(wire.writes == [frames] for wire in wires)


async def test_messages_and_replies_keep_their_order() -> None:
    audience, flusher, wires = make_audience(2)
    first = next(iter(audience))
    audience.write(message(1))
    first.send(message(2))
    audience.write(message(3))
    await flusher.catch_up()
    assert wires[0].writes == [[text_frame(message(number).encode()) for number in (1, 2, 3)]]
    assert wires[1].writes == [[text_frame(message(number).encode()) for number in (1, 3)]]


@pytest.mark.hostile(61)
async def test_whoever_leaves_gets_what_was_sent_before_and_no_more() -> None:
    audience, flusher, wires = make_audience(1)
    (leaving,) = audience
    audience.write(message(1))
    audience.remove(leaving)
    audience.write(message(2))
    await flusher.catch_up()
    leaving.send(message(3))
    await flusher.catch_up()
    assert wires[0].writes == [[text_frame(message(number).encode())] for number in (1, 3)]


async def test_the_excluded_connection_gets_nothing() -> None:
    audience, flusher, wires = make_audience(3)
    _, excluded, _ = audience
    audience.write(message(1), exclude=excluded.id)
    audience.write(message(2), exclude="of another node")
    await flusher.catch_up()
    assert [len(wire.writes[0]) for wire in wires] == [2, 1, 2]


@pytest.mark.hostile(60)
async def test_a_closed_connection_is_passed_over() -> None:
    audience, flusher, wires = make_audience(2)
    closed, _ = audience
    closed.close(REPLACED)
    audience.write(message(1))
    await flusher.catch_up()
    assert [len(wire.writes) for wire in wires] == [0, 1]
    assert closed.outbox == []
