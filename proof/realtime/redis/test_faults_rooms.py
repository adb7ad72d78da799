"""Rooms during faults between service and Redis: members miss nothing, or are told of a gap."""

from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest
from redis.asyncio import Redis

from app.realtime.backplane import Channel
from app.realtime.redis.backplane import RedisBackplane

from ..client import Client, Frame
from ..live import Live, wait_until, wait_until_async
from .proxy import Proxy, proxy
from .test_backplane import two_nodes
from .test_faults import OUTAGES, Outage, is_worth_a_retry, received_until
from .test_node import AT_REST, short_timeout
from .valkey import Valkey

__all__ = ["proxy"]

ROOM = "lobby"
LENGTH = 120
"""The length of a message that is cut off."""


def quiet_nodes(
    valkey: Valkey, proxy: Proxy | None = None, **overrides: object
) -> AbstractAsyncContextManager[tuple[Live, Live]]:
    """Run two nodes that send no presence events, and renew no lease during a test."""
    quiet: dict[str, object] = {"max_members_for_presence_events": 1, "presence_lease_s": 3600}
    return two_nodes(valkey, proxy, **quiet, **overrides)


async def join(client: Client, since: Frame | None = None) -> Frame:
    """Join the room, and return the answer with its position."""
    more = {"since": {name: since[name] for name in ("epoch", "offset")}} if since else {}
    answer = await client.ask(type="join", room=ROOM, **more)
    assert answer["type"] == "ok"
    # From here on, presence is in Redis: its next answer is to another command.
    await wait_until_async(partial(is_listed, client))
    return answer


async def is_listed(client: Client) -> bool:
    return bool((await client.ask(type="presence", room=ROOM))["type"] == "ok")


async def publish(client: Client, data: object, **fields: object) -> Frame:
    """Publish to the room with echo."""
    return await client.ask(type="publish", room=ROOM, data=data, echo=True, **fields)


async def recovered(client: Client, since: Frame) -> list[object]:
    """Rejoin, which must recover without a gap; return the data of the missed messages."""
    answer = await join(client, since)
    assert answer["recovered"] is True
    messages = [await client.receive("message") for _ in range(answer["replayed"])]
    first = since["offset"] + 1
    assert [message["offset"] for message in messages] == list(range(first, first + len(messages)))
    return [message["data"] for message in messages]


@pytest.mark.parametrize("size", [1, 20, LENGTH])
async def test_an_incomplete_message_to_a_subscriber_is_read_again(
    valkey: Valkey, proxy: Proxy, size: int
) -> None:
    async with quiet_nodes(valkey, proxy, **AT_REST) as (first, second):
        here, there = await first.connect("alice"), await second.connect("bob")
        start = await join(here)
        await join(there)
        torn = "x" * LENGTH
        proxy.cut_after(size, subscriber=True)
        assert (await publish(there, torn))["offset"] == 1
        assert await here.receive("resync") == {"type": "resync", "room": None}
        assert await recovered(here, start) == []
        assert await received_until(here, torn) == [torn]
        assert (await publish(there, "after"))["offset"] == 2
        assert await received_until(here, "after") == ["after"]
        assert await here.is_quiet()
        assert await recovered(await first.connect("alice"), start) == [torn, "after"]


@pytest.mark.hostile(73)
@pytest.mark.parametrize("size", [1, 4])
async def test_an_incomplete_answer_to_the_publisher_duplicates_nothing(
    valkey: Valkey, proxy: Proxy, size: int
) -> None:
    async with quiet_nodes(valkey, proxy, **AT_REST) as (first, second):
        here, there = await first.connect("alice"), await second.connect("bob")
        start = await join(here)
        await join(there)
        proxy.cut_after(size, subscriber=False)
        assert is_worth_a_retry(await publish(here, 1))
        assert (await publish(here, 2))["offset"] == 2
        for client in (here, there):
            assert await received_until(client, 2) == [1, 2]
            assert await client.is_quiet()
        assert await recovered(await first.connect("alice"), start) == [1, 2]


@pytest.mark.parametrize("keep", [True, False])
async def test_a_repetition_after_a_lost_answer_duplicates_nothing(
    valkey: Valkey, proxy: Proxy, keep: bool
) -> None:
    async with quiet_nodes(valkey, proxy) as (first, second):
        here, there = await first.connect("alice"), await second.connect("alice")
        await join(here)
        await join(there)
        proxy.tear_answer_to(b":published:")
        assert is_worth_a_retry(await publish(here, 1, key="one", keep=keep))
        for client in (here, there):
            answer = await publish(client, 1, key="one", keep=keep)
            assert answer["offset"] == (1 if keep else None)
        assert (await publish(here, 2, key="two"))["type"] == "ok"
        for client in (here, there):
            assert await received_until(client, 2) == [1, 2]
            assert await client.is_quiet()


@pytest.mark.parametrize("size", [1, LENGTH])
async def test_an_incomplete_answer_is_not_taken_for_the_whole_history(
    valkey: Valkey, proxy: Proxy, size: int
) -> None:
    async with quiet_nodes(valkey, proxy, **AT_REST) as (first, second):
        there = await second.connect("bob")
        start = await join(there)
        for number in range(3):
            await publish(there, number)
        here = await first.connect("alice")
        await join(here)
        back = await first.connect("alice")
        proxy.cut_after(size, subscriber=False)
        assert await recovered(back, start) == [0, 1, 2]  # it was read again


@pytest.mark.parametrize("echo", [False, True])
async def test_an_ok_that_overtakes_an_older_message_does_not_cost_it(
    valkey: Valkey, proxy: Proxy, echo: bool
) -> None:
    """The subscription is held, so the publisher hears of its own message first, and goes."""
    async with quiet_nodes(valkey, proxy, redis_ping_interval_s=3600) as (first, second):
        here, there = await first.connect("alice"), await second.connect("bob")
        start = await join(here)
        await join(there)
        async with proxy.held(subscriber=True):
            assert (await publish(there, "older"))["offset"] == 1
            ok = await here.ask(type="publish", room=ROOM, data="own", echo=echo)
            assert ok["offset"] == 2
            assert await here.is_quiet()
            await here.close()
        assert await recovered(await second.connect("alice"), start) == ["older", "own"]


@OUTAGES
async def test_messages_during_an_outage_of_the_connection_arrive_late_and_in_order(
    valkey: Valkey, proxy: Proxy, outage: Outage
) -> None:
    async with quiet_nodes(valkey, proxy) as (first, second):
        here, there = await first.connect("alice"), await second.connect("bob")
        start = await join(here)
        await join(there)
        async with outage(proxy), short_timeout(first.service.backplane):
            assert is_worth_a_retry(await publish(here, "refused"))
            for number in range(5):
                assert (await publish(there, number))["type"] == "ok"
            await wait_until(lambda: not first.service.backplane.healthy)
        assert await here.receive("resync") == {"type": "resync", "room": None}
        assert (await publish(there, "after"))["type"] == "ok"
        heard = await received_until(here, "after")
        # What waited on the way may still have gone out, but once and for everybody.
        assert [data for data in heard if data != "refused"] == [*range(5), "after"]
        assert heard.count("refused") <= 1
        assert await received_until(there, "after") == heard
        assert await recovered(here, start) == []
        for client in (here, there):
            assert await client.is_quiet()
        assert await recovered(await first.connect("alice"), start) == heard


async def test_a_slow_connection_to_redis_only_adds_delay(valkey: Valkey, proxy: Proxy) -> None:
    proxy.delay(0.02)
    async with quiet_nodes(valkey, proxy) as (first, second):
        clients = [await first.connect("alice"), await second.connect("bob")]
        for client in clients:
            await join(client)
        for number in range(30):
            for client in clients:
                await client.send(type="publish", room=ROOM, data=number, echo=True, id="publish")
        heard = []
        for client in clients:
            answers = [await client.receive("ok", "error") for _ in range(30)]
            assert [answer["type"] for answer in answers] == ["ok"] * 30
            messages = [await client.receive("message") for _ in range(60)]
            assert [message["offset"] for message in messages] == list(range(1, 61))
            for each in clients:
                said = [message["data"] for message in messages if message["from"] == each.user]
                assert said == list(range(30))
            heard.append(messages)
            assert await client.is_quiet()
        assert heard[0] == heard[1]


async def test_a_killed_publishing_connection_duplicates_nothing(valkey: Valkey) -> None:
    async with (
        quiet_nodes(valkey, redis_probe_interval_s=60) as (first, second),
        Redis.from_url(valkey.url) as redis,
    ):
        here, there = await first.connect("alice"), await second.connect("bob")
        await join(here)
        start = await join(there)

        async def is_published() -> bool:
            return bool((await publish(here, "last"))["type"] == "ok")

        for number in range(5):
            answer = await publish(here, number)
            assert answer["type"] == "ok" or is_worth_a_retry(answer)
            await redis.client_kill_filter(_type="normal")
        await wait_until_async(is_published)
        *heard, _ = await received_until(there, "last")
        assert heard == [number for number in range(5) if number in heard]
        *kept, _ = await recovered(await second.connect("bob"), start)
        assert kept == heard


async def test_an_eviction_before_the_subscription_is_to_be_repeated(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy has agreed to the join; nothing tells the node of what was published before."""
    async with quiet_nodes(valkey) as (first, second):
        here = await first.connect("alice")
        held: list[Channel] = []
        eviction = {"user": here.user, "reason": "spam"}
        with monkeypatch.context() as patch:
            patch.setattr(first.service.backplane, "_adjust_later", held.append)
            await here.send(type="join", room=ROOM, id="1")
            await wait_until(lambda: len(held) == 1)
            assert (await second.post(f"/rooms/{ROOM}/evict", eviction)).status_code == 202
        assert isinstance(first.service.backplane, RedisBackplane)
        first.service.backplane._adjust_later(held[0])
        assert (await here.receive("ok"))["id"] == "1"
        assert (await second.post(f"/rooms/{ROOM}/evict", eviction)).status_code == 202
        assert (await here.receive())["type"] == "evicted"
