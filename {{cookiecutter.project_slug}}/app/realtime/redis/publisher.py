"""What this node sends to the others: all that waits at one moment travels to Redis together."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from prometheus_client import Counter

from ..backplane import Channel, Envelope
from ..errors import Unavailable
from .client import Batch, RedisClient, answered_within, explain

log = structlog.stdlib.get_logger(__name__)

SEPARATOR = b"\n"
"""Stands between the envelopes of one publication; JSON has none inside."""

BATCH_BYTES = 262_144
"""How much travels in one go, so that one failure takes no more with it."""


class Publish(Protocol):
    """How one channel's messages are published."""

    def send(self, pipeline: Batch, channel: Channel, payloads: Sequence[bytes]) -> None:
        """Add the one command that publishes them, in order."""

    def results(self, reply: Any, count: int) -> Sequence[int | None]:
        """Return what each of so many publishers is told, out of Redis' reply."""
        ...


class PlainPublish:
    """Publishes and keeps nothing."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def send(self, pipeline: Batch, channel: Channel, payloads: Sequence[bytes]) -> None:
        """Publish all in one."""
        name = self._client.name(channel)
        pipeline.execute_command(self._client.publish_command, name, SEPARATOR.join(payloads))

    def results(self, reply: Any, count: int) -> Sequence[int | None]:
        """Tell nothing."""
        return [None] * count


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that waits to be published, and the future of whoever waits for that."""

    publish: Publish
    channel: Channel
    payload: bytes
    taken: asyncio.Future[Any]

    def succeed(self, result: int | None) -> None:
        """Tell the one who waits, if it still does."""
        if not self.taken.done():
            self.taken.set_result(result)

    def fail(self) -> None:
        """Tell the one who waits and does not know yet."""
        self.taken.set_exception(Unavailable("messages cannot be passed on just now"))


class RedisPublisher:
    """Publishes in order, one round trip at a time; what comes meanwhile shares the next one."""

    def __init__(self, client: RedisClient, *, max_waiting_bytes: int, failures: Counter) -> None:
        self._client = client
        self._failures = failures
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: deque[Outgoing] = deque()
        self._waiting_bytes = 0
        self._has_waiting = asyncio.Event()

    def publish(
        self, publish: Publish, channel: Channel, envelope: Envelope
    ) -> asyncio.Future[Any]:
        """Queue an envelope, or fail at once when too much waits already."""
        taken: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        message = Outgoing(publish, channel, envelope.encode(), taken)
        size_bytes = self._waiting_bytes + len(message.payload)
        if size_bytes > self._max_waiting_bytes:
            self._fail([message])
        else:
            self._waiting.append(message)
            self._waiting_bytes = size_bytes
            self._has_waiting.set()
        return taken

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            await self._has_waiting.wait()
            batch = self._next_batch()
            try:
                async with answered_within(self._client.timeout_s):
                    await self._send(batch)
            except Exception as failure:
                log.warning("publishing failed", error=explain(failure))
                while self._waiting:  # which would only wait as long again
                    self._fail(self._next_batch())
            finally:
                self._fail(batch)

    def _fail(self, batch: list[Outgoing]) -> None:
        for message in batch:
            if not message.taken.done():
                self._failures.inc()
                message.fail()

    def _next_batch(self) -> list[Outgoing]:
        batch = []
        size_bytes = 0
        while self._waiting and size_bytes < BATCH_BYTES:
            message = self._waiting.popleft()
            batch.append(message)
            size_bytes += len(message.payload)
        self._waiting_bytes -= size_bytes
        if not self._waiting:
            self._has_waiting.clear()
        return batch

    async def _send(self, batch: list[Outgoing]) -> None:
        together: defaultdict[tuple[Publish, Channel], list[Outgoing]] = defaultdict(list)
        for message in batch:
            together[message.publish, message.channel].append(message)
        pipeline = self._client.commands.pipeline(transaction=False)
        for (publish, channel), messages in together.items():
            publish.send(pipeline, channel, [message.payload for message in messages])
        replies = await pipeline.execute(raise_on_error=False)
        for ((publish, _), messages), reply in zip(together.items(), replies, strict=True):
            if isinstance(reply, Exception):
                log.warning("publishing failed", error=explain(reply))
                self._fail(messages)
            else:
                results = publish.results(reply, len(messages))
                for message, result in zip(messages, results, strict=True):
                    message.succeed(result)
