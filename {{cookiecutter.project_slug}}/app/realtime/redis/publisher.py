"""What this node sends to the others: all that waits at one moment travels to Redis together."""

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
"""How much travels in one go, so that one failure takes no more with it."""

Publish = Callable[[Channel, Sequence[bytes]], Command]
"""Returns the one command that publishes a channel's payloads, in order."""


@dataclass(frozen=True, slots=True, eq=False)
class Outgoing:
    """A message that waits to be published, and the future of whoever waits for that."""

    publish: Publish
    channel: Channel
    payload: bytes
    is_numbered: bool
    taken: asyncio.Future[Any]


class RedisPublisher:
    """Publishes in order, one round trip at a time; what comes meanwhile shares the next one."""

    def __init__(self, client: RedisClient, *, max_waiting_bytes: int, failures: Counter) -> None:
        self._client = client
        self._failures = failures
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting = Worker(self._publish, batch_weight=BATCH_BYTES)
        self.run = self._waiting.run

    def publish(
        self, publish: Publish, channel: Channel, envelope: Envelope, *, is_numbered: bool = False
    ) -> asyncio.Future[Any]:
        """Queue an envelope, or fail at once when too much waits already.

        If the command numbers messages, its reply is the number of the last one, and the future
        yields the message's own.
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
        try:
            await self._send(batch)
        except Exception as failure:
            log.warning("publishing failed", error=explain(failure))
            while self._waiting:  # which would only wait as long again
                self._fail(self._waiting.take_batch())
        finally:
            self._fail(batch)
        return ()

    def _fail(self, messages: Sequence[Outgoing]) -> None:
        """Fail those that are not published, or not known to be."""
        for message in messages:
            if not message.taken.done():
                self._failures.inc()
                message.taken.set_exception(Unavailable("messages cannot be passed on just now"))

    async def _send(self, batch: Sequence[Outgoing]) -> None:
        together: defaultdict[tuple[Publish, Channel], list[Outgoing]] = defaultdict(list)
        for message in batch:
            together[message.publish, message.channel].append(message)
        replies = await self._client.send(
            [
                publish(channel, [message.payload for message in messages])
                for (publish, channel), messages in together.items()
            ]
        )
        for messages, reply in zip(together.values(), replies, strict=True):
            if isinstance(reply, Exception):
                log.warning("publishing failed", error=explain(reply))
                self._fail(messages)
                continue
            for number, message in enumerate(messages, int(reply) - len(messages) + 1):
                if not message.taken.done():
                    message.taken.set_result(number if message.is_numbered else None)
