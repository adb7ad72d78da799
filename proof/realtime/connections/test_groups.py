"""A message to a group is encoded once; the frames of one turn are one write per connection."""

import pytest

from app.realtime.connections import delivery as delivery_module
from app.realtime.connections.connection import Connection
from app.realtime.connections.delivery import Delivery
from app.realtime.protocol import REPLACED, DirectMessage
from app.realtime.wire.frame import encode

from ..recording_wire import RecordingWire, open_connection


class Group:
    """Connections that get the same messages."""

    def __init__(self, count: int) -> None:
        self.delivery = Delivery()
        self.wires = [RecordingWire() for _ in range(count)]
        connections = [open_connection(wire, self.delivery) for wire in self.wires]
        self.members: dict[str, Connection] = {each.id: each for each in connections}

    def write(self, frame: DirectMessage, *, exclude: str | None = None) -> None:
        """Send a message to all members except one."""
        self.delivery.send_all(self.members, frame, exclude)


def make_group(count: int) -> tuple[Group, Delivery, list[RecordingWire]]:
    group = Group(count)
    return group, group.delivery, group.wires


def message(number: int) -> DirectMessage:
    return DirectMessage(sender="alice", data=number, to="all")


async def test_a_message_is_encoded_once_and_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []

    def count(frame: DirectMessage) -> bytes:
        encoded.append(frame)
        return encode(frame)

    group, delivery, wires = make_group(100)
    monkeypatch.setattr(delivery_module, "encode", count)
    group.write(message(1))
    await delivery.catch_up()
    assert len(encoded) == 1
    first = wires[0].writes[0][0]
    assert all(wire.writes[0][0] is first for wire in wires)


async def test_many_messages_are_one_write_per_member() -> None:
    group, delivery, wires = make_group(100)
    for number in range(16):
        group.write(message(number))
    await delivery.catch_up()
    frames = [encode(message(number)) for number in range(16)]
    assert all(wire.writes == [frames] for wire in wires)


async def test_messages_and_replies_keep_their_order() -> None:
    group, delivery, wires = make_group(2)
    first = next(iter(group.members.values()))
    group.write(message(1))
    first.send(message(2))
    group.write(message(3))
    await delivery.catch_up()
    assert wires[0].writes == [[encode(message(number)) for number in (1, 2, 3)]]
    assert wires[1].writes == [[encode(message(number)) for number in (1, 3)]]


@pytest.mark.hostile(61)
async def test_a_leaving_member_gets_only_earlier_messages() -> None:
    group, delivery, wires = make_group(1)
    (leaving,) = group.members.values()
    group.write(message(1))
    del group.members[leaving.id]
    group.write(message(2))
    await delivery.catch_up()
    leaving.send(message(3))
    await delivery.catch_up()
    assert wires[0].writes == [[encode(message(number))] for number in (1, 3)]


async def test_the_excluded_connection_gets_nothing() -> None:
    group, delivery, wires = make_group(3)
    _, excluded, _ = group.members.values()
    group.write(message(1), exclude=excluded.id)
    group.write(message(2), exclude="a connection of another node")
    await delivery.catch_up()
    assert [len(wire.writes[0]) for wire in wires] == [2, 1, 2]
    assert delivery.frames_sent()["group"] == 5


@pytest.mark.hostile(60)
async def test_a_closed_connection_is_skipped() -> None:
    group, delivery, wires = make_group(2)
    closed, _ = group.members.values()
    closed.close(REPLACED)
    group.write(message(1))
    await delivery.catch_up()
    assert [len(wire.writes) for wire in wires] == [0, 1]
    assert closed.outbox == []
