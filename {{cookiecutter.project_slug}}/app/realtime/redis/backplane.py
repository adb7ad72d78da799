"""Redis or Valkey between the nodes: a node subscribes only to what it hosts.

What a node hosts is a plain dict. A subscriber makes the subscriptions in Redis equal to it, so it
does not matter how many joins and leaves come together, or in which order. When its connection is
lost, the next one subscribes to everything afresh, and whoever has to know is told: what was
published in between is lost.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import structlog
from pydantic import ValidationError

from ..backplane import Backplane, Channel, Envelope, OnGap, Subscription
from ..connections.delivery import Delivery
from ..errors import Misconfigured, Unavailable
from ..metrics import Metrics
from ..protocol import ServerFrame
from ..settings.settings import RealtimeSettings
from .client import RedisClient
from .connections import FAILURES, Command, answered_within, explain
from .publisher import RedisPublisher
from .refusals import misconfigured
from .subscriber import Subscriber

log = structlog.stdlib.get_logger(__name__)

FIRST_PAUSE_S = 0.2
NOT_CONFIRMED = "the subscription is not confirmed just now"

SEPARATOR = b"\n"
"""Stands between the envelopes of one publication; JSON has none inside."""


@dataclass(slots=True, kw_only=True)
class Resync(ServerFrame):
    """Messages may have been lost: everywhere, or in one room."""

    type: Literal["resync"] = "resync"
    room: str | None = None


class RedisBackplane(Backplane):
    """Delivers by way of Redis, to this node as to the others."""

    def __init__(
        self,
        client: RedisClient,
        settings: RealtimeSettings,
        metrics: Metrics,
        delivery: Delivery,
    ) -> None:
        super().__init__()
        self.client = client
        self.timeout_s = settings.redis_timeout_s
        self.publisher = RedisPublisher(
            client,
            max_waiting_bytes=settings.redis_max_waiting_bytes,
            failures=metrics.counter("redis_publish_failures", "Messages Redis did not take."),
        )
        self.name, self.key = client.name, client.key
        self._retry_max_s = settings.redis_retry_max_s
        self._gap_listeners: list[OnGap] = []
        self._awaited: defaultdict[Channel, asyncio.Event] = defaultdict(asyncio.Event)
        self._confirmations = 0
        self._gap = False
        self._was_healthy = False
        self._new_subscriber = partial(Subscriber, self, settings, delivery)
        self._subscriber = self._new_subscriber()
        client.probe_with(lambda channel: [self.plain(channel, [b""])])
        self._gaps = metrics.counter("redis_gaps", "Times that messages may have been lost.")
        self._warned_of_malformed = False
        self._malformed = metrics.counter("redis_malformed", "Messages that were none, dropped.")
        metrics.watch("redis_up", "Whether messages flow through Redis.", lambda: self.healthy)

    @property
    def healthy(self) -> bool:
        """Whether messages flow just now."""
        return self._subscriber.healthy

    async def run(self) -> None:
        """Publish and listen until cancelled.

        Raises:
            ExceptionGroup: the server refuses this service from the start (`Misconfigured`).

        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.publisher.run())
                tasks.create_task(self._supervise())
        finally:
            self._subscriber = self._new_subscriber()
            await self.client.aclose()

    def after_gap(self, listener: OnGap) -> None:
        """Have a listener called whenever Redis is back and messages may have been lost."""
        self._gap_listeners.append(listener)

    def publish(self, channel: Channel, envelope: Envelope) -> asyncio.Future[Any]:
        """Hand the envelope to Redis."""
        return self.publisher.publish(self.plain, channel, envelope)

    def plain(self, channel: Channel, payloads: Sequence[bytes]) -> Command:
        """Return the command that publishes and keeps nothing."""
        return self.client.publish_command, self.name(channel), SEPARATOR.join(payloads)

    def subscribe(self, subscription: Subscription) -> Subscription:
        """Host a channel."""
        super().subscribe(subscription)
        self._subscriber.note_change(subscription.channel)
        return subscription

    async def confirm(self, subscription: Subscription) -> None:
        """Wait until Redis has confirmed the subscription.

        Raises:
            Unavailable: Redis has confirmed nothing for too long.

        """
        while not subscription.confirmed:
            confirmations = self._confirmations
            try:
                async with answered_within(self.timeout_s):
                    await self._awaited[subscription.channel].wait()
            except TimeoutError:
                # Those of many others may come first.
                if self._confirmations == confirmations:
                    raise Unavailable(NOT_CONFIRMED) from None

    def unsubscribe(self, subscription: Subscription) -> bool:
        """Host the channel no more."""
        if not super().unsubscribe(subscription):
            return False
        self._awaited.pop(subscription.channel, None)
        self._subscriber.note_change(subscription.channel)
        return True

    async def _supervise(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                # A task of its own: before Python 3.11.3, timeouts misbehave in one whose group has
                # failed (python/cpython#102815).
                run = self._subscriber.run(worked_before=self._was_healthy)
                await asyncio.create_task(run)
            except* (*FAILURES, Misconfigured) as group:
                failure = group.exceptions[0]
                if not self._was_healthy and (reason := misconfigured(failure)):
                    raise reason from failure
                log.warning("redis lost", error=explain(failure))
            except* Exception:
                log.exception("redis subscriber failed")
            pause_s = FIRST_PAUSE_S if self.healthy else min(2 * pause_s, self._retry_max_s)
            self._lose()
            await self.client.reconnect()
            # Jittered, so that the nodes do not return all at once.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))

    def _lose(self) -> None:
        self._subscriber = self._new_subscriber()
        self._gap = True
        for subscription in self.hosted.values():
            subscription.confirmed = False

    def note_confirmed(self, channel: Channel) -> None:
        """Let those go on who wait; after a gap, have looked for what was missed."""
        self._confirmations += 1
        if subscription := self.hosted.get(channel):
            subscription.confirmed = True
            if self._gap and subscription.on_gap is not None:
                subscription.on_gap()
        if awaited := self._awaited.pop(channel, None):
            awaited.set()

    def note_healthy(self) -> None:
        """Tell whoever has to know, now that messages flow again."""
        self._was_healthy = True
        log.info("redis connected", channels=len(self.hosted))
        if self._gap:
            self._gap = False
            self._gaps.inc()
            for listener in self._gap_listeners:
                listener()

    def deliver(self, channel: Channel, publication: bytes) -> None:
        """Deliver the envelopes of one publication."""
        subscription = self.hosted.get(channel)
        if subscription is None:
            return
        for payload in publication.split(SEPARATOR):
            try:
                subscription.deliver(subscription.kind.decode(payload))
            except ValidationError:
                # Whoever can reach Redis can write there; nothing is believed unchecked.
                if not self._warned_of_malformed:  # the rest is only counted
                    self._warned_of_malformed = True
                    log.warning("malformed envelope dropped", channel=channel, size=len(payload))
                self._malformed.inc()
