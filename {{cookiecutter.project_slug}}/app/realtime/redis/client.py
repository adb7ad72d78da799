"""The service's client of Redis: sends commands, and names channels and keys."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

import structlog
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import NoScriptError, ResponseError

from ..backplane import Channel
from ..errors import Unavailable
from ..settings.settings import RealtimeSettings
from .connections import FAILURES, PubSub, RedisCommand, answered_within, explain
from .scripts import with_text

log = structlog.stdlib.get_logger(__name__)

ProbeCommands = Callable[[Channel], Sequence[RedisCommand]]
"""Returns one of each command that a part uses, with keys of a channel that nobody uses."""

OwnsChannel = Callable[[str], bool]
"""Returns whether the channel with this name belongs to a connection."""

# {% if cookiecutter.rooms %}
RESERVED = 4
"""Connections for one purpose each: listening, publishing, probing, writing in the background."""
# {% else %}
RESERVED = 3
"""Connections for one purpose each: listening, publishing, probing."""
# {% endif %}

NOT_ANSWERING = "Redis does not answer just now"


class RedisClient(ABC):
    """Sends commands over a bounded pool of connections, and names channels and keys."""

    is_sharded: ClassVar[bool] = False
    """Whether each channel belongs to one shard of a cluster (SPUBLISH, Redis 7.0)."""

    def __init__(self, redis: Redis | RedisCluster, settings: RealtimeSettings) -> None:
        self.redis = redis
        self.prefix = settings.redis_prefix
        self.timeout_s = settings.redis_timeout_s
        self._handler_timeout_s = settings.handler_timeout_s
        self.publish_command = "SPUBLISH" if self.is_sharded else "PUBLISH"
        self.count_command = "SHARDNUMSUB" if self.is_sharded else "NUMSUB"
        # Databases have separate keys but share all channels, so channel names contain the number.
        self._channel_prefix = f"{settings.redis_prefix}{settings.redis_database}:"
        self._max_turns = settings.redis_max_connections - RESERVED
        self.detach()
        self.check_thread: Callable[[], None] = lambda: None
        """`ask` calls it to refuse calls from other threads; the backplane sets it."""
        self._outages = 0
        self._is_failing = False
        self._probes: list[ProbeCommands] = []

    def detach(self) -> None:
        """Forget the event loop, since the application may run again in another one.

        asyncio binds a lock to the event loop in which it is used.
        """
        self._turns = asyncio.Semaphore(self._max_turns)
        # {% if cookiecutter.rooms %}
        self._background = asyncio.Lock()
        # {% endif %}

    def name(self, channel: Channel) -> str:
        """Return the name of a channel in Redis."""
        return self._channel_prefix + "{" + channel + "}"

    def channel(self, name: bytes) -> Channel:
        """Return the channel with this name in Redis."""
        return Channel(name.decode().removeprefix(self._channel_prefix)[1:-1])

    def key(self, channel: Channel, what: str) -> str:
        """Return a key of a channel; in a cluster, it is in the channel's slot."""
        return self.prefix + "{" + channel + "}:" + what

    async def send(self, commands: Sequence[RedisCommand]) -> list[Any]:
        """Send commands in one round trip; return the replies, with refusals as exceptions.

        A script that the server does not know yet runs after the other commands.

        Raises:
            RedisError, OSError: Redis does not answer in time.
        """
        async with answered_within(self.timeout_s):
            replies: list[Any] = await self._pipeline(commands).execute(raise_on_error=False)
            # A new server does not know the scripts, nor does one after SCRIPT FLUSH.
            if NoScriptError in map(type, replies):
                unknown = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
                scripts = self._pipeline([with_text(commands[n]) for n in unknown])
                again = await scripts.execute(raise_on_error=False)
                for number, reply in zip(unknown, again, strict=True):
                    replies[number] = reply
            return replies

    # {% if cookiecutter.rooms %}
    async def send_in_background(self, commands: Sequence[RedisCommand]) -> list[Any]:
        """Send commands like `send`, on the one connection for writing in the background.

        Raises:
            RedisError, OSError: Redis does not answer all of them in time.
        """
        async with self._background:
            replies = await self.send(commands)
        for reply in replies:  # a cluster's client returns the failure of a connection as a reply
            if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
                raise reply
        return replies

    # {% endif %}
    def _pipeline(self, commands: Sequence[RedisCommand]) -> Any:
        pipeline = self.redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return pipeline

    async def ask(self, *command: Any, repeatable: bool) -> Any:
        """Send one command and return the reply. It waits for a free connection first.

        This wait is limited by ``HANDLER_TIMEOUT_S``. When Redis stops answering, all waiting
        commands fail at once. If the connection fails, a repeatable command is sent once more; any
        other might then be executed twice.

        Raises:
            Unavailable: Redis does not answer in time, or refuses the command.
            WrongThread: this is another thread than the service's.
        """
        self.check_thread()
        outages = self._outages
        try:
            async with asyncio.timeout(self._handler_timeout_s) as waiting, self._turns:
                waiting.reschedule(None)
                if self._outages != outages:
                    raise Unavailable(NOT_ANSWERING)
                return await self._ask(command, repeatable=repeatable)
        except TimeoutError as late:
            raise Unavailable(NOT_ANSWERING) from late

    async def _ask(self, command: RedisCommand, *, repeatable: bool) -> Any:
        try:
            (reply,) = await self._execute([command], repeatable=repeatable)
        except FAILURES as failure:
            # One broken connection does not mean that Redis is down.
            is_refusal = isinstance(failure, ResponseError)
            if not is_refusal and (repeatable or isinstance(failure, TimeoutError)):
                self._outages += 1
            if not self._is_failing:  # one line per outage
                log.warning("redis command failed", error=explain(failure))
            self._is_failing = True
            raise Unavailable(NOT_ANSWERING) from failure
        self._is_failing = False
        return reply

    async def _execute(self, commands: Sequence[RedisCommand], *, repeatable: bool) -> list[Any]:
        """Return the replies, or raise the first failure.

        If the connection fails, repeatable commands are sent once more.
        """
        try:
            replies = await self.send(commands)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        except FAILURES as failure:
            if isinstance(failure, ResponseError) or not repeatable:
                raise
            return await self._execute(commands, repeatable=False)
        return replies

    def add_probe(self, probe: ProbeCommands) -> None:
        """Add the commands of a part to those that `probe` tries."""
        self._probes.append(probe)

    async def probe(self, channel: Channel) -> None:
        """Try all commands of the service on the server that has a channel.

        Raises:
            RedisError, OSError: the first failure.
        """
        commands = [command for probe in self._probes for command in probe(channel)]
        await self._execute(commands, repeatable=True)

    @abstractmethod
    def open_pubsubs(self) -> AbstractAsyncContextManager[list[tuple[PubSub, OwnsChannel]]]:
        """Open connections to listen on. Each channel belongs to exactly one of them.

        Raises:
            Misconfigured: the settings name another kind of server.
        """

    @abstractmethod
    async def reconnect(self) -> None:
        """Replace every connection before its next use: it may lead to the wrong server."""

    async def aclose(self) -> None:
        """Disconnect."""
        await self.redis.aclose()
