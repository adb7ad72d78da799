"""Bursts of messages, and what a connection leaves behind."""

import asyncio
from collections.abc import Sequence

import pytest
from starlette.websockets import WebSocket
from websockets.exceptions import InvalidStatus

from app.realtime.connections import delivery
from app.realtime.connections.delivery import MESSAGES_IN_A_ROW, Delivery
from app.realtime.endpoint import endpoint, turns
from app.realtime.protocol import SERVICE_RESTART
from app.realtime.server.websocket import FrameProtocol

from ..client import Client
from ..live import Live, run_service, wait_until
from ..raw_client import masked


async def test_closed_connections_leave_no_task(live: Live) -> None:
    before = len(asyncio.all_tasks())
    clients = [await live.connect("alice") for _ in range(3)]
    assert len(live.service.manager) == 3
    for client in clients:
        await client.close()
    await wait_until(lambda: len(live.service.manager) == 0)
    await wait_until(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_failed_handshake_releases_its_slot(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(websocket: WebSocket, *limits: float) -> None:
        raise RuntimeError

    options = await live.options()
    monkeypatch.setattr(endpoint, "connect_wire", fail)
    with pytest.raises(InvalidStatus) as refusal:
        await Client.open(options)
    assert refusal.value.response.status_code == 500
    await wait_until(lambda: not live.service.admission._connections)


async def test_a_cancelled_connection_is_closed_with_1012() -> None:
    async with run_service() as live:
        client = await live.connect()
        (task,) = live.server.server_state.tasks
        task.cancel()
        assert await client.closed() == SERVICE_RESTART
        await wait_until(lambda: len(live.service.manager) == 0)


@pytest.mark.hostile(54)
@pytest.mark.parametrize(
    ("turn_s", "is_congested", "most_in_a_row"),
    [
        (60.0, False, 2 * MESSAGES_IN_A_ROW),
        (60.0, True, MESSAGES_IN_A_ROW // 2),
        (0.0, False, MESSAGES_IN_A_ROW // 2),
    ],
)
async def test_a_burst_of_one_client_yields_to_others(
    live: Live,
    monkeypatch: pytest.MonkeyPatch,
    turn_s: float,
    is_congested: bool,
    most_in_a_row: int,
) -> None:
    """After so many messages, or sooner if they take long, or cause more than can be written."""
    written: list[int] = []
    write = FrameProtocol.write

    def note(protocol: FrameProtocol, frames: Sequence[bytes], max_unsent_bytes: int) -> int | None:
        written.append(len(frames))
        return write(protocol, frames, max_unsent_bytes)

    client = await live.connect()
    monkeypatch.setattr(FrameProtocol, "write", note)
    monkeypatch.setattr(turns, "TURN_S", turn_s)
    monkeypatch.setattr(endpoint, "MANY_FRAMES", 0)
    monkeypatch.setattr(Delivery, "is_congested", is_congested)
    transport = client.connection.transport
    commands = b"".join(masked(b'{"type": "ping"}') for _ in range(10 * MESSAGES_IN_A_ROW))
    transport.write(commands)
    for _ in range(10 * MESSAGES_IN_A_ROW):
        await client.receive("pong")
    assert max(written) <= most_in_a_row


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Return a list that gets an item for each wait for `Delivery.catch_up`."""
    waits: list[None] = []
    catch_up = Delivery.catch_up

    async def note(waiting: Delivery) -> None:
        waits.append(None)
        await catch_up(waiting)

    monkeypatch.setattr(Delivery, "catch_up", note)
    monkeypatch.setattr(delivery, "MAX_FRAMES_PER_TURN", 0)
    return waits


async def test_a_client_with_few_commands_does_not_wait_for_a_flood(
    live: Live, waits: list[None]
) -> None:
    client = await live.connect()
    for _ in range(2 * MESSAGES_IN_A_ROW):
        await client.ask(type="ping")
    assert waits == []


async def test_a_client_with_many_recipients_waits_while_delivery_is_full(
    live: Live, waits: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "MANY_FRAMES", 0)
    client = await live.connect()
    for _ in range(3):
        await client.ask(type="ping")
    assert len(waits) == 3
