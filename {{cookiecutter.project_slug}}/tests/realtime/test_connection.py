"""The outbox: one write for each turn of the loop, a limit to what a client may owe."""

import asyncio

from app.realtime.auth.identity import Identity
from app.realtime.connection import Connection
from app.realtime.delivery import Flusher
from app.realtime.protocol import EXPIRED, REPLACED, SLOW_CONSUMER, TRY_AGAIN_LATER, Ok
from app.realtime.wire.frame import text_frame

from .live import make_settings
from .recording_wire import RecordingWire, open_connection

FRAME = text_frame(b"{}")


def connect(wire: RecordingWire, flusher: Flusher, expires_at: float | None = None) -> Connection:
    return Connection(Identity("alice", expires_at), wire, flusher, make_settings())


async def test_nothing_comes_before_the_welcome() -> None:
    wire, flusher = RecordingWire(), Flusher()
    connection = connect(wire, flusher)
    connection.write(FRAME)
    await flusher.catch_up()
    connection.write(FRAME)
    connection.open(Ok(id="welcome"))
    connection.write(FRAME)
    await flusher.catch_up()
    assert wire.writes == [[text_frame(Ok(id="welcome").encode()), FRAME]]


async def test_a_connection_that_is_closed_does_not_open() -> None:
    wire, flusher = RecordingWire(), Flusher()
    connection = connect(wire, flusher)
    connection.close(REPLACED)
    connection.open(Ok())
    await flusher.catch_up()
    assert wire.writes == []


async def test_frames_of_one_moment_are_one_write_in_order() -> None:
    wire, flusher = RecordingWire(), Flusher()
    connection = open_connection(wire, flusher)
    frames = [text_frame(b"%d" % number) for number in range(5)]
    for frame in frames:
        connection.write(frame)
    assert wire.writes == []
    await flusher.catch_up()
    assert wire.writes == [frames]


async def test_a_client_that_owes_too_much_is_closed_and_gets_no_more() -> None:
    wire, flusher = RecordingWire(), Flusher()
    connection = open_connection(wire, flusher, max_unsent_bytes=100)
    wire.unsent = 100
    connection.write(FRAME)
    await flusher.catch_up()
    assert wire.closes == [SLOW_CONSUMER]
    wire.unsent = 0
    connection.write(FRAME)
    await flusher.catch_up()
    assert wire.writes == []


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
    connect(wire, Flusher(), expires_at=1.0)
    await asyncio.sleep(0.01)
    assert wire.closes == [EXPIRED]


async def test_renewed_credentials_replace_the_old_end() -> None:
    wire = RecordingWire()
    connection = connect(wire, Flusher(), expires_at=1.0)
    connection.renew(Identity("alice", expires_at=None))
    await asyncio.sleep(0.01)
    assert wire.closes == []


async def test_distant_ends_are_no_trouble() -> None:
    wire = RecordingWire()
    connect(wire, Flusher(), expires_at=1e15)
    await asyncio.sleep(0.01)
    assert wire.closes == []
