"""The publisher: sends the messages of this node to Redis, many in one round trip."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client import Counter

from ..backplane import Channel, Envelope
from ..errors import Unavailable
from .client import RedisClient
from .connections import Command, explain
from .worker import Worker

log = structlog.stdlib.get_logger(__name__)

BATCH_BYTES = 262_144
"""Size of a batch; one failure loses no more than this."""

Publish = Callable[[Channel, Sequence[bytes]], Command]
"""Returns the command that publishes payloads to a channel, in this order."""


@dataclass(frozen=True, slots=True, eq=False)
class Outgoing:
    """A message that waits to be published, and the future of its publication."""

    publish: Publish
    channel: Channel
    payload: bytes
    is_numbered: bool
    taken: asyncio.Future[Any]


class RedisPublisher:
    """Publishes in order, one round trip at a time. Messages that wait share the next one."""

    def __init__(self, client: RedisClient, *, max_waiting_bytes: int, failures: Counter) -> None:
        self._client = client
        self._failures = failures
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting = Worker(self._publish, batch_weight=BATCH_BYTES)
        self.run = self._waiting.run

    def publish(
        self, publish: Publish, channel: Channel, envelope: Envelope, *, is_numbered: bool = False
    ) -> asyncio.Future[Any]:
        """Queue an envelope; the future fails at once if too many bytes wait.

        If the command numbers messages, it replies with the number of the last one, and the future
        yields the number of this one.
        """
        taken: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        message = Outgoing(publish, channel, envelope.encode(), is_numbered, taken)
        size_bytes = len(message.payload)
        if self._waiting.weight + size_bytes > self._max_waiting_bytes:
            self._fail([message])
        else:
            self._waiting.add(message, size_bytes)
        return taken

    async def _publish(self, batch: list[Outgoing]) -> Collection[Outgoing]:
        groups: defaultdict[tuple[Publish, Channel], list[Outgoing]] = defaultdict(list)
        for message in batch:
            groups[message.publish, message.channel].append(message)
        try:
            commands = []
            for (publish, channel), group in groups.items():
                commands.append(publish(channel, [message.payload for message in group]))
            replies = await self._client.send(commands)
        except Exception as failure:
            log.warning("publishing failed", error=explain(failure))
            while self._waiting:  # they would only wait as long again
                self._fail(self._waiting.take_batch())
        else:
            for group, reply in zip(groups.values(), replies, strict=True):
                self._finish(group, reply)
        finally:
            self._fail(batch)
        return ()

    def _finish(self, group: Sequence[Outgoing], reply: Any) -> None:
        """Set the futures of messages that one command has published."""
        if isinstance(reply, Exception):
            log.warning("publishing failed", error=explain(reply))
            return
        for number, message in enumerate(group, int(reply) - len(group) + 1):
            if not message.taken.done():
                message.taken.set_result(number if message.is_numbered else None)

    def _fail(self, messages: Sequence[Outgoing]) -> None:
        """Fail the futures of messages that were not published, or may not have been."""
        for message in messages:
            if not message.taken.done():
                self._failures.inc()
                message.taken.set_exception(Unavailable("messages cannot be passed on just now"))
