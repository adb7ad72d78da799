"""Redis or Valkey as the service reaches it: one server, or a cluster of them."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, Protocol, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, SecretStr, model_validator
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.client import Pipeline, PubSub
from redis.asyncio.cluster import ClusterNode, ClusterPipeline
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from .backplane import Channel
from .errors import Misconfigured
from .settings import SettingsPart

Commands = Redis | RedisCluster
Batch = Pipeline | ClusterPipeline

URL = re.compile(r"(\w+://(?:[^/?#]*@)?)([^/?#]*)(.*)")
"""What is before the hosts, the hosts, and what is behind them (RFC 3986 §3)."""

FAILURES = (RedisError, RedisClusterException, OSError)
"""What Redis and the way to it can raise; a timeout is an `OSError`."""

REFUSALS = (AuthenticationError, AuthorizationError, ResponseError, Misconfigured)


def explain(failure: BaseException) -> str:
    """Return a line for the log; redis-py's own ``repr`` leaves out what was wrong."""
    return f"{type(failure).__name__}: {failure}"


def server_urls(url: str) -> list[str]:
    """Return the URL of each server: ``redis://a,b/0`` names two that have the rest in common."""
    # Not with `urlsplit`, which takes a list for one bad host as soon as there are brackets in it.
    parts = URL.fullmatch(url)
    return [parts[1] + host + parts[3] for host in parts[2].split(",")] if parts else [url]


def _check_url(url: SecretStr) -> SecretStr:
    try:
        for server_url in server_urls(url.get_secret_value()):
            parse_url(server_url).get("host", "").encode("idna")
    except ValueError:
        msg = "is no address of a server; write one like redis://localhost:6379/0"
        raise ValueError(msg) from None
    return url


class RedisSettings(SettingsPart):
    """Where Redis is, and how long it may take. Without a URL the service is a single node.

    With ``redis_cluster`` the URL names some servers of a cluster, with ``redis_sentinel`` the
    sentinels that know the servers of that name.
    """

    redis_url: Annotated[SecretStr, AfterValidator(_check_url)] | None = None
    redis_cluster: bool = False
    redis_sentinel: str | None = None
    redis_prefix: str = Field(default="ws:", min_length=1, max_length=64, pattern=r"^[^{}]*$")
    redis_timeout_s: PositiveFloat = 1.0
    redis_ping_interval_s: PositiveFloat = 2.0
    redis_retry_max_s: PositiveFloat = 5.0
    redis_max_waiting_bytes: PositiveInt = 16_777_216

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.redis_url is None:
            return self
        urls = server_urls(self.redis_url.get_secret_value())
        target = parse_url(urls[0])
        if self.redis_cluster and self.redis_sentinel is not None:
            msg = "REDIS_CLUSTER and REDIS_SENTINEL exclude each other; leave one out"
        elif self.redis_cluster and target.get("db"):
            msg = "REDIS_URL: a cluster has database 0 only"
        elif (self.redis_cluster or self.redis_sentinel) and target.get("path"):
            msg = "REDIS_URL: clusters and sentinels have TCP ports; name one like redis://a:6379"
        elif len(urls) > 1 and not (self.redis_cluster or self.redis_sentinel):
            msg = "REDIS_URL: several servers need REDIS_CLUSTER=true or the name in REDIS_SENTINEL"
        else:
            return self
        raise ValueError(msg)


class Listener:
    """One connection on which a node hears channels, and those that it is to ask for or to leave.

    ``takes`` tells the channels that belong to it, by the names that they have in Redis.
    """

    def __init__(self, pubsub: PubSub, takes: Callable[[str], bool]) -> None:
        self.takes = takes
        self.changed: set[Channel] = set()
        self.has_changed = asyncio.Event()
        self._pubsub = pubsub

    def note(self, channel: Channel) -> None:
        """Have a channel looked at that was hosted or is no more."""
        self.changed.add(channel)
        self.has_changed.set()

    async def subscribe(self, names: Collection[str]) -> None:
        """Ask for channels."""
        await self._pubsub.subscribe(*names)

    async def unsubscribe(self, names: Collection[str]) -> None:
        """Leave channels."""
        await self._pubsub.unsubscribe(*names)

    async def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """Return what comes next, null if nothing comes in time.

        Raises:
            ConnectionError: the connection, or one of its channels, is lost.

        """
        message: dict[str, Any] | None = await self._pubsub.get_message(timeout=timeout_s)
        return message

    async def ping(self) -> None:
        """Ask for an answer."""
        await self._pubsub.ping()


class ShardListener(Listener):
    """A connection to one primary of a cluster, for the channels in its slots."""

    def __init__(self, pubsub: PubSub, takes: Callable[[str], bool]) -> None:
        super().__init__(pubsub, takes)
        self._leaving: Counter[str] = Counter()

    async def subscribe(self, names: Collection[str]) -> None:
        """Ask for channels, each by itself: one command must not span slots."""
        for name in names:
            await self._pubsub.ssubscribe(name)

    async def unsubscribe(self, names: Collection[str]) -> None:
        """Leave channels."""
        self._leaving.update(names)
        for name in names:
            await self._pubsub.sunsubscribe(name)

    async def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """Return what comes next, null if nothing comes in time.

        Raises:
            ConnectionError: the connection is lost, or one of its slots, which has moved.

        """
        message = await super().receive(timeout_s)
        if message is not None and message["type"] == "sunsubscribe":
            name = message["channel"].decode()
            if self._leaving[name] == 0:
                msg = "a slot has moved to another server"
                raise ConnectionError(msg)
            self._leaving[name] -= 1
        return message


class RedisClient(Protocol):
    """What the service asks Redis with, and how it listens.

    Nothing here waits for ever but a listener that receives: whoever asks says how long to wait,
    with `asyncio.timeout`.
    """

    publish_command: str

    @property
    def commands(self) -> Commands:
        """What runs commands."""

    def listeners(self) -> AbstractAsyncContextManager[list[Listener]]:
        """Connect anew, and yield listeners that take every channel, each exactly one of them.

        Raises:
            Misconfigured: the server is not of the kind that the settings tell.

        """

    async def aclose(self) -> None:
        """Disconnect."""


class ServerClient:
    """One server, or one at a time."""

    publish_command = "PUBLISH"

    def __init__(self, commands: Redis) -> None:
        self.commands = commands

    @asynccontextmanager
    async def listeners(self) -> AsyncIterator[list[Listener]]:
        """Connect."""
        async with self.commands.pubsub() as pubsub:
            await pubsub.connect()
            if (await self.commands.info("cluster")).get("cluster_enabled"):
                msg = "REDIS_URL: the server belongs to a cluster; set REDIS_CLUSTER=true"
                raise Misconfigured(msg)
            yield [Listener(pubsub, lambda name: True)]

    async def aclose(self) -> None:
        """Disconnect."""
        await self.commands.aclose()


class SentinelClient(ServerClient):
    """The server that sentinels have made the primary of that name.

    User and password in the URLs are for this one; the sentinels are asked without.
    """

    def __init__(self, name: str, urls: Sequence[str], options: Mapping[str, Any]) -> None:
        targets = [parse_url(url) for url in urls]
        addresses = [(at.get("host", "localhost"), at.get("port", 26_379)) for at in targets]
        primary: dict[str, Any] = {**options, **targets[0]}
        for key in ("host", "port"):
            primary.pop(key, None)
        if primary.pop("connection_class", None) is SSLConnection:
            options = {**options, "ssl": True}
            primary["ssl"] = True
        self._sentinel: Any = Sentinel(addresses, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        super().__init__(self._sentinel.master_for(name, **primary))

    async def aclose(self) -> None:
        """Disconnect, from the sentinels as well."""
        await super().aclose()
        for sentinel in self._sentinel.sentinels:
            await sentinel.aclose()


class ClusterClient:
    """A cluster. What is published to a channel stays in the shard that has its slot."""

    publish_command = "SPUBLISH"

    def __init__(self, urls: Sequence[str], options: Mapping[str, Any]) -> None:
        self._url = urlsplit(urls[0])
        self._options = options
        targets = [parse_url(url) for url in urls]
        nodes = [ClusterNode(at.get("host", "localhost"), at.get("port", 6_379)) for at in targets]
        self.commands = RedisCluster.from_url(urls[0], startup_nodes=nodes, **options)

    @asynccontextmanager
    async def listeners(self) -> AsyncIterator[list[Listener]]:
        """Look where the slots are now, and connect to each primary."""
        try:
            await self.commands.initialize()
            await self.commands.nodes_manager.initialize()
        except RedisClusterException as failure:
            if "not enabled" in str(failure):
                msg = "REDIS_CLUSTER: the server belongs to no cluster"
                raise Misconfigured(msg) from failure
            raise
        async with AsyncExitStack() as stack:
            yield [await self._listen(node, stack) for node in self.commands.get_primaries()]

    async def _listen(self, node: ClusterNode, stack: AsyncExitStack) -> Listener:
        server = Redis.from_url(self._url_of(node), **self._options)
        await stack.enter_async_context(server)
        pubsub = await stack.enter_async_context(server.pubsub())
        await pubsub.connect()
        nodes = self.commands.nodes_manager
        slots = {slot for slot, holders in nodes.slots_cache.items() if holders[0] is node}
        return ShardListener(pubsub, lambda name: self.commands.keyslot(name) in slots)

    async def aclose(self) -> None:
        """Disconnect."""
        await self.commands.aclose()

    def _url_of(self, node: ClusterNode) -> str:
        user, at, _ = self._url.netloc.rpartition("@")
        host = f"[{node.host}]" if ":" in node.host else node.host
        return self._url._replace(netloc=f"{user}{at}{host}:{node.port}").geturl()


def make_client(settings: RedisSettings) -> RedisClient | None:
    """Return a client for ``REDIS_URL``, which connects when it is first used, null without one."""
    if settings.redis_url is None:
        return None
    options: dict[str, Any] = {
        # The client would bound writes with `asyncio.wait_for`, which swallows a cancellation now
        # and then in Python 3.11 (python/cpython#86296).
        "socket_timeout": None,
        "socket_connect_timeout": settings.redis_timeout_s,
        # A publisher is told within the timeout, and repeats what is worth it. By default, the
        # client would try a frozen server for a minute.
        "retry": Retry(NoBackoff(), 0),
    }
    urls = server_urls(settings.redis_url.get_secret_value())
    if settings.redis_cluster:
        return ClusterClient(urls, options)
    if settings.redis_sentinel is not None:
        return SentinelClient(settings.redis_sentinel, urls, options)
    return ServerClient(Redis.from_url(urls[0], **options))
