"""The outbox: one write for each turn of the loop, a limit to what a client may owe."""

import asyncio

from app.auth import Identity
from app.connection import Connection, Flusher
from app.protocol import EXPIRED, REPLACED, SLOW_CONSUMER, TRY_AGAIN_LATER, Ok
from app.wire import text_frame

from .live import make_settings
from .recording_wire import RecordingWire, open_connection

FRAME = text_frame(b"{}")


def expiring_connection(wire: RecordingWire, expires_at: float) -> Connection:
    return Connection(Identity("alice", expires_at), wire, Flusher(), make_settings())


async def next_turn() -> None:
    await asyncio.sleep(0)


async def test_nothing_comes_before_the_welcome() -> None:
    wire = RecordingWire()
    connection = Connection(Identity("alice"), wire, Flusher(), make_settings())
    connection.write(FRAME)
    connection.open(Ok(id="welcome"))
    connection.write(FRAME)
    await next_turn()
    assert wire.writes == [[text_frame(Ok(id="welcome").encode()), FRAME]]


async def test_a_connection_that_is_closed_does_not_open() -> None:
    wire = RecordingWire()
    connection = Connection(Identity("alice"), wire, Flusher(), make_settings())
    connection.close(REPLACED)
    connection.open(Ok())
    await next_turn()
    assert wire.writes == []


async def test_frames_of_one_turn_are_one_write_in_order() -> None:
    wire = RecordingWire()
    connection = open_connection(wire)
    frames = [text_frame(b"%d" % number) for number in range(5)]
    for frame in frames:
        connection.write(frame)
    assert wire.writes == []
    await next_turn()
    assert wire.writes == [frames]


async def test_one_turn_is_enough_for_many_connections() -> None:
    flusher = Flusher()
    wires = [RecordingWire() for _ in range(10)]
    for wire in wires:
        Connection(Identity("alice"), wire, flusher, make_settings()).open(Ok())
    await next_turn()
    assert all(len(wire.writes) == 1 for wire in wires)


async def test_a_client_that_owes_too_much_is_closed_and_gets_no_more() -> None:
    wire = RecordingWire()
    connection = open_connection(wire, max_unsent_bytes=100)
    wire.unsent = 99
    connection.write(FRAME)
    await next_turn()
    assert wire.closes == [SLOW_CONSUMER]
    connection.write(FRAME)
    await next_turn()
    assert wire.writes == []


async def test_a_client_that_owes_nothing_may_get_any_amount_at_once() -> None:
    wire = RecordingWire()
    connection = open_connection(wire, max_unsent_bytes=10)
    connection.write(text_frame(b"x" * 1_000))
    await next_turn()
    assert len(wire.writes) == 1
    assert wire.closes == []


async def test_the_first_close_stands_and_comes_after_what_was_queued() -> None:
    wire = RecordingWire()
    connection = open_connection(wire)
    connection.write(FRAME)
    connection.close(REPLACED)
    connection.close(TRY_AGAIN_LATER)
    assert wire.writes == [[FRAME]]
    assert wire.closes == [REPLACED]
    assert connection.closed == REPLACED


async def test_credentials_that_ran_out_close_the_connection() -> None:
    wire = RecordingWire()
    expiring_connection(wire, expires_at=1.0)
    await asyncio.sleep(0.01)
    assert wire.closes == [EXPIRED]


async def test_renewed_credentials_replace_the_old_end() -> None:
    wire = RecordingWire()
    connection = expiring_connection(wire, expires_at=1.0)
    connection.renew(Identity("alice", expires_at=None))
    await asyncio.sleep(0.01)
    assert wire.closes == []


async def test_distant_ends_are_no_trouble() -> None:
    wire = RecordingWire()
    expiring_connection(wire, expires_at=1e15)
    await asyncio.sleep(0.01)
    assert wire.closes == []
