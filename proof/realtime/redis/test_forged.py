"""Invalid values in Redis do not stop a process: they count as lost, and are replaced."""

import random
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ..client import Client, Frame
from ..live import run_service, wait_until, wait_until_async
from ..test_idempotency import publish
from .test_backplane import settings_for
from .valkey import Valkey

JUNK = [
    b"",
    b"\xff\xfe",
    b"inf",
    b"-inf",
    b"nan",
    b"-1",
    b"1.5",
    b"9" * 400,
    b"x" * 5_000,
    b"\x00",
    b'{"sender":"\xff","data":1}',
]

FORGED = [
    b'{"sender":"alice","data":{"reason":1},"event":"evicted"}',
    b'{"sender":"alice","data":null,"event":"unknown"}',
    b'{"sender":null,"data":1,"event":"frame"}',
]
"""Envelopes that no node sends over any channel."""

Forge = Callable[[Redis, bytes, bytes], Awaitable[object]]


async def as_string(redis: Redis, key: bytes, junk: bytes) -> None:
    await redis.set(key, junk)


async def as_list(redis: Redis, key: bytes, junk: bytes) -> None:
    await redis.delete(key)
    await redis.rpush(key, junk, junk)


async def as_hash(redis: Redis, key: bytes, junk: bytes) -> None:
    await redis.delete(key)
    await redis.hset(key, mapping={b"": junk, junk: junk})


async def as_sorted_set(redis: Redis, key: bytes, junk: bytes) -> None:
    await redis.delete(key)
    await redis.zadd(key, {junk: 1})


async def in_its_own_type(redis: Redis, key: bytes, junk: bytes) -> None:
    """Leave the type of a key, and spoil all that it has."""
    match await redis.type(key):
        case b"hash":
            fields = await redis.hkeys(key)
            await redis.hset(key, mapping=dict.fromkeys([*fields, junk], junk))
        case b"list":
            await redis.lpush(key, junk)
            await redis.rpush(key, junk)
        case b"zset":
            await redis.zadd(key, {junk: random.random(), junk + b"late": float("inf")})
        case _:
            await redis.set(key, junk)


FORGERIES = [as_string, as_list, as_hash, as_sorted_set, in_its_own_type]


async def answers(client: Client) -> list[Frame]:
    """Use all that is in Redis."""
    since = {"epoch": "e", "offset": 0}
    return [
        await client.ask(type="join", room="lobby", since=since),
        await client.ask(type="publish", room="lobby", data=1),
        await client.ask(type="presence", room="lobby"),
    ]


@pytest.mark.hostile(71)
@pytest.mark.parametrize("forge", FORGERIES)
async def test_false_keys_of_rooms_count_as_lost(
    valkey: Valkey, redis: Redis, forge: Forge
) -> None:
    settings = settings_for(valkey, presence_lease_s=1, redis_timeout_s=0.5)
    with structlog.testing.capture_logs() as lines:
        async with run_service(settings) as live:
            backplane: Any = live.service.backplane
            backplane.client.timeout_s = 5.0  # a pause of the machine refuses no client
            await wait_until(lambda: backplane.healthy)
            client = await live.connect("alice")
            backplane.client.timeout_s = settings.redis_timeout_s  # some answers never come

            async def works() -> bool:
                return all(each["type"] == "ok" for each in await answers(client))

            async def is_present_once() -> bool:
                answer = await client.ask(type="presence", room="lobby")
                alone = [{"user": client.user, "connections": 1, "info": None}]
                return answer.get("members") == alone

            await wait_until_async(works)
            for junk in JUNK:
                keys: Any = await redis.keys("ws:{room:lobby}*")
                for key in keys:
                    with suppress(ResponseError):  # the service has changed the type meanwhile
                        await forge(redis, key, junk)
                    for answer in await answers(client):
                        assert answer["type"] == "ok" or answer["code"] == "unavailable"
                await wait_until_async(works)
            await wait_until_async(is_present_once)  # a forged node is dead only after a lease
    events = [line["event"] for line in lines]
    assert not {"handler failed", "background job failed", "redis listener failed"} & set(events)


@pytest.mark.hostile(71)
@pytest.mark.parametrize("forge", FORGERIES)
async def test_false_keys_of_requests_are_not_believed(
    valkey: Valkey, redis: Redis, forge: Forge
) -> None:
    async with run_service(settings_for(valkey)) as live:
        await wait_until(lambda: live.service.backplane.healthy)
        for junk in JUNK:
            key = secrets.token_urlsafe()
            await forge(redis, f"ws:idempotency:{key}".encode(), junk)
            assert await publish(live, 1, key) in {202, 422}
            assert await publish(live, 1, secrets.token_urlsafe()) == 202


@pytest.mark.hostile(71)
async def test_false_messages_are_dropped(valkey: Valkey, redis: Redis) -> None:
    chance = random.Random(1)
    async with run_service(settings_for(valkey)) as live:
        await wait_until(lambda: live.service.backplane.healthy)
        client = await live.connect("alice")
        assert (await client.ask(type="join", room="lobby"))["type"] == "ok"
        with structlog.testing.capture_logs() as lines:
            for channel in await redis.pubsub_channels():
                for junk in (*JUNK, *FORGED, *(chance.randbytes(50) for _ in range(50))):
                    await redis.publish(channel, junk)
            assert (await client.ask(type="broadcast", data=1, echo=True))["type"] == "ok"
            assert (await client.receive("message"))["data"] == 1
        assert [line["event"] for line in lines] == ["malformed envelope dropped"]
