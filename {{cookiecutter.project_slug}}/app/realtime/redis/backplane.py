"""The backplane in Redis or Valkey: a node subscribes only to the channels that it hosts.

`hosted` has the subscriptions that the node wants. Listeners make those in Redis match, so neither
the number nor the order of joins and leaves matters. After a lost connection, a new one subscribes
to all channels again, and gap handlers are called: messages published in between are lost.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Literal

import structlog
from pydantic import ValidationError
from redis.exceptions import ResponseError

from ..backplane import Backplane, Channel, Envelope, OnGap, Subscription
from ..connections.delivery import Delivery
from ..errors import Misconfigured, TooLarge, Unavailable
from ..idempotency import REMEMBERED_S
from ..metrics import Metrics
from ..protocol import ServerFrame
from ..settings.settings import RealtimeSettings
from ..tracing import delivering, is_on
from .client import RedisClient
from .connections import (
    FAILURES,
    RedisCommand,
    answered_within,
    as_misconfigured,
    explain,
    is_temporary,
)
from .envelopes import decode
from .listener import Listener
from .publisher import RedisPublisher
from .scripts import Script

log = structlog.stdlib.get_logger(__name__)

PUBLISH_ONCE = Script("publish_once")

FIRST_PAUSE_S = 0.2
NOT_CONFIRMED = "the subscription is not confirmed just now"

SEPARATOR = b"\n"
"""Separates the envelopes of one publication; JSON without spaces does not contain it."""


@dataclass(slots=True, kw_only=True)
class Resync(ServerFrame):
    """Messages may have been lost: everywhere, or in one room."""

    type: Literal["resync"] = "resync"
    room: str | None = None


class RedisBackplane(Backplane):
    """Delivers through Redis to all nodes, this one included.

    ==================  ===============================  =========================================
    flag                set when                         cleared when
    ==================  ===============================  =========================================
    ``_is_subscribed``  all subscriptions are confirmed  the connection is lost
    ``_works``          a probe succeeds                 Redis refuses one, the connection is lost
    ``refusal``         Redis refuses a probe            a probe succeeds
    ``_was_healthy``    first subscribed and working     never
    ``_has_gap``        the connection is lost           subscribed and working again
    ``_has_warned``     a malformed envelope is dropped  never
    ==================  ===============================  =========================================
    """

    def __init__(
        self,
        client: RedisClient,
        settings: RealtimeSettings,
        metrics: Metrics,
        delivery: Delivery,
    ) -> None:
        super().__init__()
        self.client = client
        self.publisher = RedisPublisher(client, settings, metrics)
        self._settings = settings
        self._delivery = delivery
        self._listeners: list[Listener] = []
        self._gap_handlers: list[OnGap] = []
        self._awaited: defaultdict[Channel, asyncio.Event] = defaultdict(asyncio.Event)
        self._confirmations = 0
        self.refusal: ResponseError | None = None
        """The error with which Redis refuses to work; None while it works."""
        self._is_subscribed = self._works = False
        self._was_healthy = self._has_gap = self._has_warned = False
        client.check_thread = delivery.check_thread
        client.add_probe(self._probe_commands)
        self._gaps = metrics.counter("redis_gaps", "Times that messages may have been lost.")
        self._reconnections = metrics.counter(
            "redis_reconnections", "Times that Redis was connected again after it was lost."
        )
        self._malformed = metrics.counter("redis_malformed", "Malformed messages dropped.")
        metrics.watch("redis_up", "Whether messages flow through Redis.", lambda: self.healthy)

    @property
    def healthy(self) -> bool:
        """Whether messages flow just now."""
        return self._is_subscribed and self._works

    async def run(self) -> None:
        """Publish and listen until cancelled.

        Raises:
            ExceptionGroup: the server refuses this service from the start (`Misconfigured`).
        """
        self.publisher.is_traced = is_on()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.publisher.run())
                tasks.create_task(self._supervise())
        finally:
            self._note_lost()
            self._awaited.clear()
            try:
                await self.client.aclose()
            finally:
                self.client.detach()

    def after_gap(self, handler: OnGap) -> None:
        """Call a handler when Redis works again after messages may have been lost."""
        self._gap_handlers.append(handler)

    def publish(
        self, channel: Channel, envelope: Envelope, message_id: str | None = None
    ) -> asyncio.Future[int]:
        """Queue the envelope for Redis, which answers with the number of subscribed nodes.

        The answer may get lost after the message was published. So Redis remembers the id for five
        minutes, and answers a repetition like the first message.
        """
        if message_id is None:
            return self.publisher.publish(self._plain_command, channel, envelope, batch_key="plain")
        once = partial(self._once_command, f"published:{message_id}")
        return self.publisher.publish(once, channel, envelope)

    async def count_nodes(self, channel: Channel) -> int:
        """Return how many nodes have subscribed to the channel."""
        # Redis counts this node until it has confirmed the end of the subscription.
        while channel not in self.hosted and any(each.holds(channel) for each in self._listeners):
            await self._wait_for_change(channel)
        _, nodes = await self.client.ask(*self._count_command(channel), repeatable=True)
        return int(nodes)

    def _probe_commands(self, channel: Channel) -> Sequence[RedisCommand]:
        once = self._once_command("published", channel, [b""])
        return self._plain_command(channel, [b""]), once, self._count_command(channel)

    def _count_command(self, channel: Channel) -> RedisCommand:
        return "PUBSUB", self.client.count_command, self.client.name(channel)

    def _plain_command(self, channel: Channel, payloads: Sequence[bytes]) -> RedisCommand:
        """Return the command that publishes payloads and stores nothing."""
        return self.client.publish_command, self.client.name(channel), SEPARATOR.join(payloads)

    def _once_command(self, what: str, channel: Channel, payloads: Sequence[bytes]) -> RedisCommand:
        key = self.client.key(channel, what)
        return PUBLISH_ONCE.command([key], *self._plain_command(channel, payloads), REMEMBERED_S)

    def subscribe(self, subscription: Subscription) -> Subscription:
        """Host a channel."""
        super().subscribe(subscription)
        self._adjust_later(subscription.channel)
        return subscription

    async def confirm(self, subscription: Subscription) -> None:
        """Wait until Redis has confirmed the subscription.

        Raises:
            Unavailable: Redis has confirmed no subscription for too long, or this one has ended.
        """
        while not subscription.is_confirmed:
            if self.hosted.get(subscription.channel) is not subscription:
                raise Unavailable(NOT_CONFIRMED)
            await self._wait_for_change(subscription.channel)

    async def _wait_for_change(self, channel: Channel) -> None:
        """Wait until the subscription to a channel may have changed; the caller checks again.

        Raises:
            Unavailable: Redis has confirmed none for too long.
        """
        confirmations = self._confirmations
        try:
            async with answered_within(self.client.timeout_s):
                await self._awaited[channel].wait()
        except TimeoutError:
            # If Redis has confirmed others meanwhile, this one may only be queued behind them.
            if self._confirmations == confirmations:
                raise Unavailable(NOT_CONFIRMED) from None

    def unsubscribe(self, subscription: Subscription) -> bool:
        """Stop hosting the channel."""
        if not super().unsubscribe(subscription):
            return False
        self._wake(subscription.channel)
        self._adjust_later(subscription.channel)
        return True

    def _adjust_later(self, channel: Channel) -> None:
        for listener in self._listeners:
            if listener.owns(self.client.name(channel)):
                listener.adjust_later(channel)

    async def _supervise(self) -> None:
        """Listen, and reconnect whenever the connection is lost."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                # A task of its own: before Python 3.11.3, timeouts fail in a task whose group has
                # failed (python/cpython#102815).
                await asyncio.create_task(self._listen())
            except* (*FAILURES, Misconfigured) as group:
                failure = group.exceptions[0]
                if not self._was_healthy and (reason := as_misconfigured(failure)):
                    raise reason from failure
                log.warning("redis lost", error=explain(failure))
            except* Exception:
                log.exception("redis listener failed")
            longest_s = self._settings.redis_retry_max_s
            pause_s = FIRST_PAUSE_S if self.healthy else min(2 * pause_s, longest_s)
            self._note_lost()
            await self.client.reconnect()
            # With jitter, so that the nodes do not reconnect all at once.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))

    def _note_lost(self) -> None:
        self._is_subscribed = self._works = False
        self._listeners = []
        self._has_gap = True
        for subscription in self.hosted.values():
            subscription.is_confirmed = False
        for channel in self._awaited.keys() - self.hosted.keys():
            self._wake(channel)

    async def _listen(self) -> None:
        """Connect and listen until the connection is lost.

        Raises:
            RedisError, OSError: it is lost, or the server has become unusable.
            Misconfigured: the settings name another kind of server.
        """
        async with AsyncExitStack() as stack:
            async with answered_within(self.client.timeout_s):
                pubsubs = await stack.enter_async_context(self.client.open_pubsubs())
            self._listeners = [Listener(self, self._delivery, *each) for each in pubsubs]
            for channel in self.hosted:
                self._adjust_later(channel)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            tasks.create_task(self._probe())
            for listener in self._listeners:
                tasks.create_task(listener.subscribe())
                tasks.create_task(listener.read(self._settings.redis_ping_interval_s))

    async def _probe(self) -> None:
        """Check periodically that Redis executes all commands of the service.

        Raises:
            RedisError, OSError: it does not, and waiting does not help.
        """
        while True:
            try:
                for listener in self._listeners:
                    await self.client.probe(listener.unused_channel)
            except ResponseError as refusal:
                may_wait = self._was_healthy or self._works or not as_misconfigured(refusal)
                if not (may_wait and is_temporary(refusal)):
                    raise
                if self.refusal is None:
                    log.warning("redis refuses to work", error=explain(refusal))
                self._works, self.refusal = False, refusal
            else:
                self.refusal = None
                if not self._works:
                    self._works = True
                    self._note_healthy()
            await asyncio.sleep(self._settings.redis_probe_interval_s)

    def note_confirmed(self, subscription: Subscription) -> None:
        """Note that Redis has confirmed a subscription, which may have ended."""
        self._confirmations += 1
        if self.hosted.get(subscription.channel) is not subscription:
            return
        subscription.is_confirmed = True
        if self._has_gap and subscription.on_gap is not None:
            subscription.on_gap()
        self._wake(subscription.channel)

    def note_left(self, channel: Channel) -> None:
        """Note that Redis has confirmed the end of a subscription."""
        self._confirmations += 1
        self._wake(channel)

    def _wake(self, channel: Channel) -> None:
        if awaited := self._awaited.pop(channel, None):
            awaited.set()

    def check_subscribed(self) -> None:
        """Note that messages flow as soon as Redis has confirmed all subscriptions."""
        if not self._is_subscribed and all(each.is_subscribed for each in self._listeners):
            self._is_subscribed = True
            self._note_healthy()

    def _note_healthy(self) -> None:
        if not self.healthy:
            return
        if self._was_healthy and self._has_gap:
            self._reconnections.inc()
        self._was_healthy = True
        log.info("redis connected", channels=len(self.hosted))
        if self._has_gap:
            self._gaps.inc()
            for handler in self._gap_handlers:
                handler()
            self._has_gap = False

    def deliver(self, channel: Channel, publication: bytes) -> None:
        """Deliver the envelopes of one publication, and drop those that are not valid."""
        subscription = self.hosted.get(channel)
        if subscription is None:
            return
        for payload in publication.split(SEPARATOR):
            try:
                envelope = decode(channel, payload)
                if envelope.trace is None:
                    subscription.deliver(envelope)
                else:
                    with delivering(channel.partition(":")[0], envelope.trace):
                        subscription.deliver(envelope)
            except (ValidationError, TooLarge):
                if not self._has_warned:  # log only the first; the metric counts all
                    self._has_warned = True
                    log.warning("malformed envelope dropped", channel=channel, size=len(payload))
                self._malformed.inc()
