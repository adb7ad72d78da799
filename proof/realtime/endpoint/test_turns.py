"""Turns: a flood from many connections does not delay the few messages of others."""

import asyncio

import pytest

from app.realtime.endpoint import turns
from app.realtime.endpoint.turns import Turns
from app.realtime.protocol import SERVICE_RESTART
from app.realtime.server import websocket
from app.realtime.server.websocket import FrameProtocol

from ..client import DEADLINE_S
from ..live import make_settings, run_service, wait_until
from ..raw_client import masked
from ..recording_wire import RecordingWire

FLOOD = 100
"""Messages of each hostile connection."""

FEW = 20


async def in_turns(*handled: int) -> list[int]:
    """Return the order in which users have a turn, by the messages that they have had handled."""
    shared, order = Turns(), list[int]()
    await shared.begin("first", RecordingWire())
    for number in handled:
        for _ in range(number):
            shared.count(f"user {number}", "")

    async def handle(number: int) -> None:
        await shared.begin(f"user {number}", RecordingWire())
        order.append(number)

    async with asyncio.TaskGroup() as tasks:
        for number in handled:
            tasks.create_task(handle(number))
    return order


async def test_the_user_with_the_least_work_done_goes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    monkeypatch.setattr(turns, "WOKEN_AT_ONCE", 1)
    # The first one does not wait.
    assert await in_turns(9, 5, 1, 0, 3) == [9, 0, 1, 3, 5]


async def test_large_messages_count_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    monkeypatch.setattr(turns, "WOKEN_AT_ONCE", 1)
    shared, order = Turns(), list[str]()
    await shared.begin("first", RecordingWire())
    shared.count("large", "x" * 10_000)
    shared.count("small", "x" * 10)
    shared.count("small", "x" * 10)

    async def handle(user: str) -> None:
        await shared.begin(user, RecordingWire())
        order.append(user)

    async with asyncio.TaskGroup() as tasks:
        for user in ("first", "large", "small"):
            tasks.create_task(handle(user))
    assert order == ["first", "small", "large"]


async def test_all_begin_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who wait already, too; and users who are gone take no memory."""
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    monkeypatch.setattr(turns, "WOKEN_AT_ONCE", 1)
    shared, order = Turns(), list[str]()
    await shared.begin("first", RecordingWire())
    shared.count("gone", "")
    for _ in range(9):
        shared.count("busy", "")

    async def handle(user: str) -> None:
        await shared.begin(user, RecordingWire())
        order.append(user)
        shared._compared_until = 0.0  # the time is over

    async with asyncio.TaskGroup() as tasks:
        for user in ("first", "busy", "new", "newer", "newest"):
            tasks.create_task(handle(user))
    assert order[3:] == ["busy", "newest"]
    assert "gone" not in shared._handled_bytes


async def test_everybody_has_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the time of a turn is enough for one of those that are woken only."""
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    monkeypatch.setattr(turns, "MESSAGE_BYTES", 1)
    users = list(range(3 * turns.WOKEN_AT_ONCE))
    assert sorted(await in_turns(*users)) == users


async def test_cancelled_turns_do_not_delay_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    shared = Turns()
    first, gone, last = [
        asyncio.create_task(shared.begin("alice", RecordingWire())) for _ in range(3)
    ]
    await first
    gone.cancel()
    await last
    assert gone.cancelled()


async def test_a_flood_does_not_delay_a_few_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    async with run_service() as live:  # a new one: messages of earlier tests would count
        hostile = [await live.connect("bob") for _ in range(10)]
        alice = await live.connect("alice")
        monkeypatch.setattr(turns, "TURN_S", 0.0)  # one message in each turn of the loop
        before = live.counts()["ws_commands_total ping"]
        for client in hostile:
            client.connection.transport.write(masked(b'{"type": "ping"}') * FLOOD)
        assert await alice.ask(type="ping")
        handled = live.counts()["ws_commands_total ping"] - before
    assert 0 < handled < len(hostile) * FLOOD / 10


class PausingWire(RecordingWire):
    """A wire that records whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.was_paused = self.is_paused = False

    def pause_reading(self) -> None:
        """Record it."""
        self.was_paused = self.is_paused = True

    def resume_reading(self) -> None:
        """Record it."""
        self.is_paused = False


async def test_a_connection_is_read_again_when_its_turn_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its handler may wait long, and the end of the connection must be noticed meanwhile."""
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    monkeypatch.setattr(turns, "WOKEN_AT_ONCE", 1)
    shared, wires = Turns(), [PausingWire() for _ in range(5)]
    await shared.begin("first", RecordingWire())
    await asyncio.gather(*(shared.begin("alice", wire) for wire in wires))
    assert any(wire.was_paused for wire in wires)
    assert not any(wire.is_paused for wire in wires)


async def test_connections_that_wait_are_not_read_when_many_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paused = set[FrameProtocol]()
    pause_reading = FrameProtocol.pause_reading

    def note_pause(wire: FrameProtocol) -> None:
        paused.add(wire)
        pause_reading(wire)

    async with run_service() as live:
        clients = [await live.connect("bob") for _ in range(5)]
        monkeypatch.setattr(FrameProtocol, "pause_reading", note_pause)
        monkeypatch.setattr(turns, "TURN_S", 0.0)
        monkeypatch.setattr(turns, "WOKEN_AT_ONCE", 1)
        for client in clients:
            client.connection.transport.write(masked(b'{"type": "ping"}') * FLOOD)
        for client in clients:
            for _ in range(FLOOD):
                await client.receive()
        assert paused
        await wait_until(lambda: not any(wire.read_paused for wire in paused))


async def test_connections_that_wait_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings(close_timeout_s=2 * DEADLINE_S)
    async with run_service(settings) as live:
        clients = [await live.connect("bob") for _ in range(8)]
        monkeypatch.setattr(turns, "TURN_S", 0.0)
        monkeypatch.setattr(turns, "WOKEN_AT_ONCE", 1)
        before = live.counts()["ws_commands_total ping"]
        for client in clients:
            client.connection.transport.write(masked(b'{"type": "ping"}') * FLOOD)
        await wait_until(lambda: live.counts()["ws_commands_total ping"] > before)
        for connection in live.service.manager:
            connection.close(SERVICE_RESTART)
        for client in clients:
            assert await client.closed() == SERVICE_RESTART
        await wait_until(lambda: not live.server.server_state.connections)


async def test_messages_of_clients_that_leave_while_they_wait_are_handled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with run_service() as live:
        clients = [await live.connect("bob") for _ in range(5)]
        monkeypatch.setattr(turns, "TURN_S", 0.0)
        monkeypatch.setattr(turns, "WOKEN_AT_ONCE", 1)
        monkeypatch.setattr(websocket, "PEER_CHECK_S", 0.0)
        before = live.counts()["ws_commands_total ping"]
        for client in clients:
            client.connection.transport.write(masked(b'{"type": "ping"}') * FEW)
        await asyncio.sleep(0)  # those are read, the others are not if reading pauses
        for client in clients:
            client.connection.transport.write(masked(b'{"type": "ping"}') * FEW)
            client.connection.transport.write_eof()
        expected = before + 2 * FEW * len(clients)
        await wait_until(lambda: live.counts()["ws_commands_total ping"] == expected)
