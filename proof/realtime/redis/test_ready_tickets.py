"""A service that sells tickets needs the permission to take them."""

from pathlib import Path

from redis.asyncio import Redis

from .test_ready import check_end, do
from .valkey import run_valkey


async def test_without_the_permission_to_take_tickets_a_service_ends(tmp_path: Path) -> None:
    async with run_valkey() as valkey, Redis.from_url(valkey.url) as redis:
        await do(valkey, redis, "ACL SETUSER default -getdel")
        await check_end(valkey, tmp_path, "the user lacks a permission")
