"""The publisher: sends the messages of this node to Redis, many in one round trip."""

import asyncio
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from time import monotonic
from typing import Any

import structlog

from ..backplane import Channel, Envelope
from ..errors import Unavailable
from ..metrics import Metrics
from ..settings.settings import RealtimeSettings
from ..tracing import current_trace
from ..wire.frame import check_frame_size
from .client import RedisClient
from .connections import RedisCommand, explain
from .envelopes import encode
from .scripts import with_text
from .worker import Worker

log = structlog.stdlib.get_logger(__name__)

DURATIONS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

BATCH_BYTES = 262_144
"""Size of a batch, which is sent in one round trip. If that fails, all waiting messages fail."""

FRAME_BYTES = 512
"""Upper bound of a frame's bytes besides the payload: the header, the type and the target."""

MakeCommand = Callable[[Channel, Sequence[bytes]], RedisCommand]
"""Returns the command that publishes payloads to a channel, in this order."""

ReadReply = Callable[[Any, int], Iterable[Any]]
"""Takes the reply to such a command, and its number of messages; returns the result of each."""


@dataclass(frozen=True, slots=True, eq=False)
class Outgoing:
    """A message that waits to be published, and the future of its publication.

    Successive messages to a channel with the same ``batch_key`` share a command, unless it is None.
    """

    make_command: MakeCommand
    batch_key: Hashable
    channel: Channel
    payload: bytes
    read_reply: ReadReply
    published: asyncio.Future[Any]


class RedisPublisher:
    """Publishes in order, one round trip at a time. Messages that wait share the next one."""

    def __init__(self, client: RedisClient, settings: RealtimeSettings, metrics: Metrics) -> None:
        self._client = client
        self._max_waiting_bytes = settings.redis_max_waiting_bytes
        self._max_payload_bytes = settings.max_unsent_bytes - FRAME_BYTES
        self.is_traced = False
        """Whether messages carry the trace context of the span that has caused them."""
        self._has_ended = self._is_full = False
        self._waiting = Worker(self._publish, batch_weight=BATCH_BYTES)
        self._failures = metrics.counter(
            "redis_publish_failures", "Messages that could not be published to Redis."
        )
        self._durations = metrics.histogram(
            "redis_publish_duration_seconds",
            "How long Redis took for the messages of one round trip.",
            DURATIONS_S,
        )
        metrics.watch(
            "redis_waiting_bytes", "Bytes that wait for Redis.", lambda: self._waiting.weight
        )

    async def run(self) -> None:
        """Publish until cancelled; then fail queued and later messages."""
        self._has_ended = False
        try:
            await self._waiting.run()
        finally:
            self._has_ended = True
            self._fail_waiting()

    def publish(
        self,
        make_command: MakeCommand,
        channel: Channel,
        envelope: Envelope,
        read_reply: ReadReply = repeat,
        batch_key: Hashable = None,
    ) -> asyncio.Future[Any]:
        """Queue an envelope; the future fails at once if too many bytes wait, or `run` has ended.

        It yields this message's result from ``read_reply``, by default the reply to the command.

        Raises:
            TooLarge: its frame may be larger than ``MAX_UNSENT_BYTES``.
        """
        published: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.is_traced:
            envelope.trace = current_trace()
        payload = encode(envelope)
        check_frame_size(payload, self._max_payload_bytes)
        size_bytes = len(payload)
        message = Outgoing(make_command, batch_key, channel, payload, read_reply, published)
        waiting_bytes = self._waiting.weight  # one message of any size may wait
        if self._has_ended:
            self._fail([message])
        elif waiting_bytes and waiting_bytes + size_bytes > self._max_waiting_bytes:
            if not self._is_full:  # log once until the next batch is sent
                log.warning("publishing failed", error="too many bytes wait for Redis")
            self._is_full = True
            self._fail([message])
        else:
            self._waiting.add(message, size_bytes)
        return published

    async def _publish(self, batch: list[Outgoing]) -> None:
        self._is_full = False
        try:
            grouped = _grouped(batch)
            begin = monotonic()
            replies = await self._client.send([command for command, _ in grouped])
            self._durations.observe(monotonic() - begin)
            for (_, group), reply in zip(grouped, replies, strict=True):
                self._finish(group, reply)
        except Exception as failure:
            log.warning("publishing failed", error=explain(failure))
            self._fail_waiting()  # they would only wait for the same timeout
        finally:
            self._fail(batch)

    def _finish(self, group: Sequence[Outgoing], reply: Any) -> None:
        """Set the futures of messages that one command has published."""
        if isinstance(reply, Exception):
            log.warning("publishing failed", error=explain(reply))
            return
        results = group[0].read_reply(reply, len(group))
        for message, result in zip(group, results, strict=True):
            if not message.published.done():
                message.published.set_result(result)

    def _fail_waiting(self) -> None:
        while self._waiting:
            self._fail(self._waiting.take_batch())

    def _fail(self, messages: Sequence[Outgoing]) -> None:
        """Fail the futures of messages that were not published, or may not have been."""
        for message in messages:
            if not message.published.done():
                self._failures.inc()
                failure = Unavailable("messages cannot be passed on just now")
                message.published.set_exception(failure)


def _grouped(batch: Sequence[Outgoing]) -> list[tuple[RedisCommand, list[Outgoing]]]:
    """Return commands, each with its messages; those of a channel stay in order.

    If Redis does not know a script, its command is sent again after all others. To keep the order
    of a channel, only its last command may be sent again: the others have the script's text.
    """
    groups: list[list[Outgoing]] = []
    last: dict[Channel, list[Outgoing]] = {}
    for message in batch:
        group = last.get(message.channel)
        key = message.batch_key
        if group is None or key is None or group[0].batch_key != key:
            group = last[message.channel] = []
            groups.append(group)
        group.append(message)
    grouped = []
    for group in groups:
        first = group[0]
        command = first.make_command(first.channel, [message.payload for message in group])
        is_last = last[first.channel] is group
        grouped.append((command if is_last else with_text(command), group))
    return grouped
