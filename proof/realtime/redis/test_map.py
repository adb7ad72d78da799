"""Expiring maps in Redis, and requests that are repeated at another node."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from app.realtime.errors import Unavailable
from app.realtime.idempotency import send_once
from app.realtime.protocol import Send
from app.realtime.redis.client import RedisClient
from app.realtime.redis.map import RedisMap
from app.realtime.redis.topologies import make_client

from ..live import Live
from ..map_contract import MapContract
from ..test_idempotency import publish
from .proxy import Proxy, proxy
from .test_backplane import settings_for, two_nodes
from .valkey import Valkey

__all__ = ["proxy"]


@pytest.fixture
async def client(valkey: Valkey) -> AsyncIterator[RedisClient]:
    """Return the client of a service."""
    client = make_client(settings_for(valkey))
    assert client is not None
    yield client
    await client.aclose()


class TestRedisMap(MapContract):
    """All nodes."""

    @pytest.fixture
    def values(self, client: RedisClient) -> RedisMap:
        """Return an empty map."""
        return RedisMap(client, "kind")


async def test_redis_forgets_values_by_itself(redis: Redis, client: RedisClient) -> None:
    values = RedisMap(client, "kind")
    await values.add("key", "value", 10)
    assert 0 < await redis.ttl("ws:kind:key") <= 10
    await values.put("key", "value", 300)
    assert 10 < await redis.ttl("ws:kind:key") <= 300


async def test_kinds_are_independent(client: RedisClient) -> None:
    await RedisMap(client, "one").put("key", "value", 60)
    assert await RedisMap(client, "other").get("key") is None


async def test_a_value_whose_answer_is_lost_is_added(proxy: Proxy) -> None:
    client = make_client(settings_for(proxy))
    assert client is not None
    values = RedisMap(client, "kind")
    proxy.tear_answer_to(b"ws:kind:key")
    assert await values.add("key", "first", 60) is None
    assert await values.add("key", "second", 60) == "first"
    await client.aclose()


@pytest.mark.parametrize("disable", [Valkey.kill, Valkey.freeze])
async def test_without_redis_every_method_fails(
    valkey: Valkey, client: RedisClient, disable: Callable[[Valkey], None]
) -> None:
    values = RedisMap(client, "kind")
    client.timeout_s = 1.0
    disable(valkey)
    failures = await asyncio.gather(
        values.get("key"),
        values.pop("key"),
        values.add("key", "value", 60),
        values.put("key", "value", 60),
        return_exceptions=True,
    )
    assert [type(failure) for failure in failures] == 4 * [Unavailable]


async def test_a_repeated_publication_is_sent_once_by_all_nodes(valkey: Valkey) -> None:
    async with two_nodes(valkey) as (first, second):
        client = await second.connect()
        for live in (first, second, first):
            assert await publish(live, "once", "key") == 202
        assert (await client.receive("message"))["data"] == "once"
        assert await client.is_quiet()


async def send_with_key(live: Live, user: str) -> None:
    manager, command = live.service.manager, Send(type="send", to=user, data="once")
    requests = live.service.client_requests
    await send_once(
        requests, "key", command, lambda message_id: manager.send_to_user(user, "once"), 30.0
    )


async def test_a_repeated_command_is_sent_once_by_all_nodes(valkey: Valkey) -> None:
    async with two_nodes(valkey) as (first, second):
        client = await second.connect()
        for live in (first, second, first):
            await send_with_key(live, client.user)
        assert (await client.receive("message"))["data"] == "once"
        assert await client.is_quiet()
