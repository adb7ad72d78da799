"""Kinds of Redis: one server, perhaps found through sentinels, or a cluster."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from redis.asyncio import ConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    MasterNotFoundError,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException
from redis.maint_notifications import MaintNotificationsConfig

from ..errors import Misconfigured
from ..settings.settings import RealtimeSettings
from .client import OwnsChannel, RedisClient
from .connections import FAILURES, CheckedConnection, PubSub, checked


class ServerClient(RedisClient):
    """One server. Sentinels, if there are any, may replace it by another."""

    redis: Redis

    def __init__(
        self, redis: Redis, settings: RealtimeSettings, sentinels: Sequence[Redis] = ()
    ) -> None:
        super().__init__(redis, settings)
        self.sentinels = sentinels

    @asynccontextmanager
    async def open_pubsubs(self) -> AsyncIterator[list[tuple[PubSub, OwnsChannel]]]:
        """Open one connection, which owns all channels."""
        async with PubSub(self.redis.connection_pool) as pubsub:
            await pubsub.connect()
            if isinstance(pubsub.connection, CheckedConnection):
                pubsub.connection.listens = True  # a check would read what the listener waits for
            if (await self.redis.info("cluster")).get("cluster_enabled"):
                msg = "REDIS_URL: the server belongs to a cluster; set REDIS_CLUSTER=true"
                raise Misconfigured(msg)
            yield [(pubsub, lambda name: True)]

    async def reconnect(self) -> None:
        """Replace every connection before its next use."""
        pool = self.redis.connection_pool
        await pool.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]
        with suppress(*FAILURES):
            await pool.disconnect(inuse_connections=False)

    async def aclose(self) -> None:
        """Disconnect, also from the sentinels."""
        for each in (self.redis, *self.sentinels):
            await each.aclose()


class ClusterClient(RedisClient):
    """A cluster. Messages to a channel stay in the shard that has its slot."""

    is_sharded = True
    redis: RedisCluster

    def __init__(self, settings: RealtimeSettings, options: dict[str, Any]) -> None:
        targets: list[dict[str, Any]] = [dict(parse_url(url)) for url in settings.redis_urls]
        nodes = [ClusterNode(at.get("host", "localhost"), at.get("port", 6_379)) for at in targets]
        # User, password and TLS, which are the same for all servers
        shared = {key: value for key, value in targets[0].items() if key not in {"host", "port"}}
        self._options = shared | options
        super().__init__(RedisCluster(startup_nodes=nodes, **options), settings)
        # Set here, since the constructor does not take all options for TLS
        arguments = self.redis.connection_kwargs
        arguments |= shared | _pool_options(settings)
        arguments["connection_class"] = checked(shared.get("connection_class", Connection))
        arguments["max_connections"] -= 1  # `_open` makes one more to each server, to listen
        self._named_nodes = {
            node.name: ClusterNode(node.host, node.port, **arguments) for node in nodes
        }
        self.redis.nodes_manager.startup_nodes = self._named_nodes.copy()
        self._asks_named = False

    @asynccontextmanager
    async def open_pubsubs(self) -> AsyncIterator[list[tuple[PubSub, OwnsChannel]]]:
        """Ask which primary has which slots now, and open a connection to each."""
        nodes = self.redis.nodes_manager
        # Ask known servers, or after a failure those of `REDIS_URL`: the known ones may have moved.
        asked = self._named_nodes if self._asks_named else nodes.nodes_cache or self._named_nodes
        nodes.set_nodes(nodes.startup_nodes, asked, remove_old=True)
        self._asks_named = not self._asks_named
        try:
            await self.redis.initialize()
            await nodes.initialize()
        except RedisClusterException as failure:
            if "not enabled" in str(failure):
                raise Misconfigured("REDIS_CLUSTER: the server belongs to no cluster") from failure
            raise
        self._asks_named = False
        # Copied at once, since other commands may update the slots meanwhile.
        slots: defaultdict[ClusterNode, set[int]] = defaultdict(set)
        for slot, (primary, *_) in nodes.slots_cache.items():
            slots[primary].add(slot)
        async with AsyncExitStack() as stack:
            yield [await self._open(node, owned, stack) for node, owned in slots.items()]

    async def _open(
        self, node: ClusterNode, slots: Collection[int], stack: AsyncExitStack
    ) -> tuple[PubSub, OwnsChannel]:
        options = self._options | {"host": node.host, "port": node.port}
        server = await stack.enter_async_context(Redis.from_pool(ConnectionPool(**options)))
        pubsub = await stack.enter_async_context(PubSub(server.connection_pool))
        await pubsub.connect()
        return pubsub, lambda name: self.redis.keyslot(name) in slots

    async def reconnect(self) -> None:
        """Replace every connection before its next use."""
        for node in self.redis.get_nodes():
            node.update_active_connections_for_reconnect()
            await node.disconnect_free_connections()


class Sentinels(Sentinel):
    """Asks all sentinels at once, so that one that hangs does not delay the answer."""

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return host and port of the primary, by the first answer.

        Raises:
            RedisError, OSError: the last failure, if no sentinel names it.
        """
        asked = [asyncio.create_task(self._ask(each, service_name)) for each in self.sentinels]
        failures: list[Exception] = []
        try:
            for answer in asyncio.as_completed(asked):
                try:
                    return await answer
                except FAILURES as failure:
                    failures.append(failure)
            raise failures[-1]
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _ask(self, sentinel: Redis, service_name: str) -> tuple[str, int]:
        primaries: Any = await sentinel.sentinel_masters()
        state = primaries.get(service_name)
        if state is None or not self.check_master_state(state, service_name):
            raise MasterNotFoundError(f"the sentinel knows no working primary {service_name!r}")
        return state["ip"], state["port"]


def _pool_options(settings: RealtimeSettings) -> dict[str, Any]:
    return {
        "max_connections": settings.redis_max_connections,
        "idle_s": settings.redis_ping_interval_s,
        # Half, so that after an unanswered ping there is time left for a new connection.
        "ping_timeout_s": settings.redis_timeout_s / 2,
    }


def make_client(settings: RealtimeSettings) -> RedisClient | None:
    """Return a client for ``REDIS_URL``, None without one. It connects when it is first used."""
    if settings.redis_url is None:
        return None
    options: dict[str, Any] = {
        # redis-py would limit writes by `asyncio.wait_for`, which in Python 3.11 sometimes loses a
        # cancellation (python/cpython#86296).
        "socket_timeout": None,
        "socket_connect_timeout": settings.redis_timeout_s,
        # By default, redis-py retries a frozen server for a minute; see `RedisClient.ask`.
        "retry": Retry(NoBackoff(), 0),
        # With these notifications, redis-py keeps some connections that were closed.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if settings.redis_cluster:
        return ClusterClient(settings, options)
    if settings.redis_sentinel is not None:
        return _behind_sentinels(settings.redis_sentinel, settings, options)
    target: dict[str, Any] = dict(parse_url(settings.redis_urls[0]))
    kind = target.pop("connection_class", Connection)
    pool = ConnectionPool(checked(kind), **(target | options | _pool_options(settings)))
    return ServerClient(Redis.from_pool(pool), settings)


def _behind_sentinels(
    name: str, settings: RealtimeSettings, options: dict[str, Any]
) -> ServerClient:
    """Return a client of the server that sentinels currently name as the primary.

    User and password in the URL are for this server; the options for TLS are for sentinels, too.
    """
    targets = [parse_url(url) for url in settings.redis_urls]
    addresses = [(at.get("host", "localhost"), at.get("port", 26_379)) for at in targets]
    has_tls = targets[0].get("connection_class") is SSLConnection
    places = {"host", "port", "connection_class"}
    primary = {key: value for key, value in targets[0].items() if key not in places}
    password = settings.redis_sentinel_password
    for_sentinels = options | {
        "ssl": has_tls,
        "username": settings.redis_sentinel_username,
        "password": password and password.get_secret_value(),
        **{key: value for key, value in primary.items() if key.startswith("ssl_")},
    }
    sentinel: Any = Sentinels(addresses, sentinel_kwargs=for_sentinels)  # type: ignore[no-untyped-call]
    kind = SentinelManagedSSLConnection if has_tls else SentinelManagedConnection
    redis = sentinel.master_for(
        name, connection_class=checked(kind), **(primary | options | _pool_options(settings))
    )
    return ServerClient(redis, settings, sentinel.sentinels)
