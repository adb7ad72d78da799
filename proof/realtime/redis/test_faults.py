"""Faults between service and Redis: incomplete answers, silence, broken connections, delays."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest
from redis.asyncio import Redis

from ..client import Client, Frame
from ..live import Live, wait_until, wait_until_async
from .proxy import Proxy, proxy
from .test_backplane import two_nodes
from .test_node import AT_REST, short_timeout
from .valkey import Valkey

__all__ = ["proxy"]

Outage = Callable[[Proxy], AbstractAsyncContextManager[None]]

OUTAGES = pytest.mark.parametrize("outage", [Proxy.frozen, Proxy.down], ids=["silent", "refused"])


async def broadcast(client: Client, data: object) -> Frame:
    """Broadcast with echo."""
    return await client.ask(type="broadcast", data=data, echo=True)


async def received_until(client: Client, last: object) -> list[object]:
    """Return the data of the next messages, up to this one."""
    received: list[object] = []
    while last not in received:
        received.append((await client.receive("message"))["data"])
    return received


def is_worth_a_retry(answer: Frame) -> bool:
    """Return whether the answer is `unavailable`, with ``retry``."""
    expected = {"type": "error", "code": "unavailable", "retry": True}
    return {name: answer.get(name) for name in expected} == expected


async def is_ready(live: Live) -> bool:
    """Return whether the service is ready."""
    return (await live.get("/readyz")).status_code == 200


async def test_a_repetition_after_a_lost_answer_is_not_sent_again(
    valkey: Valkey, proxy: Proxy
) -> None:
    async with two_nodes(valkey, proxy, redis_probe_interval_s=60) as (first, second):
        here, there = await first.connect("alice"), await second.connect("bob")
        send = partial(here.ask, type="send", to=there.user)
        proxy.tear_answer_to(b":published:")
        assert is_worth_a_retry(await send(data=1, key="one"))
        assert (await send(data=1, key="one"))["reached"] == 1
        assert (await send(data=2))["reached"] == 1
        assert await received_until(there, 2) == [1, 2]
        proxy.tear_answer_to(b":published:")
        for live, status in ((first, 503), (first, 202), (second, 202)):
            headers = {"Idempotency-Key": "one"}
            answer = await live.post("/publish", {"data": 3}, headers=headers)
            assert answer.status_code == status
        assert (await broadcast(here, 4))["type"] == "ok"
        for client in (here, there):
            assert await received_until(client, 4) == [3, 4]
            assert await client.is_quiet()


@pytest.mark.hostile(73)
@pytest.mark.parametrize("size", [1, 3])
async def test_an_answer_torn_on_its_way_to_the_publisher(
    valkey: Valkey, proxy: Proxy, size: int
) -> None:
    async with two_nodes(valkey, proxy, **AT_REST) as (first, _):
        client = await first.connect()
        assert (await broadcast(client, 0))["type"] == "ok"
        proxy.cut_after(size, subscriber=False)
        assert is_worth_a_retry(await broadcast(client, 1))
        assert (await broadcast(client, 2))["type"] == "ok"
        assert await received_until(client, 2) == [0, 1, 2]  # the one whose answer got lost, too
        assert await client.is_quiet()


@pytest.mark.hostile(73)
@pytest.mark.parametrize("size", [1, 20, 100])
async def test_an_incomplete_message_to_a_subscriber_is_reported_as_a_gap(
    valkey: Valkey, proxy: Proxy, size: int
) -> None:
    async with two_nodes(valkey, proxy, **AT_REST) as (first, second):
        here, there = await first.connect("alice"), await second.connect("bob")
        proxy.cut_after(size, subscriber=True)
        assert (await broadcast(there, "torn" * 30))["type"] == "ok"
        assert (await here.receive())["type"] == "resync"
        assert (await broadcast(there, "after"))["type"] == "ok"
        assert await received_until(here, "after") == ["after"]
        assert await here.is_quiet()


@OUTAGES
@pytest.mark.hostile(68)
async def test_an_outage_of_the_connection_to_redis_is_noticed_and_survived(
    valkey: Valkey, proxy: Proxy, outage: Outage
) -> None:
    async with two_nodes(valkey, proxy) as (first, second):
        here, there = await first.connect("alice"), await second.connect("bob")
        async with outage(proxy), short_timeout(first.service.backplane):
            assert is_worth_a_retry(await broadcast(here, "refused"))
            await wait_until(lambda: not first.service.backplane.healthy)
            assert (await first.get("/readyz")).json() == {"status": "backplane lost"}
            assert await is_ready(second)
            assert (await broadcast(there, "missed"))["type"] == "ok"
        assert (await here.receive())["type"] == "resync"
        assert await is_ready(first)
        assert (await broadcast(here, "after"))["type"] == "ok"
        assert "missed" not in await received_until(here, "after")
        # What waited on the way may still have gone out.
        heard = await received_until(there, "after")
        assert heard in (["missed", "after"], ["missed", "refused", "after"])
        for client in (here, there):
            assert await client.is_quiet()


async def test_a_slow_connection_to_redis_only_adds_delay(valkey: Valkey, proxy: Proxy) -> None:
    proxy.delay(0.02)
    async with two_nodes(valkey, proxy) as (first, second):
        here, there = await first.connect("alice"), await second.connect("bob")
        for number in range(50):
            await here.send(type="broadcast", data=number, echo=True, id=str(number))
        answers = [await here.receive("ok", "error") for _ in range(50)]
        assert [answer["type"] for answer in answers] == ["ok"] * 50
        for client in (here, there):
            assert await received_until(client, 49) == list(range(50))
            assert await client.is_quiet()
        assert await is_ready(first)


async def test_a_killed_publishing_connection_is_replaced(valkey: Valkey) -> None:
    async with (
        two_nodes(valkey, redis_probe_interval_s=60) as (first, second),
        Redis.from_url(valkey.url) as redis,
    ):
        here, there = await first.connect("alice"), await second.connect("bob")

        async def is_published() -> bool:
            return bool((await broadcast(here, "last"))["type"] == "ok")

        for number in range(5):
            answer = await broadcast(here, number)
            assert answer["type"] == "ok" or is_worth_a_retry(answer)
            await redis.client_kill_filter(_type="normal")
        await wait_until_async(is_published)
        *heard, _ = await received_until(there, "last")
        assert heard == [number for number in range(5) if number in heard]
