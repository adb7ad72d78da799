"""A listener gives other tasks their turn, and knows what Redis has confirmed."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from app.realtime.backplane import Envelope, Subscription, user_channel
from app.realtime.connections.delivery import MAX_FRAMES_PER_TURN, MESSAGES_IN_A_ROW
from app.realtime.redis.backplane import RedisBackplane
from app.realtime.redis.envelopes import encode

from ..backplane_contract import numbered
from ..live import wait_until
from ..recipients import Note, enqueue_all
from .test_node import CHANNEL, run_node
from .valkey import Valkey


@pytest.fixture
async def node(valkey: Valkey) -> AsyncIterator[RedisBackplane]:
    """Run a node."""
    async with run_node(valkey) as (node, _):
        yield node


async def publish_at_once(redis: Redis, node: RedisBackplane, count: int) -> None:
    """Publish messages in one pipeline, so that Redis sends them together."""
    async with redis.pipeline() as pipeline:
        for number in range(count):
            pipeline.publish(node.client.name(CHANNEL), encode(numbered(number)))
        await pipeline.execute()


async def test_others_have_a_turn_after_a_burst(node: RedisBackplane, redis: Redis) -> None:
    turns: list[int] = []
    in_a_row: list[int] = []

    def deliver(envelope: Envelope) -> None:
        in_a_row.append(len(turns))
        asyncio.get_running_loop().call_soon(turns.append, 1)

    await node.confirm(node.subscribe(Subscription(CHANNEL, deliver)))
    await publish_at_once(redis, node, 10 * MESSAGES_IN_A_ROW)
    await wait_until(lambda: len(in_a_row) == 10 * MESSAGES_IN_A_ROW)
    assert max(map(in_a_row.count, in_a_row)) == MESSAGES_IN_A_ROW


@pytest.mark.parametrize("is_own", [True, False])
async def test_it_waits_for_many_frames_of_its_own_messages_alone(
    node: RedisBackplane, redis: Redis, *, is_own: bool
) -> None:
    delivery, flushed, seen = node._delivery, list[str](), list[int]()

    def enqueue_many() -> None:
        enqueue_all(delivery, [Note("frame", flushed) for _ in range(MAX_FRAMES_PER_TURN)])

    def deliver(envelope: Envelope) -> None:
        seen.append(len(flushed))
        if envelope.data == 0 and is_own:
            enqueue_many()
        elif envelope.data == 0:
            asyncio.get_running_loop().call_soon(enqueue_many)

    await node.confirm(node.subscribe(Subscription(CHANNEL, deliver)))
    await publish_at_once(redis, node, MESSAGES_IN_A_ROW + 2)
    await wait_until(lambda: len(seen) == MESSAGES_IN_A_ROW + 2)
    await wait_until(lambda: len(flushed) == MAX_FRAMES_PER_TURN)
    assert (seen[-1] == MAX_FRAMES_PER_TURN) == is_own


async def test_a_node_is_ready_again_though_users_leave_while_it_subscribes(
    node: RedisBackplane, redis: Redis
) -> None:
    with capture_logs() as lines:
        for _ in range(3):
            users = [
                node.subscribe(Subscription(user_channel(f"user-{number}"), lambda envelope: None))
                for number in range(300)
            ]
            for each in users:
                await node.confirm(each)
            await redis.client_kill_filter(_type="pubsub")
            await wait_until(lambda: not node.healthy)
            await wait_until(lambda: bool(node._listeners))
            for each in users:
                node.unsubscribe(each)
                await asyncio.sleep(0)
            await wait_until(lambda: node.healthy)
    assert {line["event"] for line in lines} == {"redis lost", "redis connected"}


async def test_an_answer_to_an_earlier_subscription_confirms_no_later_one(
    node: RedisBackplane, redis: Redis
) -> None:
    earlier = node.subscribe(Subscription(CHANNEL, lambda envelope: None))
    await node.confirm(earlier)
    (listener,) = node._listeners
    node.unsubscribe(earlier)
    later = node.subscribe(Subscription(CHANNEL, lambda envelope: None))
    name = node.client.name(CHANNEL).encode()
    listener._unconfirmed[name.decode()] = 1
    listener._take({"type": "subscribe", "channel": name})
    assert not later.is_confirmed
    await node.confirm(later)
