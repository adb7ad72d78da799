"""Backplanes on a real Valkey: their contract, and what happens when it goes away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from app.realtime.backplane import ALL, Backplane, Channel, Envelope, Subscription, user_channel
from app.realtime.connections.delivery import Delivery
from app.realtime.errors import Misconfigured, Unavailable
from app.realtime.metrics import Metrics
from app.realtime.protocol import TRY_AGAIN_LATER
from app.realtime.redis.backplane import RedisBackplane
from app.realtime.redis.publisher import BATCH_BYTES
from app.realtime.redis.topologies import make_client

from ..backplane_contract import BackplaneContract, Inbox, numbered
from ..client import DEADLINE_S
from ..live import run_service, wait_until, wait_until_async
from .test_backplane import settings_for
from .valkey import Valkey

CHANNEL = user_channel("a")

AT_REST = {"redis_probe_interval_s": 60, "redis_ping_interval_s": 60}
"""Settings of a node that, once it is healthy, neither probes Redis nor pings it."""


def make_node(server: Valkey | str, **overrides: object) -> RedisBackplane:
    """Return a backplane with these settings."""
    settings = settings_for(server, **overrides)
    client = make_client(settings)
    assert client is not None
    return RedisBackplane(client, settings, Metrics("1.0"), Delivery())


@contextlib.asynccontextmanager
async def run_node(
    server: Valkey | str, **overrides: object
) -> AsyncIterator[tuple[RedisBackplane, list[str]]]:
    """Run a backplane; also yield a list that grows by one for each reported gap."""
    gaps: list[str] = []
    node = make_node(server, **overrides)
    node.after_gap(lambda: gaps.append("gap"))
    node.subscribe(Subscription(ALL, lambda envelope: None))
    running = asyncio.create_task(node.run())
    try:
        await wait_until(lambda: node.healthy)
        yield node, gaps
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def failure(server: Valkey | str, **overrides: object) -> Misconfigured:
    """Run a backplane until its settings turn out not to work; return how it fails."""
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.create_task(make_node(server, **overrides).run())
    found: BaseException = caught.value
    while isinstance(found, BaseExceptionGroup):
        (found,) = found.exceptions
    assert isinstance(found, Misconfigured)
    return found


@contextlib.asynccontextmanager
async def short_timeout(backplane: Backplane) -> AsyncIterator[None]:
    """Shorten a node's timeout in this context only: elsewhere, the machine may pause."""
    assert isinstance(backplane, RedisBackplane)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backplane.client, "timeout_s", 1.0)
        yield


class RedisBackplaneContract(BackplaneContract):
    """The contract of nodes that share a Redis, in every topology."""

    async def test_a_message_with_the_id_of_an_earlier_one_is_not_sent_again(
        self, backplane: Backplane, other: Backplane
    ) -> None:
        assert await other.publish(CHANNEL, numbered(0), "id-0") == 0
        inbox = Inbox()
        await backplane.confirm(backplane.subscribe(Subscription(CHANNEL, inbox.deliver)))
        assert await backplane.publish(CHANNEL, numbered(0), "id-0") == 0
        for node in (backplane, other):
            assert await node.publish(CHANNEL, numbered(1), "id-1") == 1
        assert await other.publish(CHANNEL, numbered(2), "id-2") == 1
        assert [await inbox.next() for _ in range(2)] == [numbered(1), numbered(2)]
        assert inbox.is_empty()


class TestRedisBackplane(RedisBackplaneContract):
    """Two nodes that know each other through Redis alone."""

    @pytest.fixture
    async def backplane(self, shared_valkey: Valkey) -> AsyncIterator[Backplane]:
        """Run one node."""
        async with run_node(shared_valkey) as (node, _):
            yield node

    @pytest.fixture
    async def other(self, shared_valkey: Valkey) -> AsyncIterator[Backplane]:
        """Run another."""
        async with run_node(shared_valkey) as (node, _):
            yield node


async def test_a_node_subscribes_only_to_what_it_hosts(shared_valkey: Valkey) -> None:
    async with run_node(shared_valkey) as (node, _), Redis.from_url(shared_valkey.url) as redis:
        subscription = node.subscribe(Subscription(CHANNEL, Inbox().deliver))
        await node.confirm(subscription)
        assert set(await redis.pubsub_channels()) == {b"ws:0:{all}", b"ws:0:{user:a}"}
        node.unsubscribe(subscription)
        marker = node.subscribe(Subscription(user_channel("marker"), Inbox().deliver))
        await node.confirm(marker)

        async def is_left() -> bool:
            return set(await redis.pubsub_channels()) == {b"ws:0:{all}", b"ws:0:{user:marker}"}

        await wait_until_async(is_left)


async def test_subscriptions_and_their_ends_may_come_in_any_number_at_once(
    shared_valkey: Valkey,
) -> None:
    async with run_node(shared_valkey) as (node, _):
        inboxes = {user_channel(str(number)): Inbox() for number in range(300)}
        for channel, inbox in inboxes.items():
            node.unsubscribe(node.subscribe(Subscription(channel, inbox.deliver)))
        subscriptions = [
            node.subscribe(Subscription(channel, inbox.deliver))
            for channel, inbox in inboxes.items()
        ]
        await asyncio.gather(*(node.confirm(subscription) for subscription in subscriptions))
        for number, channel in enumerate(inboxes):
            await node.publish(channel, numbered(number))
        for number, inbox in enumerate(inboxes.values()):
            assert await inbox.next() == numbered(number)


async def test_a_subscription_that_ends_is_confirmed_to_nobody(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_node(shared_valkey) as (node, _):
        monkeypatch.setattr(node, "_adjust_later", lambda channel: None)
        subscription = node.subscribe(Subscription(CHANNEL, Inbox().deliver))
        confirming = asyncio.create_task(node.confirm(subscription))
        await wait_until(lambda: CHANNEL in node._awaited)
        node.unsubscribe(subscription)
        with pytest.raises(Unavailable):
            await confirming
        with pytest.raises(Unavailable):
            await node.confirm(subscription)
        assert node._awaited == {}


@pytest.mark.hostile(71)
@pytest.mark.parametrize(
    "payload",
    [b"", b"\x80\x04\x95", b"[]", b"{}", b'{"sender": 7, "data": 1}', b'{"data": 1}', b"\xff{}"],
)
async def test_an_invalid_envelope_is_dropped(shared_valkey: Valkey, payload: bytes) -> None:
    inbox = Inbox()
    async with run_node(shared_valkey) as (node, _), Redis.from_url(shared_valkey.url) as redis:
        await node.confirm(node.subscribe(Subscription(CHANNEL, inbox.deliver)))
        await redis.publish("ws:0:{user:a}", payload)
        await node.publish(CHANNEL, numbered(1))
        assert await inbox.next() == numbered(1)
        assert node.healthy


async def test_a_welcome_waits_for_the_subscription(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_service(settings_for(shared_valkey)) as live:
        backplane = live.service.backplane
        await wait_until(lambda: backplane.healthy)
        monkeypatch.setattr(backplane, "_adjust_later", lambda channel: None)
        async with short_timeout(backplane):
            client = await live.connect_with(await live.options(), welcomed=False)
            assert await client.closed() == TRY_AGAIN_LATER


async def test_a_welcome_waits_for_the_channel_of_all(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cluster, it may belong to another server than the channel of the user."""
    adjust_later = RedisBackplane._adjust_later

    def adjust_users_later(backplane: RedisBackplane, channel: Channel) -> None:
        if channel != ALL:
            adjust_later(backplane, channel)

    monkeypatch.setattr(RedisBackplane, "_adjust_later", adjust_users_later)
    async with run_service(settings_for(shared_valkey, redis_timeout_s=0.5)) as live:
        client = await live.connect_with(await live.options(), welcomed=False)
        assert await client.closed() == TRY_AGAIN_LATER


async def test_messages_beyond_what_may_wait_for_redis_fail(shared_valkey: Valkey) -> None:
    async with run_node(shared_valkey) as (node, _):
        node.publisher._max_waiting_bytes = 1_000
        with capture_logs() as lines:
            sent = [node.publish(CHANNEL, numbered(number)) for number in range(100)]
        assert [line["event"] for line in lines] == ["publishing failed"]
        answers = await asyncio.gather(*sent, return_exceptions=True)
        failed = [isinstance(answer, Unavailable) for answer in answers]
        assert failed == sorted(failed)
        assert 0 < sum(failed) < len(failed)
        node.publisher._max_waiting_bytes = 1
        await node.publish(CHANNEL, numbered(100))


@pytest.mark.hostile(67)
async def test_a_restart_is_survived_and_reported_as_a_gap(valkey: Valkey) -> None:
    inbox = Inbox()
    async with run_node(valkey) as (node, gaps):
        subscription = node.subscribe(Subscription(CHANNEL, inbox.deliver))
        await node.confirm(subscription)
        valkey.kill()
        await wait_until(lambda: not node.healthy)
        async with short_timeout(node):
            with pytest.raises(Unavailable):
                await node.confirm(subscription)
            with pytest.raises(Unavailable):
                await node.publish(CHANNEL, numbered(1))
            with pytest.raises(Unavailable):
                await node.confirm(node.subscribe(Subscription(user_channel("b"), inbox.deliver)))
        assert gaps == []
        await valkey.start()
        await wait_until(lambda: node.healthy)
        assert gaps == ["gap"]
        await node.publish(CHANNEL, numbered(2))
        assert await inbox.next() == numbered(2)
        late = Subscription(user_channel("c"), inbox.deliver, on_gap=lambda: gaps.append("late"))
        await node.confirm(node.subscribe(late))
        assert gaps == ["gap"]
        # A task that seems to be cancelled has its timeouts misbehave on older Pythons.
        assert not any(task.cancelling() for task in asyncio.all_tasks())


@pytest.mark.hostile(68)
async def test_a_frozen_server_is_noticed_and_publishing_fails_soon(valkey: Valkey) -> None:
    async with run_node(valkey) as (node, gaps):
        inbox = Inbox()
        valkey.freeze()
        async with short_timeout(node):
            large = Envelope(sender=None, data="x" * BATCH_BYTES)
            sent = [node.publish(CHANNEL, each) for each in (numbered(1), *[large] * 30)]
            async with asyncio.timeout(DEADLINE_S):  # one batch after the other would take longer
                answers = await asyncio.gather(*sent, return_exceptions=True)
            assert all(isinstance(answer, Unavailable) for answer in answers)
            subscription = node.subscribe(Subscription(CHANNEL, inbox.deliver))
            await wait_until(lambda: not node.healthy)
        valkey.thaw()
        await wait_until(lambda: node.healthy)
        assert gaps == ["gap"]
        await node.confirm(subscription)
        await node.publish(CHANNEL, numbered(2))
        assert await inbox.next() == numbered(2)


async def test_a_message_that_cannot_be_sent_harms_no_other(shared_valkey: Valkey) -> None:
    inbox = Inbox()
    async with run_node(shared_valkey) as (node, gaps):
        await node.confirm(node.subscribe(Subscription(CHANNEL, inbox.deliver)))
        with pytest.raises(Unavailable):
            await node.publish(Channel("user:\ud800"), numbered(1))
        await node.publish(CHANNEL, numbered(2))
        assert await inbox.next() == numbered(2)
        assert gaps == []


@pytest.mark.hostile(69, 70)
async def test_a_killed_subscriber_connection_is_reported_as_a_gap(valkey: Valkey) -> None:
    async with run_node(valkey) as (node, gaps), Redis.from_url(valkey.url) as redis:
        await redis.client_kill_filter(_type="pubsub")
        await wait_until(lambda: bool(gaps))
        await wait_until(lambda: node.healthy)


async def test_a_server_that_refuses_the_service_later_is_asked_again(valkey: Valkey) -> None:
    async with run_node(valkey) as (node, gaps), Redis.from_url(valkey.url) as redis:
        await redis.config_set("requirepass", "secret")
        await redis.client_kill_filter(_type="pubsub")
        await wait_until(lambda: not node.healthy)
        await redis.config_set("requirepass", "")
        await wait_until(lambda: node.healthy)
        assert gaps == ["gap"]
