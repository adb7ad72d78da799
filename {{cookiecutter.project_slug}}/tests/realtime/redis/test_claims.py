"""Requests that come to one node and are repeated at another."""

from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from app.realtime.errors import Unavailable
from app.realtime.idempotency import CLAIMED_S, REMEMBERED_S, Claims
from app.realtime.redis.claims import RedisClaims
from app.realtime.redis.client import RedisClient
from app.realtime.redis.topologies import make_client

from ..idempotency_contract import ClaimsContract
from ..test_idempotency import publish
from .test_backplane import settings_for, two_nodes
from .valkey import Valkey


@pytest.fixture
async def client(valkey: Valkey) -> AsyncIterator[RedisClient]:
    """Return the client that the service has."""
    client = make_client(settings_for(valkey))
    assert client is not None
    yield client
    await client.aclose()


class TestRedisClaims(ClaimsContract):
    """All nodes."""

    @pytest.fixture
    def claims(self, client: RedisClient) -> Claims:
        """Return new ones."""
        return RedisClaims(client)


async def test_claims_lapse(valkey: Valkey, client: RedisClient) -> None:
    claims = RedisClaims(client)
    async with Redis.from_url(valkey.url) as redis:
        await claims.claim("key", "request")
        assert 0 < await redis.ttl("ws:idempotency:key") <= CLAIMED_S
        await claims.keep("key", "request")
        assert CLAIMED_S < await redis.ttl("ws:idempotency:key") <= REMEMBERED_S


@pytest.mark.parametrize("disable", [Valkey.kill, Valkey.freeze])
async def test_without_the_server_nothing_is_promised(
    valkey: Valkey, client: RedisClient, disable: Callable[[Valkey], None]
) -> None:
    claims = RedisClaims(client)
    disable(valkey)
    with pytest.raises(Unavailable):
        await claims.claim("key", "request")
    await claims.keep("key", "request")
    await claims.release("key")


async def test_a_publication_goes_out_once_from_all_nodes(valkey: Valkey) -> None:
    async with two_nodes(valkey) as (first, second):
        client = await second.connect()
        for live in (first, second, first):
            assert await publish(live, "once", "key") == 202
        assert (await client.receive("message"))["data"] == "once"
        assert await client.is_quiet()
