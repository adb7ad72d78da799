"""A connection's outbox, with one bounded write per turn of the loop, and its close."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from app.realtime.auth.identity import Identity
from app.realtime.connections import connection as connection_module
from app.realtime.connections.connection import Connection
from app.realtime.connections.delivery import Delivery
from app.realtime.limits.budget import UserBudget
from app.realtime.protocol import EXPIRED, REPLACED, SLOW_CONSUMER, TRY_AGAIN_LATER, Ok
from app.realtime.wire.frame import encode, text_frame

from ..live import make_settings, wait_until
from ..recording_wire import SETTINGS, RecordingWire, open_connection

FRAME = text_frame(b"{}")


def connect(wire: RecordingWire, delivery: Delivery, expires_at: float | None = None) -> Connection:
    identity, settings = Identity("alice", expires_at), make_settings()
    return Connection(identity, wire, delivery, settings, UserBudget(settings))


async def test_the_welcome_is_written_first() -> None:
    wire, delivery = RecordingWire(), Delivery()
    connection = connect(wire, delivery)
    connection.send_encoded(FRAME)
    await delivery.catch_up()
    connection.send_encoded(FRAME)
    connection.open(Ok(id="welcome"))
    connection.send_encoded(FRAME)
    await delivery.catch_up()
    assert wire.writes == [[encode(Ok(id="welcome")), FRAME]]


async def test_a_connection_that_is_closed_does_not_open() -> None:
    wire, delivery = RecordingWire(), Delivery()
    connection = connect(wire, delivery)
    connection.close(REPLACED)
    connection.open(Ok())
    await delivery.catch_up()
    assert wire.writes == []


async def test_frames_of_one_turn_are_one_write_in_order() -> None:
    wire, delivery = RecordingWire(), Delivery()
    connection = open_connection(wire, delivery)
    frames = [text_frame(b"%d" % number) for number in range(5)]
    for frame in frames:
        connection.send_encoded(frame)
    assert wire.writes == []
    await delivery.catch_up()
    assert wire.writes == [frames]


async def test_a_slow_consumer_is_closed_and_gets_no_more() -> None:
    wire, delivery = RecordingWire(), Delivery()
    connection = open_connection(wire, delivery)
    wire.unsent = SETTINGS.max_unsent_bytes
    connection.send_encoded(FRAME)
    await delivery.catch_up()
    assert wire.closes == [SLOW_CONSUMER]
    wire.unsent = 0
    connection.send_encoded(FRAME)
    await delivery.catch_up()
    assert wire.writes == []


async def test_the_first_close_wins_and_follows_queued_frames() -> None:
    wire = RecordingWire()
    connection = open_connection(wire)
    connection.send_encoded(FRAME)
    connection.close(REPLACED)
    connection.close(TRY_AGAIN_LATER)
    assert wire.writes == [[FRAME]]
    assert wire.closes == [REPLACED]
    assert connection.closed == REPLACED


async def test_expired_credentials_close_the_connection() -> None:
    wire = RecordingWire()
    connect(wire, Delivery(), expires_at=1.0)
    await wait_until(lambda: wire.closes == [EXPIRED])


async def test_credentials_expire_by_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timers stop while the machine sleeps, and the wall clock may be set."""
    monkeypatch.setattr(connection_module, "EXPIRY_CHECK_S", 0.01)
    wire = RecordingWire()
    connect(wire, Delivery(), expires_at=time.time() + 3_600)
    await asyncio.sleep(0.05)
    assert wire.closes == []
    clock = SimpleNamespace(time=lambda: time.time() + 3_601)
    monkeypatch.setattr(connection_module, "time", clock)
    await wait_until(lambda: wire.closes == [EXPIRED])


async def test_a_distant_expiry_is_accepted() -> None:
    wire = RecordingWire()
    connect(wire, Delivery(), expires_at=1e15)
    await asyncio.sleep(0.01)
    assert wire.closes == []
