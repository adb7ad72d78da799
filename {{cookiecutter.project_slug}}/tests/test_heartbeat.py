"""The quiet are pinged, the silent are closed, the living are left alone."""

import asyncio

from app.heartbeat import NO_PONG

from .live import make_settings, run_service, wait_until

IMPATIENT = {"heartbeat_interval_s": 0.1, "heartbeat_timeout_s": 0.1}
PATIENT = {"heartbeat_interval_s": 0.1, "heartbeat_timeout_s": 2.0}


async def test_a_silent_client_is_pinged_and_then_closed() -> None:
    async with run_service(make_settings(**IMPATIENT)) as live:
        client = await live.connect()
        assert client.welcome["heartbeat"] == {"interval_s": 0.1, "timeout_s": 0.1}
        assert await client.receive() == {"type": "ping"}
        assert await client.closed() == NO_PONG
        await wait_until(lambda: len(live.service.manager) == 0)


async def test_whoever_answers_stays() -> None:
    async with run_service(make_settings(**PATIENT)) as live:
        client = await live.connect()
        for _ in range(3):
            await client.receive("ping")
            await client.send(type="pong")
        assert len(live.service.manager) == 1


async def test_any_frame_is_an_answer_even_one_the_app_never_sees() -> None:
    async with run_service(make_settings(**PATIENT)) as live:
        client = await live.connect()
        for _ in range(3):
            await client.receive("ping")
            await (await client.connection.ping())
        assert len(live.service.manager) == 1


async def test_a_busy_client_is_not_pinged() -> None:
    async with run_service(make_settings(heartbeat_interval_s=0.2)) as live:
        client = await live.connect()
        for _ in range(10):
            await asyncio.sleep(0.03)
            assert (await client.ask(type="ping"))["type"] == "pong"
        assert await client.is_quiet()


async def test_one_sweeper_serves_all_connections() -> None:
    async with run_service() as live:
        before = len(asyncio.all_tasks())
        await live.connect()
        one = len(asyncio.all_tasks()) - before
        for _ in range(4):
            await live.connect()
        assert len(asyncio.all_tasks()) - before == 5 * one


def test_the_heartbeat_replaces_the_servers_own_pings() -> None:
    assert make_settings().ws_ping_interval_s is None
