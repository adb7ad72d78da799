"""Connections to Redis: checked ones for commands, and ones on which a node listens."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

from redis.asyncio.client import PubSub
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.sentinel import (
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.exceptions import RedisClusterException, RedisError, ResponseError

FAILURES = (RedisError, RedisClusterException, OSError)
"""What Redis and the way to it can raise; a timeout is an `OSError`."""

Command = Sequence[Any]
"""The name of a command, and its arguments."""

TICKS = 10


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


CHECKED: dict[type[AbstractConnection], type[CheckedConnection]] = {
    kind: type(f"Checked{kind.__name__}", (CheckedConnection, kind), {})
    for kind in (
        Connection,
        SSLConnection,
        UnixDomainSocketConnection,
        SentinelManagedConnection,
        SentinelManagedSSLConnection,
    )
}
"""A checked connection of each kind that redis-py has."""


class Listener:
    """One connection on which a node hears channels.

    ``takes`` tells the channels that belong to it, by the names that they have in Redis.
    """

    def __init__(self, pubsub: PubSub, takes: Callable[[str], bool]) -> None:
        self.takes = takes
        self._pubsub = pubsub

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
