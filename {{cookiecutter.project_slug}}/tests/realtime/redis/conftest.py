"""Servers for the tests of Redis."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from .valkey import Valkey, run_valkey


@pytest.fixture(scope="module")
async def shared_valkey() -> AsyncIterator[Valkey]:
    """Run a server for all tests of a module."""
    async with run_valkey() as valkey:
        yield valkey


@pytest.fixture
async def empty_valkey(shared_valkey: Valkey) -> Valkey:
    """Return the server of the module, without any keys."""
    async with Redis.from_url(shared_valkey.url) as redis:
        await redis.flushall()
    return shared_valkey


@pytest.fixture
async def valkey() -> AsyncIterator[Valkey]:
    """Run a server that the test may break."""
    async with run_valkey() as valkey:
        yield valkey


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[Redis]:
    """Return a client of that server, for an operator's commands."""
    async with Redis.from_url(valkey.url) as redis:
        yield redis
