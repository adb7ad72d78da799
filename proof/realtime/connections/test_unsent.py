"""Unsent bytes: the limit of each connection, from its first write on, and that of all together."""

import pytest

from app.realtime.connections import delivery
from app.realtime.connections.delivery import Delivery
from app.realtime.protocol import SLOW_CONSUMER
from app.realtime.wire.frame import text_frame

from ..live import make_settings, run_service, wait_until
from ..raw_client import raw_client
from ..recording_wire import RecordingWire, open_connection

FRAME = text_frame(b"x" * 50_000)


@pytest.mark.hostile(56)
async def test_at_the_total_the_slowest_client_is_cut_off() -> None:
    settings = make_settings(max_unsent_bytes=10_000_000, max_unsent_total_bytes=3_000_000)
    async with (
        run_service(settings) as live,
        raw_client(await live.options()),
        raw_client(await live.options("bob")),
    ):
        await wait_until(lambda: len(live.service.manager) == 2)
        much, more = live.service.manager
        for connection, unsent_bytes in ((much, 1_200_000), (more, 1_600_000)):
            while connection.unsent_bytes() < unsent_bytes:
                connection.send_encoded(FRAME)
                await live.service.delivery.catch_up()
        assert live.counts()["ws_connections_closed_total server 4008"] == 0
        while not (much.closed or more.closed):
            much.send_encoded(FRAME)
            await live.service.delivery.catch_up()
        assert (much.closed, more.closed) == (None, SLOW_CONSUMER)
        await wait_until(lambda: more.unsent_bytes() == 0)
        assert live.service.delivery.unsent_bytes == much.unsent_bytes()


async def test_no_more_are_cut_off_than_must_be() -> None:
    """However many have to be: each is cut off once, and the others stay."""
    count, size_bytes = 4_000, 1_000
    shared = Delivery(count * size_bytes)
    wires = [RecordingWire() for _ in range(count + 1)]
    connections = [open_connection(wire, shared) for wire in wires]
    for connection, wire in zip(connections, wires, strict=True):
        wire.unsent = size_bytes
        connection.send_encoded(b"x")
    await shared.catch_up()
    closed = [connection for connection in connections if connection.closed is not None]
    assert len(closed) == count // 8 + 1
    assert sum(len(wire.closes) for wire in wires) == len(closed)
    assert shared.unsent_bytes == 7 * count // 8 * size_bytes


async def test_a_connection_that_is_closing_counts_too() -> None:
    shared, wire = Delivery(), RecordingWire()
    connection = open_connection(wire, shared)
    wire.unsent = 80
    connection.close(SLOW_CONSUMER)
    assert shared.unsent_bytes == 80


async def test_read_bytes_count_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "RECOUNT_S", 0.01)
    shared, wire = Delivery(100), RecordingWire()
    connection = open_connection(wire, shared)
    wire.unsent = 80
    for _ in range(3):
        connection.send_encoded(b"x")
        await shared.catch_up()
    assert shared.unsent_bytes == 80
    wire.unsent = 0
    await wait_until(lambda: shared.unsent_bytes == 0)
    assert not shared._unsent
    assert connection.closed is None
