"""A real cluster: messages reach other nodes in each shard, also after a failover."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest

from app.realtime.backplane import ALL, Backplane, Channel, Subscription, user_channel
from app.realtime.errors import Unavailable
from app.realtime.redis.backplane import RedisBackplane
from app.realtime.redis.map import RedisMap
from app.realtime.redis.topologies import ClusterClient
from app.realtime.settings.redis import server_urls

from ..backplane_contract import Inbox, numbered
from ..client import START_S
from ..live import make_settings, wait_until, wait_until_async
from ..map_contract import MapContract
from ..relay import Relay
from .proxy import run_proxy
from .test_node import RedisBackplaneContract, failure
from .test_node import run_node as run_any_node
from .valkey import run_valkey
from .valkey_cluster import NODE_TIMEOUT_MS, Cluster, Server, run_cluster

pytestmark = pytest.mark.slow

CHANNELS = [user_channel(str(number)) for number in range(20)]


@pytest.fixture(scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with run_cluster() as cluster:
        yield cluster


def run_node(
    cluster: Cluster, **overrides: object
) -> AbstractAsyncContextManager[tuple[RedisBackplane, list[str]]]:
    """Run a backplane; also yield a list that grows by one for each reported gap."""
    return run_any_node(cluster.url, redis_cluster=True, **overrides)


class TestClusterBackplane(RedisBackplaneContract):
    """Two nodes that know each other through a cluster alone."""

    @pytest.fixture
    async def backplane(self, cluster: Cluster) -> AsyncIterator[Backplane]:
        """Run one node."""
        async with run_node(cluster) as (node, _):
            yield node

    @pytest.fixture
    async def other(self, cluster: Cluster) -> AsyncIterator[Backplane]:
        """Run another."""
        async with run_node(cluster) as (node, _):
            yield node


async def test_every_shard_carries_messages(cluster: Cluster) -> None:
    async with run_node(cluster) as (here, _), run_node(cluster) as (there, _):
        inboxes = {channel: Inbox() for channel in CHANNELS}
        for channel, inbox in inboxes.items():
            await there.confirm(there.subscribe(Subscription(channel, inbox.deliver)))
        shards = {
            (await cluster.primary_of(here.client.name(channel))).port for channel in CHANNELS
        }
        assert len(shards) == 3
        await asyncio.gather(
            *(here.publish(channel, numbered(n)) for n in range(5) for channel in CHANNELS)
        )
        for inbox in inboxes.values():
            assert [await inbox.next() for _ in range(5)] == [numbered(n) for n in range(5)]
            assert inbox.is_empty()


async def test_a_node_listens_only_to_what_it_hosts(cluster: Cluster) -> None:
    async with run_node(cluster) as (node, _):
        name = node.client.name(CHANNELS[0])
        server = await cluster.primary_of(name)
        subscription = node.subscribe(Subscription(CHANNELS[0], Inbox().deliver))
        await node.confirm(subscription)
        assert await listeners(server, name) == 1
        node.unsubscribe(subscription)

        async def is_left() -> bool:
            return await listeners(server, name) == 0

        await wait_until_async(is_left)
        await node.confirm(node.subscribe(Subscription(CHANNELS[0], Inbox().deliver)))
        assert await listeners(server, name) == 1


async def listeners(server: Server, name: str) -> int:
    """Return how many connections are subscribed to a channel."""
    ((_, count),) = await server.redis.pubsub_shardnumsub(name)
    return int(count)


async def reaches(sender: RedisBackplane, channel: Channel, inbox: Inbox) -> bool:
    """Publish, and return whether something arrives soon."""
    try:
        await sender.publish(channel, numbered(0))
        async with asyncio.timeout(0.2):
            await inbox.next()
    except (Unavailable, TimeoutError):
        return False
    return True


async def fail_over(cluster: Cluster, primary: Server) -> None:
    """Make the replica take over while the primary still works."""
    replica = await cluster.replica_of(primary)
    await replica.ask("CLUSTER FAILOVER")
    await wait_until_async(replica.is_primary, START_S)


async def kill(cluster: Cluster, primary: Server) -> None:
    """End the primary as a crash would; its replica takes over by itself."""
    replica = await cluster.replica_of(primary)
    await primary.stop()
    await wait_until_async(replica.is_primary, START_S)


Failure = Callable[[Cluster, Server], Awaitable[None]]


async def test_a_replica_takes_over(cluster: Cluster) -> None:
    assert await gaps_after(fail_over, cluster) == ["gap"]


async def test_a_replica_takes_over_from_a_dead_primary() -> None:
    async with run_cluster(NODE_TIMEOUT_MS) as cluster:
        # With a timeout this short, another primary may be declared dead, too.
        assert await gaps_after(kill, cluster)


async def gaps_after(fail: Failure, cluster: Cluster) -> list[str]:
    """Fail the primary of `ALL`, wait until every channel works again, and return the gaps."""
    async with run_node(cluster) as (here, gaps), run_node(cluster) as (there, _):
        inboxes = {channel: Inbox() for channel in CHANNELS}
        for channel, inbox in inboxes.items():
            await there.confirm(there.subscribe(Subscription(channel, inbox.deliver)))
        old = await cluster.primary_of(here.client.name(ALL))
        await fail(cluster, old)
        for channel, inbox in inboxes.items():
            await wait_until_async(partial(reaches, here, channel, inbox), START_S)
        assert await cluster.primary_of(here.client.name(ALL)) is not old
        await wait_until(lambda: here.healthy and there.healthy, START_S)
        return gaps


async def test_all_servers_may_get_new_addresses(cluster: Cluster) -> None:
    """The old addresses do not answer, as those of removed machines."""
    async with run_cluster() as old:
        ports = [old.servers[0].port]
        relay = Relay(lambda: ports[-1])
        async with relay.running():
            url = f"redis://127.0.0.1:{relay.port}"
            async with run_any_node(url, redis_cluster=True, redis_timeout_s=2.0) as (node, gaps):
                ports.append(cluster.servers[0].port)
                for server in old.servers:
                    server.freeze()
                relay.abort()
                await wait_until(lambda: gaps == ["gap"] and node.healthy, START_S)


async def test_a_slot_that_moves_takes_its_channels_with_it(cluster: Cluster) -> None:
    async with run_node(cluster) as (here, gaps), run_node(cluster) as (there, _):
        inbox = Inbox()
        await here.confirm(here.subscribe(Subscription(CHANNELS[0], inbox.deliver)))
        name = here.client.name(CHANNELS[0])
        old = await cluster.primary_of(name)
        new = next(each for each in await cluster.primaries() if each is not old)
        await cluster.move_slot(name, old, new)
        await wait_until(lambda: gaps == ["gap"] and here.healthy, START_S)
        await wait_until_async(partial(reaches, there, CHANNELS[0], inbox), START_S)
        assert await listeners(new, name) == 1


async def test_slots_that_move_while_a_node_connects_have_one_listener(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other commands may learn of moved slots meanwhile, so a server may have none."""
    open_one = ClusterClient._open

    async def learn_of_a_move(client: ClusterClient, *arguments: Any) -> Any:
        opened = await open_one(client, *arguments)
        slots = client.redis.nodes_manager.slots_cache
        slots.update(dict.fromkeys(slots, slots[0]))
        return opened

    monkeypatch.setattr(ClusterClient, "_open", learn_of_a_move)
    async with run_node(cluster) as (node, _):
        owners = [
            sum(listener.owns(node.client.name(channel)) for listener in node._listeners)
            for channel in CHANNELS
        ]
        assert owners == [1] * len(CHANNELS)


async def test_the_wrong_kind_of_server_ends_the_service(cluster: Cluster) -> None:
    async with run_valkey() as valkey, run_proxy(valkey) as proxy:
        for url, is_cluster, reason in [
            (cluster.url, False, "REDIS_URL: the server belongs to a cluster"),
            (proxy.url, True, "REDIS_CLUSTER: the server belongs to no cluster"),
        ]:
            assert reason in str(await failure(url, redis_cluster=is_cluster))


@pytest.mark.parametrize(
    ("url", "settings", "reason"),
    [
        ("unix:///tmp/redis.sock", {"redis_cluster": True}, "have TCP ports"),
        ("unix:///tmp/redis.sock", {"redis_sentinel": "main"}, "have TCP ports"),
        ("redis://localhost:6379/1", {"redis_cluster": True}, "database 0 only"),
        ("redis://a:6379,b:6379", {}, "several servers need"),
        ("redis://a", {"redis_cluster": True, "redis_sentinel": "main"}, "set as well"),
        ("redis://a,b:port", {"redis_cluster": True}, "not the address of a server"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    url: str, settings: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        make_settings(redis_url=url, **settings)


def test_a_url_may_name_several_servers() -> None:
    url = "rediss://user:p%40ss@a:1,b:2,[::1]:3/0"
    assert server_urls(url) == [f"rediss://user:p%40ss@{at}/0" for at in ("a:1", "b:2", "[::1]:3")]
    assert server_urls("redis://a,b?db=1") == ["redis://a?db=1", "redis://b?db=1"]
    assert server_urls("unix:///a,b.sock") == ["unix:///a,b.sock"]


class TestClusterMap(MapContract):
    """Keys anywhere in a cluster."""

    @pytest.fixture
    async def values(self, cluster: Cluster) -> AsyncIterator[RedisMap]:
        """Return an empty map."""
        async with run_node(cluster) as (node, _):
            yield RedisMap(node.client, secrets.token_hex())
