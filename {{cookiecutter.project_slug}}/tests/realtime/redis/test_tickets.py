"""A ticket of one node is valid on any other, once."""

import asyncio
from collections import Counter

import pytest
from redis.asyncio import Redis

from ..auth.test_ticket import is_refused, issue, try_ticket, with_ticket
from ..live import run_service, wait_until
from .test_backplane import settings_for
from .valkey import Valkey, run_valkey


@pytest.mark.hostile(44)
async def test_a_ticket_is_valid_once_on_any_node() -> None:
    async with run_valkey() as valkey:
        settings = settings_for(valkey)
        async with run_service(settings) as first, run_service(settings) as second:
            nodes = first.service.backplane, second.service.backplane
            await wait_until(lambda: all(each.healthy for each in nodes))
            ticket = await issue(first)
            client = await second.connect_with(with_ticket(second, ticket))
            assert client.user == "alice"
            assert await is_refused(first, ticket)
            async with Redis.from_url(valkey.url) as redis:
                await issue(first)
                (key,) = await redis.keys("ws:ticket:*")
                assert 0 < await redis.ttl(key) <= settings.ticket_lifetime_s


@pytest.mark.hostile(44)
async def test_concurrent_connections_with_a_ticket_are_accepted_once_on_all_nodes() -> None:
    async with run_valkey() as valkey:
        settings = settings_for(valkey)
        async with run_service(settings) as first, run_service(settings) as second:
            nodes = first.service.backplane, second.service.backplane
            await wait_until(lambda: all(each.healthy for each in nodes))
            ticket = await issue(first)
            attempts = (try_ticket(node, ticket) for node in (first, second) * 5)
            assert Counter(await asyncio.gather(*attempts)) == {"welcome": 1, 4500: 9}


@pytest.mark.hostile(44)
@pytest.mark.parametrize("user", [b"", b"\xff", b"x" * 5_000, ["alice"]])
async def test_forged_tickets_are_refused(
    valkey: Valkey, redis: Redis, user: bytes | list[str]
) -> None:
    async with run_service(settings_for(valkey)) as live:
        if isinstance(user, list):
            await redis.rpush("ws:ticket:forged", *user)
        else:
            await redis.set("ws:ticket:forged", user)
        assert await is_refused(live, "forged")
        assert await is_refused(live, "forged")


async def test_without_redis_clients_are_told_to_try_again() -> None:
    async with run_valkey() as valkey, run_service(settings_for(valkey)) as live:
        ticket = await issue(live)
        valkey.kill()
        client = await live.connect_with(with_ticket(live, ticket), welcomed=False)
        assert (await client.closed())[0] == 1013
        assert (await live.post("/tickets", {"user": "alice"})).status_code == 503
