"""Silent clients are pinged; those that do not answer are closed."""

import asyncio

import pytest

from app.realtime.backplane import Backplane
from app.realtime.commands.router import CommandRouter
from app.realtime.connections.delivery import Delivery
from app.realtime.connections.heartbeat import Heartbeat
from app.realtime.connections.manager import ConnectionManager
from app.realtime.protocol import NO_PONG, Broadcast

from ..client import DEADLINE_S
from ..live import make_settings, run_service, wait_until
from ..recording_wire import RecordingWire, open_connection

SHORT_TIMEOUTS = {"heartbeat_interval_s": 0.1, "heartbeat_timeout_s": 0.1}
LONG_TIMEOUTS = {"heartbeat_interval_s": 0.1, "heartbeat_timeout_s": DEADLINE_S}


@pytest.mark.hostile(57)
async def test_a_client_that_does_not_answer_is_closed() -> None:
    async with run_service(make_settings(**SHORT_TIMEOUTS)) as live:
        client = await live.connect()
        assert client.welcome["heartbeat"] == {"interval_s": 0.1, "timeout_s": 0.1}
        assert await client.receive() == {"type": "ping"}
        assert await client.closed() == NO_PONG
        await wait_until(lambda: len(live.service.manager) == 0)


async def test_a_client_that_answers_stays() -> None:
    async with run_service(make_settings(**LONG_TIMEOUTS)) as live:
        client = await live.connect()
        for _ in range(3):
            await client.receive("ping")
            await client.send(type="pong")
        assert len(live.service.manager) == 1


async def test_any_frame_is_an_answer_even_a_control_frame() -> None:
    async with run_service(make_settings(**LONG_TIMEOUTS)) as live:
        client = await live.connect()
        for _ in range(3):
            await client.receive("ping")
            await (await client.connection.ping())
        assert len(live.service.manager) == 1


async def test_a_client_is_pinged_after_the_interval_and_closed_after_the_timeout() -> None:
    settings = make_settings(heartbeat_interval_s=25, heartbeat_timeout_s=10)
    manager = ConnectionManager(settings, Backplane(), Delivery())
    heartbeat = Heartbeat(settings, manager)
    wire = RecordingWire()
    connection = open_connection(wire)
    await manager.add(connection)

    def sweep(now: float) -> int:
        """Check at this time; return the number of pings up to now."""
        heartbeat.check(now)
        connection.flush()
        return len(wire.writes)

    wire.heard_at = 1_000.0
    assert sweep(1_024.9) == 0
    assert sweep(1_025.0) == 1
    assert sweep(1_034.9) == 1
    wire.heard_at = 1_034.9
    assert sweep(1_035.0) == 1
    assert sweep(1_059.9) == 2
    assert sweep(1_069.8) == 2
    assert connection.closed is None
    assert sweep(1_069.9) == 2
    assert connection.closed == NO_PONG


async def test_a_client_is_not_closed_while_its_command_runs() -> None:
    """A further ping is sent only after the answer to the last one was read."""
    answered = asyncio.Event()

    async def be_slow(*_: object) -> None:
        await answered.wait()

    router = CommandRouter()
    router.command(Broadcast)(be_slow)
    async with run_service(make_settings(**LONG_TIMEOUTS), commands=router) as live:
        client = await live.connect()
        await client.send(type="broadcast", data=1, id="slow")
        for _ in range(3):
            assert await client.receive() == {"type": "ping"}
            await client.send(type="pong")
        answered.set()
        assert (await client.receive("ok"))["id"] == "slow"


async def test_one_task_checks_all_connections() -> None:
    async with run_service() as live:
        await live.connect()  # then the start-up tasks have ended
        before = len(asyncio.all_tasks())
        await live.connect()
        one = len(asyncio.all_tasks()) - before
        for _ in range(4):
            await live.connect()
        assert len(asyncio.all_tasks()) - before == 5 * one


def test_the_heartbeat_replaces_the_servers_pings() -> None:
    assert make_settings().ws_ping_interval_s == 0
