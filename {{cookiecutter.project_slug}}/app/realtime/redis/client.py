"""What the service asks Redis or Valkey with."""

from abc import ABC, abstractmethod
from asyncio import Semaphore
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

import structlog
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import ResponseError

from ..backplane import Channel
from ..errors import Unavailable
from ..settings.settings import RealtimeSettings
from .connections import FAILURES, Command, Listener, answered_within, explain
# {% if cookiecutter.rooms %}
from .rooms.scripts import execute_scripts
# {% endif %}

log = structlog.stdlib.get_logger(__name__)

Attempt = Callable[[Channel], Sequence[Command]]
"""Returns the commands that a part needs, for the keys of a channel not in use."""

RESERVED = 4
"""Connections of one use each: to listen, to publish, to probe, to write in the background."""

NOT_ANSWERING = "Redis does not answer just now"


class RedisClient(ABC):
    """What the service asks Redis with, how it listens, and how it calls its channels and keys."""

    publish_command: ClassVar[str]

    def __init__(self, commands: Redis | RedisCluster, settings: RealtimeSettings) -> None:
        self.commands = commands
        self.prefix = settings.redis_prefix
        self.timeout_s = settings.redis_timeout_s
        # Databases have keys of their own, but all channels in common.
        self._channel_prefix = f"{settings.redis_prefix}{settings.redis_database}:"
        self._turns = Semaphore(settings.redis_max_connections - RESERVED)
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

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one round trip; return the replies, exceptions where Redis refuses.

        Raises:
            RedisError, OSError: Redis does not answer in time.

        """
        async with answered_within(self.timeout_s):
            # {% if cookiecutter.rooms %}
            return await execute_scripts(self._execute, commands)
            # {% else %}
            return await self._execute(commands)
            # {% endif %}

    async def _execute(self, commands: Sequence[Command]) -> list[Any]:
        pipeline = self.commands.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)

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
                (reply,) = await self._insist([command], repeatable=repeatable)
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

    async def _insist(self, commands: Sequence[Command], *, repeatable: bool) -> list[Any]:
        """Send commands that must succeed.

        Raises:
            RedisError, OSError: the first failure.

        """
        try:
            replies = await self.send(commands)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        except FAILURES as failure:
            if isinstance(failure, ResponseError) or not repeatable:
                raise
            return await self._insist(commands, repeatable=False)
        return replies

    def probe_with(self, attempt: Attempt) -> None:
        """Have a part's commands tried, see `probe`."""
        self._attempts.append(attempt)

    async def probe(self, channel: Channel) -> None:
        """Try what the service needs of the server that has a channel.

        Raises:
            RedisError, OSError: the first failure.

        """
        commands = [command for attempt in self._attempts for command in attempt(channel)]
        await self._insist(commands, repeatable=True)

    @abstractmethod
    def listeners(self) -> AbstractAsyncContextManager[list[Listener]]:
        """Connect anew, and yield listeners; each channel belongs to exactly one of them.

        Raises:
            Misconfigured: the server is not of the kind that the settings tell.

        """

    @abstractmethod
    async def reconnect(self) -> None:
        """Replace every connection before its next use: it may lead to the wrong server."""

    async def aclose(self) -> None:
        """Disconnect."""
        await self.commands.aclose()
