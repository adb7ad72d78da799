"""Two nodes on a real Valkey: delivery across them, and what happens when it goes away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest
import structlog
from redis.asyncio import Redis

from app.realtime import RealtimeSettings
from app.realtime.backplane import ALL, Backplane, Channel, Subscription, user_channel
from app.realtime.connections.delivery import Delivery
from app.realtime.connections.manager import DirectEnvelope
from app.realtime.errors import Unavailable
from app.realtime.metrics import Metrics
from app.realtime.protocol import REVOKED, TRY_AGAIN_LATER
from app.realtime.redis.backplane import RedisBackplane
from app.realtime.redis.publisher import BATCH_BYTES
from app.realtime.redis.topologies import make_client
from dev import fresh_secrets

from ..backplane_contract import BackplaneContract, Inbox, numbered
from ..client import DEADLINE_S, STOP_S
from ..connections.test_manager import Notice
from ..live import BACKEND, Live, make_settings, run_service, wait_until, wait_until_async
from ..server.test_process import next_line, run_process
from ..settings.test_settings import complaint
from .valkey import Valkey

CHANNEL = user_channel("a")


class Reachable(Protocol):
    """A server, or a way to one."""

    @property
    def url(self) -> str:
        """Where it listens."""
        ...


def settings_for(server: Reachable | str, **overrides: object) -> RealtimeSettings:
    """Return settings under which failures are noticed soon, but a server may be slow."""
    url = server if isinstance(server, str) else server.url
    values = {
        "redis_prefix": "ws:",
        "redis_timeout_s": 5.0,
        "redis_ping_interval_s": 0.2,
        "redis_probe_interval_s": 0.2,
        "redis_retry_max_s": 0.2,
    }
    return make_settings(redis_url=url, **(values | overrides))


@contextlib.asynccontextmanager
async def run_node(
    server: Valkey | str, **overrides: object
) -> AsyncIterator[tuple[RedisBackplane, list[str]]]:
    """Run a backplane; also yield a list that grows by one for each gap it tells of."""
    settings = settings_for(server, **overrides)
    client = make_client(settings)
    assert client is not None
    gaps: list[str] = []
    node = RedisBackplane(client, settings, Metrics(), Delivery())
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


class RedisBackplaneContract(BackplaneContract):
    """What holds for nodes that share a Redis, whatever its topology."""

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
async def test_what_is_no_envelope_is_dropped(shared_valkey: Valkey, payload: bytes) -> None:
    inbox = Inbox()
    async with run_node(shared_valkey) as (node, _), Redis.from_url(shared_valkey.url) as redis:
        await node.confirm(node.subscribe(Subscription(CHANNEL, inbox.deliver)))
        await redis.publish("ws:0:{user:a}", payload)
        await node.publish(CHANNEL, numbered(1))
        assert await inbox.next() == numbered(1)
        assert node.healthy


async def test_what_happens_to_redis_is_counted(valkey: Valkey) -> None:
    async with run_service(settings_for(valkey)) as live, Redis.from_url(valkey.url) as redis:
        metrics = live.service.metrics
        await wait_until(lambda: "ws_redis_up 1.0" in metrics.text().decode())
        with structlog.testing.capture_logs() as lines:
            for _ in range(3):
                await redis.publish("ws:0:{all}", "nonsense")
            await wait_until(lambda: "ws_redis_malformed_total 3.0" in metrics.text().decode())
        assert [line["event"] for line in lines].count("malformed envelope dropped") == 1
        client = await live.connect()
        valkey.kill()
        await client.ask(type="broadcast", data=1)
        await wait_until(lambda: "ws_redis_up 0.0" in metrics.text().decode())
        assert "ws_redis_publish_failures_total 1.0" in metrics.text().decode()
        assert "ws_redis_reconnections_total 0.0" in metrics.text().decode()
        await valkey.start()
        await wait_until(lambda: "ws_redis_gaps_total 1.0" in metrics.text().decode())
        assert "ws_redis_reconnections_total 1.0" in metrics.text().decode()
        assert "ws_redis_up 1.0" in metrics.text().decode()


async def test_a_welcome_waits_for_the_subscription(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_service(settings_for(shared_valkey, redis_timeout_s=0.5)) as live:
        await wait_until(lambda: live.service.backplane.healthy)
        monkeypatch.setattr(live.service.backplane, "_adjust_later", lambda channel: None)
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
    async with run_node(shared_valkey, redis_max_waiting_bytes=1_000) as (node, _):
        sent = [node.publish(CHANNEL, numbered(number)) for number in range(100)]
        answers = await asyncio.gather(*sent, return_exceptions=True)
        failed = [isinstance(answer, Unavailable) for answer in answers]
        assert failed == sorted(failed)
        assert 0 < sum(failed) < len(failed)
        await node.publish(CHANNEL, numbered(100))


@pytest.mark.hostile(67)
async def test_a_restart_is_survived_and_told_as_a_gap(valkey: Valkey) -> None:
    inbox = Inbox()
    async with run_node(valkey, redis_timeout_s=1.0) as (node, gaps):
        subscription = node.subscribe(Subscription(CHANNEL, inbox.deliver))
        await node.confirm(subscription)
        valkey.kill()
        await wait_until(lambda: not node.healthy)
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
    async with run_node(valkey, redis_timeout_s=1.0) as (node, gaps):
        valkey.freeze()
        large = DirectEnvelope(sender=None, data="x" * BATCH_BYTES)
        sent = [node.publish(CHANNEL, each) for each in (numbered(1), *[large] * 30)]
        async with asyncio.timeout(DEADLINE_S):  # one batch after the other would take longer
            answers = await asyncio.gather(*sent, return_exceptions=True)
        assert all(isinstance(answer, Unavailable) for answer in answers)
        inbox = Inbox()
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
            await node.publish(user_channel("\ud800"), numbered(1))
        await node.publish(CHANNEL, numbered(2))
        assert await inbox.next() == numbered(2)
        assert gaps == []


@pytest.mark.hostile(69, 70)
async def test_a_killed_subscriber_connection_is_told_as_a_gap(valkey: Valkey) -> None:
    async with run_node(valkey) as (node, gaps), Redis.from_url(valkey.url) as redis:
        await redis.client_kill_filter(_type="pubsub")
        await wait_until(lambda: bool(gaps))
        await wait_until(lambda: node.healthy)


@pytest.mark.hostile(65)
async def test_the_service_starts_without_the_server_and_waits_for_it(valkey: Valkey) -> None:
    valkey.kill()
    async with run_service(settings_for(valkey)) as live:
        assert (await live.get("/readyz")).json() == {"status": "backplane lost"}
        assert (await live.post("/publish", {"data": 1})).status_code == 503
        await valkey.start()
        await wait_until(lambda: live.service.backplane.healthy)
        assert (await live.get("/readyz")).status_code == 200
        assert live.counts()["ws_redis_reconnections_total"] == 0


@pytest.mark.hostile(66)
@pytest.mark.parametrize(
    ("query", "refused"),
    [
        ("password=wrong", "user or password"),
        ("password=right&db=99", "database"),
        ("", "user or password"),
    ],
)
async def test_a_server_that_refuses_the_service_ends_it(
    valkey: Valkey, tmp_path: Path, query: str, refused: str
) -> None:
    async with Redis.from_url(valkey.url) as redis:
        await redis.config_set("requirepass", "right")
    environment = fresh_secrets() | {"REDIS_URL": f"{valkey.url}?{query}", "PORT": "0"}
    async with run_process(tmp_path, **environment) as process:
        line = (await next_line(process, "the service stops")).string
        assert f"REDIS_URL: the server refuses the {refused}" in line
        assert "wrong" not in line
        async with asyncio.timeout(STOP_S):
            await process.communicate()
        assert process.returncode == 1


async def test_a_server_that_refuses_the_service_later_is_asked_again(valkey: Valkey) -> None:
    async with run_node(valkey) as (node, gaps), Redis.from_url(valkey.url) as redis:
        await redis.config_set("requirepass", "secret")
        await redis.client_kill_filter(_type="pubsub")
        await wait_until(lambda: not node.healthy)
        await redis.config_set("requirepass", "")
        await wait_until(lambda: node.healthy)
        assert gaps == ["gap"]


@pytest.mark.hostile(68)
async def test_clients_hear_of_an_outage_and_of_its_end(valkey: Valkey) -> None:
    async with run_service(settings_for(valkey)) as live:
        await wait_until(lambda: live.service.backplane.healthy)
        client = await live.connect("alice")
        valkey.kill()
        error = await client.ask(type="broadcast", data=1, echo=True)
        assert (error["code"], error["retry"]) == ("unavailable", True)
        await valkey.start()
        assert await client.receive() == {"type": "resync", "room": None}
        await client.ask(type="broadcast", data=2, echo=True)
        assert (await client.receive("message"))["data"] == 2


@contextlib.asynccontextmanager
async def two_nodes(
    valkey: Valkey, proxy: Reachable | None = None, **overrides: object
) -> AsyncIterator[tuple[Live, Live]]:
    """Run two nodes, of which the first may reach the server through a proxy only."""
    settings = settings_for(valkey, **overrides)
    spoiled = settings_for(proxy, **overrides) if proxy else settings
    async with run_service(spoiled) as first, run_service(settings) as second:
        await wait_until(lambda: first.service.backplane.healthy)
        await wait_until(lambda: second.service.backplane.healthy)
        yield first, second


@pytest.mark.hostile(72, 74)
async def test_messages_cross_nodes_both_ways_and_arrive_once(shared_valkey: Valkey) -> None:
    async with two_nodes(shared_valkey) as (first, second):
        here = await first.connect("alice")
        there = await second.connect("bob")
        for sender, receiver in ((here, there), (there, here)):
            direct = await sender.ask(type="send", to=receiver.user, data="direct")
            assert direct == {"type": "ok", "id": "ask", "reached": 1}
            assert (await receiver.receive("message"))["data"] == "direct"
            assert (await sender.ask(type="broadcast", data="all"))["type"] == "ok"
            assert (await receiver.receive("message"))["data"] == "all"
        assert (await second.post("/publish", {"data": 3})).status_code == 202
        for client in (here, there):
            assert (await client.receive("message"))["data"] == 3
            assert await client.is_quiet()


async def test_frames_of_the_team_reach_users_on_every_node(shared_valkey: Valkey) -> None:
    async with two_nodes(shared_valkey) as (first, second):
        here = await first.connect("alice")
        there = await second.connect("bob")
        manager, frame = first.service.manager, Notice(text="ü\n")
        assert await manager.send_frame(frame, here.user, there.user, "nobody") == [1, 1, 0]
        await manager.broadcast_frame(frame)
        await manager.broadcast_frame(frame, exclude=there.welcome["connection"])
        for client, count in ((here, 3), (there, 2)):
            for _ in range(count):
                assert await client.receive() == {"type": "notice", "text": "ü\n", "from": None}
            assert await client.is_quiet()


async def test_every_node_knows_where_a_user_is(shared_valkey: Valkey) -> None:
    async with two_nodes(shared_valkey) as (first, second):
        there = await second.connect("alice")
        users = {there.user}
        assert await first.service.manager.is_online(there.user)
        users.add((await first.connect("alice")).user)
        for user in users:
            for node in (first, second):
                nodes = 3 - len(users)  # some styles give each connection a user of its own
                state = (await node.get(f"/users/{user}", key=BACKEND)).json()
                assert state == {"online": True, "nodes": nodes}
                answer = await node.post("/publish", {"user": user, "data": 1})
                assert answer.json()["reached"] == nodes
        assert not await first.service.manager.is_online("nobody")


@pytest.mark.hostile(43)
async def test_a_user_is_disconnected_on_every_node(shared_valkey: Valkey) -> None:
    async with two_nodes(shared_valkey) as (first, second):
        there = await second.connect("alice")
        here = await first.connect("alice")
        for user in dict.fromkeys((here.user, there.user)):
            assert (await first.post("/disconnect", {"user": user})).status_code == 202
        for client in (here, there):
            assert await client.closed() == REVOKED


@pytest.mark.parametrize(
    "url", ["localhost", "http://localhost", "redis://a..b:6379", "redis://localhost:port"]
)
def test_a_bad_url_is_refused_at_start(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    line = complaint(monkeypatch, REDIS_URL=url)
    assert line.startswith("error: REDIS_URL: ")
    assert "redis://localhost:6379/0" in line


def test_without_a_url_the_service_is_a_single_node() -> None:
    assert make_client(make_settings()) is None


async def test_without_a_url_the_service_uses_the_local_backplane() -> None:
    async with run_service() as live:
        assert type(live.service.backplane) is Backplane
