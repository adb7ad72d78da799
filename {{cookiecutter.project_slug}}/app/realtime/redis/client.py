"""Redis or Valkey as the service reaches it: one server, or a cluster of them."""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Sequence,
)
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from functools import partial
from time import monotonic
from typing import Any, ClassVar
from urllib.parse import urlsplit

import structlog
from redis.asyncio import ConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.client import Pipeline, PubSub
from redis.asyncio.cluster import ClusterNode, ClusterPipeline
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from ..backplane import Channel
from ..errors import Misconfigured, Unavailable
from ..redis_settings import server_urls
from ..settings import RealtimeSettings

log = structlog.stdlib.get_logger(__name__)

Commands = Redis | RedisCluster
Batch = Pipeline | ClusterPipeline
Attempt = Callable[[Batch, Channel], None]
"""Adds the commands that a part needs to a pipeline, for the keys of a channel not in use."""

FAILURES = (RedisError, RedisClusterException, OSError)
"""What Redis and the way to it can raise; a timeout is an `OSError`."""

TICKS = 10

RESERVED = 4
"""Connections of one use each: to listen, to publish, to probe, to write in the background."""

NOT_ANSWERING = "Redis does not answer just now"


def explain(failure: BaseException) -> str:
    """Return a line for the log; redis-py's own ``repr`` leaves out what was wrong."""
    return f"{type(failure).__name__}: {failure}"


@asynccontextmanager
async def answered_within(timeout_s: float) -> AsyncIterator[None]:
    """Limit how long Redis may take to answer.

    Time passes in ticks. While this process is too busy to read an answer, however long, only one
    tick passes.

    Raises:
        TimeoutError: the time is over.

    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None
    async with asyncio.timeout(None) as limit:

        def tick(left: int) -> None:
            nonlocal timer
            if left:
                timer = loop.call_later(timeout_s / TICKS, tick, left - 1)
            else:
                limit.reschedule(loop.time())

        tick(TICKS)
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()


class CheckedConnection(AbstractConnection):
    """A connection that is replaced if it is dead, before a command goes out on it.

    Redis closes connections that are idle (its ``timeout``), which is seen. A firewall forgets them
    without a word, so after a silence a ping comes first.
    """

    def __init__(self, *, idle_s: float, ping_timeout_s: float, **options: Any) -> None:
        self._idle_s = idle_s
        self._ping_timeout_s = ping_timeout_s
        self._used_at_s = 0.0
        self.listens = False
        super().__init__(**options)

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Introduce the service to the server."""
        self.listens = False
        await super().on_connect_check_health(check_health=False)

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        """Send a command, on a connection that is alive."""
        is_checked = check_health and self.is_connected and not self.listens
        if is_checked and not await self._is_alive():
            await self.disconnect(nowait=True)
        self._used_at_s = monotonic()
        await super().send_packed_command(command, check_health=check_health)

    async def _is_alive(self) -> bool:
        try:
            if await self.can_read():  # the end, or an unsolicited reply
                return False
            if monotonic() - self._used_at_s > self._idle_s:
                async with answered_within(self._ping_timeout_s):
                    await self.send_command("PING", check_health=False)
                    await self.read_response()
        except ResponseError:  # which is an answer as well
            return True
        except FAILURES:
            return False
        return True


class CheckedTcp(CheckedConnection, Connection):
    """A connection over TCP."""


class CheckedTls(CheckedConnection, SSLConnection):
    """A connection over TLS."""


class CheckedUnix(CheckedConnection, UnixDomainSocketConnection):
    """A connection to a socket of this machine."""


class CheckedPrimary(CheckedConnection, SentinelManagedConnection):
    """A connection to the server that sentinels name."""


class CheckedTlsPrimary(CheckedConnection, SentinelManagedSSLConnection):
    """A connection over TLS to the server that sentinels name."""


CHECKED: dict[type[AbstractConnection], type[CheckedConnection]] = {
    Connection: CheckedTcp,
    SSLConnection: CheckedTls,
    UnixDomainSocketConnection: CheckedUnix,
}


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

    async def receive(self, timeout_s: float | None) -> dict[str, Any] | None:
        """Return what comes next, null if nothing comes in time.

        Raises:
            ConnectionError: the connection, or one of its channels, is lost.

        """
        message: dict[str, Any] | None = await self._pubsub.get_message(timeout=timeout_s)
        return message

    async def ping(self) -> dict[str, Any] | None:
        """Wait for an answer, and return what comes next, null if it is a refusal."""
        await self._pubsub.ping()
        try:
            return await self.receive(None)
        except ResponseError:  # a server that cannot save refuses even this
            return None


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

    async def receive(self, timeout_s: float | None) -> dict[str, Any] | None:
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


class RedisClient(ABC):
    """What the service asks Redis with, how it listens, and how it calls its channels and keys."""

    publish_command: ClassVar[str]

    def __init__(self, commands: Commands, settings: RealtimeSettings) -> None:
        self.commands = commands
        self.prefix = settings.redis_prefix
        self.timeout_s = settings.redis_timeout_s
        # Databases have keys of their own, but all channels in common.
        self._channel_prefix = f"{settings.redis_prefix}{settings.redis_database}:"
        self._turns = asyncio.Semaphore(settings.redis_max_connections - RESERVED)
        self._silences = 0
        self._is_failing = False
        self._attempts: list[Attempt] = []

    def name(self, channel: Channel) -> str:
        """Return what Redis knows a channel by."""
        return self._channel_prefix + "{" + channel + "}"

    def channel(self, name: str) -> Channel:
        """Return the channel that Redis knows by a name."""
        return Channel(name.removeprefix(self._channel_prefix)[1:-1])

    def key(self, channel: Channel, what: str) -> str:
        """Return the key of what a channel has; a cluster keeps it in the channel's slot."""
        return self.prefix + "{" + channel + "}:" + what

    async def ask(self, *command: Any, repeatable: bool) -> Any:
        """Return the reply to one command, which first waits for its turn.

        While Redis answers, the wait for a turn has no limit. When it stops answering, all commands
        that wait fail at once. A repeatable command is sent again, once, if its connection fails;
        any other command might then be carried out twice.

        Raises:
            Unavailable: Redis does not answer in time, or refuses.

        """
        silences = self._silences
        async with self._turns:
            if self._silences != silences:
                raise Unavailable(NOT_ANSWERING)
            try:
                execute = partial(self.commands.execute_command, *command)
                reply = await self._answer(execute, repeatable=repeatable)
            except FAILURES as failure:
                # A single connection that breaks tells nothing of the others.
                if isinstance(failure, TimeoutError) or repeatable:
                    self._silences += not isinstance(failure, ResponseError)
                if not self._is_failing:  # the rest of an outage says nothing new
                    log.warning("redis command failed", error=explain(failure))
                self._is_failing = True
                raise Unavailable(NOT_ANSWERING) from failure
            self._is_failing = False
            return reply

    async def _answer(self, send: Callable[[], Awaitable[Any]], *, repeatable: bool) -> Any:
        try:
            async with answered_within(self.timeout_s):
                return await send()
        except FAILURES as failure:
            if isinstance(failure, ResponseError) or not repeatable:
                raise
        return await self._answer(send, repeatable=False)

    def probe_with(self, attempt: Attempt) -> None:
        """Have a part's commands tried, see `probe`."""
        self._attempts.append(attempt)

    async def probe(self, channel: Channel) -> None:
        """Try what the service needs of the server that has a channel.

        Raises:
            RedisError, OSError: the first failure.

        """

        def send() -> Awaitable[list[Any]]:
            pipeline = self.commands.pipeline(transaction=False)
            for attempt in self._attempts:
                attempt(pipeline, channel)
            return pipeline.execute(raise_on_error=False)

        for reply in await self._answer(send, repeatable=True):
            if isinstance(reply, Exception):
                raise reply

    @abstractmethod
    def listeners(self) -> AbstractAsyncContextManager[list[Listener]]:
        """Connect anew, and yield listeners that take every channel, each exactly one of them.

        Raises:
            Misconfigured: the server is not of the kind that the settings tell.

        """

    @abstractmethod
    async def reconnect(self) -> None:
        """Have no connection used any more that there is: they may lead to the wrong server."""

    async def aclose(self) -> None:
        """Disconnect."""
        await self.commands.aclose()


class ServerClient(RedisClient):
    """One server, or one at a time."""

    publish_command = "PUBLISH"

    def __init__(self, redis: Redis, settings: RealtimeSettings) -> None:
        self._redis = redis
        super().__init__(redis, settings)

    @asynccontextmanager
    async def listeners(self) -> AsyncIterator[list[Listener]]:
        """Connect."""
        async with self._redis.pubsub() as pubsub:
            await pubsub.connect()
            if isinstance(pubsub.connection, CheckedConnection):
                pubsub.connection.listens = True  # so another task reads from it
            if (await self._redis.info("cluster")).get("cluster_enabled"):
                msg = "REDIS_URL: the server belongs to a cluster; set REDIS_CLUSTER=true"
                raise Misconfigured(msg)
            yield [Listener(pubsub, lambda name: True)]

    async def reconnect(self) -> None:
        """Have no connection used any more that there is."""
        pool = self._redis.connection_pool
        await pool.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]
        with suppress(*FAILURES):
            await pool.disconnect(inuse_connections=False)


class SentinelClient(ServerClient):
    """The server that sentinels have made the primary of that name.

    User and password in the URLs are for this one; TLS is for the sentinels as well.
    """

    def __init__(self, name: str, settings: RealtimeSettings, options: dict[str, Any]) -> None:
        targets: list[dict[str, Any]] = [dict(parse_url(url)) for url in _urls(settings)]
        addresses = [(at.get("host", "localhost"), at.get("port", 26_379)) for at in targets]
        primary = targets[0]
        for key in ("host", "port"):
            primary.pop(key, None)
        has_tls = primary.pop("connection_class", None) is SSLConnection
        password = settings.redis_sentinel_password
        for_sentinels = options | {
            "ssl": has_tls,
            "username": settings.redis_sentinel_username,
            "password": password and password.get_secret_value(),
            **{key: value for key, value in primary.items() if key.startswith("ssl_")},
        }
        sentinel: Any = Sentinel(addresses, sentinel_kwargs=for_sentinels)  # type: ignore[no-untyped-call]
        redis = sentinel.master_for(
            name,
            connection_class=CheckedTlsPrimary if has_tls else CheckedPrimary,
            **(primary | options | _pool_options(settings)),
        )
        self.sentinels: list[Redis] = sentinel.sentinels
        super().__init__(redis, settings)

    async def aclose(self) -> None:
        """Disconnect, from the sentinels as well."""
        await super().aclose()
        for sentinel in self.sentinels:
            await sentinel.aclose()


class ClusterClient(RedisClient):
    """A cluster. What is published to a channel stays in the shard that has its slot."""

    publish_command = "SPUBLISH"

    def __init__(self, settings: RealtimeSettings, options: dict[str, Any]) -> None:
        urls = _urls(settings)
        self._url = urlsplit(urls[0])
        self._options = options
        targets = [parse_url(url) for url in urls]
        has_tls = targets[0].get("connection_class") is SSLConnection
        nodes = [ClusterNode(at.get("host", "localhost"), at.get("port", 6_379)) for at in targets]
        self._cluster = RedisCluster.from_url(urls[0], startup_nodes=nodes, **options)
        self._cluster.connection_kwargs.update(
            connection_class=CheckedTls if has_tls else CheckedTcp, **_pool_options(settings)
        )
        # One connection to each server listens, see `_listen`.
        self._cluster.connection_kwargs["max_connections"] -= 1
        super().__init__(self._cluster, settings)

    @asynccontextmanager
    async def listeners(self) -> AsyncIterator[list[Listener]]:
        """Look where the slots are now, and connect to each primary."""
        try:
            await self._cluster.initialize()
            await self._cluster.nodes_manager.initialize()
        except RedisClusterException as failure:
            if "not enabled" in str(failure):
                msg = "REDIS_CLUSTER: the server belongs to no cluster"
                raise Misconfigured(msg) from failure
            raise
        async with AsyncExitStack() as stack:
            yield [await self._listen(node, stack) for node in self._cluster.get_primaries()]

    async def _listen(self, node: ClusterNode, stack: AsyncExitStack) -> Listener:
        server = Redis.from_url(self._url_of(node), **self._options)
        await stack.enter_async_context(server)
        pubsub = await stack.enter_async_context(server.pubsub())
        await pubsub.connect()
        nodes = self._cluster.nodes_manager
        slots = {slot for slot, holders in nodes.slots_cache.items() if holders[0] is node}
        return ShardListener(pubsub, lambda name: self._cluster.keyslot(name) in slots)

    async def reconnect(self) -> None:
        """Have no connection used any more that there is."""
        for node in self._cluster.get_nodes():
            node.update_active_connections_for_reconnect()
            await node.disconnect_free_connections()

    def _url_of(self, node: ClusterNode) -> str:
        user, at, _ = self._url.netloc.rpartition("@")
        host = f"[{node.host}]" if ":" in node.host else node.host
        return self._url._replace(netloc=f"{user}{at}{host}:{node.port}").geturl()


def _urls(settings: RealtimeSettings) -> Sequence[str]:
    return server_urls(settings.redis_url.get_secret_value()) if settings.redis_url else ()


def _pool_options(settings: RealtimeSettings) -> dict[str, Any]:
    return {
        "max_connections": settings.redis_max_connections,
        "idle_s": settings.redis_ping_interval_s,
        # So that there is time left for a new connection
        "ping_timeout_s": settings.redis_timeout_s / 2,
    }


def make_client(settings: RealtimeSettings) -> RedisClient | None:
    """Return a client for ``REDIS_URL``, which connects when it is first used, null without one."""
    if settings.redis_url is None:
        return None
    options: dict[str, Any] = {
        # The client would bound writes with `asyncio.wait_for`, which swallows a cancellation now
        # and then in Python 3.11 (python/cpython#86296).
        "socket_timeout": None,
        "socket_connect_timeout": settings.redis_timeout_s,
        # By default, the client would try a frozen server for a minute; see `RedisClient.ask`.
        "retry": Retry(NoBackoff(), 0),
        # With these, redis-py takes connections for good that have ended.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if settings.redis_cluster:
        return ClusterClient(settings, options)
    if settings.redis_sentinel is not None:
        return SentinelClient(settings.redis_sentinel, settings, options)
    target: dict[str, Any] = dict(parse_url(_urls(settings)[0]))
    connection_class = CHECKED[target.pop("connection_class", Connection)]
    pool = ConnectionPool(connection_class, **(target | options | _pool_options(settings)))
    return ServerClient(Redis.from_pool(pool), settings)
