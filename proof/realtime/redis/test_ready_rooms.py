"""Rooms are ready only while Redis does what they need, and a burst of joins waits its turn."""

import pytest
import structlog
from redis.asyncio import Redis

from ..live import Live, run_service, wait_until
from .test_backplane import settings_for
from .test_ready import SHARING, Place, check_refusal, do, healthy, restricted, two_services
from .valkey import Valkey

__all__ = ["restricted"]

BURST = 1_000


@pytest.mark.parametrize(
    "command", ["evalsha", "rpush", "hset", "hgetall", "info", "pubsub", "zadd"]
)
async def test_a_permission_that_a_script_lacks_stops_a_service_at_start(
    valkey: Valkey, redis: Redis, command: str
) -> None:
    await do(valkey, redis, f"ACL SETUSER default -{command}")
    await check_refusal(valkey, "the user lacks a permission")


async def test_the_user_in_the_documents_may_do_all_that_rooms_need(restricted: Live) -> None:
    client = await restricted.connect("alice")
    for command in (
        {"type": "join", "room": "lobby"},
        {"type": "publish", "room": "lobby", "data": 1},
        {"type": "presence", "room": "lobby"},
        {"type": "leave", "room": "lobby"},
    ):
        assert (await client.ask(**command))["type"] == "ok"


@SHARING
async def test_rooms_of_two_services_that_share_a_redis_have_nothing_in_common(
    valkey: Valkey, here: Place, there: Place
) -> None:
    async with two_services(valkey, here, there) as (first, second):
        await wait_until(lambda: healthy(first)() and healthy(second)())
        alice, strange = await first.connect("alice"), await second.connect("bob")
        for client in (alice, strange):
            assert (await client.ask(type="join", room="lobby"))["offset"] == 0
        assert (await alice.ask(type="publish", room="lobby", data=1))["offset"] == 1
        assert len((await strange.ask(type="presence", room="lobby"))["members"]) == 1
        assert (await strange.ask(type="publish", room="lobby", data=2))["offset"] == 1
        assert await strange.is_quiet()


async def test_all_of_a_burst_of_joins_are_served(valkey: Valkey, redis: Redis) -> None:
    settings = settings_for(
        valkey, max_connections_per_address=2 * BURST, max_connections_per_user=2 * BURST
    )
    async with run_service(settings) as live:
        await wait_until(healthy(live))
        clients = [await live.connect(f"user-{number}") for number in range(100)]
        rooms = range(BURST // len(clients))
        with structlog.testing.capture_logs() as lines:
            for number, client in enumerate(clients):
                for room in rooms:
                    await client.send(type="join", room=f"room-{number}-{room}", id=str(room))
            for client in clients:
                answers = [await client.receive("ok", "error") for _ in rooms]
                assert [answer["type"] for answer in answers] == ["ok"] * len(rooms)
        assert "redis command failed" not in [line["event"] for line in lines]
        assert len(await redis.client_list()) <= settings.redis_max_connections + 1
