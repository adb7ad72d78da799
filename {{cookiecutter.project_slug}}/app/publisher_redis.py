"""What this node sends to the others: all that waits at one moment travels to Redis together."""

import asyncio
from collections import defaultdict, deque
from dataclasses import dataclass

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from .backplane import Channel, Envelope
from .errors import Unavailable

log = structlog.stdlib.get_logger(__name__)

FAILURES = (RedisError, OSError)
"""What Redis and the way to it can raise; a timeout is an `OSError`."""

SEPARATOR = b"\n"
"""Stands between the envelopes of one publication; JSON has none inside."""

BATCH_BYTES = 262_144
"""How much travels in one go, so that one failure takes no more with it."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that waits to be published, and the future of whoever waits for that."""

    channel: Channel
    payload: bytes
    taken: asyncio.Future[None]

    def settle(self, *, failed: bool) -> None:
        """Tell the one who waits, if it still does."""
        if self.taken.done():
            return
        if failed:
            self.taken.set_exception(Unavailable("messages cannot be passed on just now"))
        else:
            self.taken.set_result(None)


class RedisPublisher:
    """Publishes in order, one round trip at a time; what comes meanwhile shares the next one."""

    def __init__(
        self, redis: Redis, *, prefix: str, timeout_s: float, max_waiting_bytes: int
    ) -> None:
        self._redis = redis
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: deque[Outgoing] = deque()
        self._waiting_bytes = 0
        self._has_waiting = asyncio.Event()

    def publish(self, channel: Channel, envelope: Envelope) -> asyncio.Future[None]:
        """Queue an envelope, or fail at once when too much waits already."""
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        message = Outgoing(channel, envelope.encode(), taken)
        size_bytes = self._waiting_bytes + len(message.payload)
        if size_bytes > self._max_waiting_bytes:
            message.settle(failed=True)
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
                async with asyncio.timeout(self._timeout_s):
                    await self._send(batch)
            except Exception as failure:
                log.warning("publishing failed", error=repr(failure))
                while self._waiting:  # which would only wait as long again
                    self._fail(self._next_batch())
            finally:
                self._fail(batch)

    def _fail(self, batch: list[Outgoing]) -> None:
        # Those that are settled already take no notice.
        for message in batch:
            message.settle(failed=True)

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
        channels: defaultdict[Channel, list[Outgoing]] = defaultdict(list)
        for message in batch:
            channels[message.channel].append(message)
        pipeline = self._redis.pipeline(transaction=False)
        for channel, messages in channels.items():
            payload = SEPARATOR.join(message.payload for message in messages)
            pipeline.publish(self._prefix + channel, payload)
        results = await pipeline.execute(raise_on_error=False)
        for messages, result in zip(channels.values(), results, strict=True):
            for message in messages:
                message.settle(failed=isinstance(result, Exception))
