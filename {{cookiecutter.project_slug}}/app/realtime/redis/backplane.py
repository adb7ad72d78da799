"""Redis or Valkey between the nodes: a node subscribes only to what it hosts.

What a node hosts is a plain dict. A session with Redis makes the subscriptions equal to it, so it
does not matter how many joins and leaves come together, or in which order. When the session is
lost, the next one subscribes to everything afresh, and whoever has to know is told: what was
published in between is lost.
"""

import asyncio
import random
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import structlog
from pydantic import ValidationError
from redis.exceptions import AuthenticationError, AuthorizationError, ResponseError

from ..backplane import Channel, Envelope, OnGap, Subscription
from ..delivery import Delivery
from ..errors import Misconfigured, Unavailable
from ..metrics import Metrics
from ..protocol import ServerFrame
from ..settings import RealtimeSettings
from .client import FAILURES, Batch, Listener, RedisClient, answered_within, explain
from .pacer import Pacer
from .publisher import SEPARATOR, PlainPublish, RedisPublisher

log = structlog.stdlib.get_logger(__name__)

FIRST_PAUSE_S = 0.2
NOT_CONFIRMED = "the subscription is not confirmed just now"


@dataclass(slots=True, kw_only=True)
class Resync(ServerFrame):
    """Messages may have been lost: everywhere, or in one room."""

    type: Literal["resync"] = "resync"
    room: str | None = None


CHANNELS_AT_ONCE = 1_000
"""How many channels are subscribed to, or told of a gap, before others have their turn."""

HOPELESS = {
    r"DB index|SELECT": "the server refuses the database",
    r"read only replica": "the server is a replica, which takes no writes; name the primary",
    r"(?i)unknown (redis )?command": "the server lacks a command; it is older than Redis 6.2",
    r"permissions|can't (run|access)": "the user lacks a permission; docs/operating.md lists them",
}
"""What a server answers that does not suit, and what the log then says."""

REFUSING = re.compile(r"permissions|can't (run|access)|used memory|MISCONF|NOREPLICAS")
"""What a server answers that is the right one, but does not do its work."""


def _misconfigured(failure: BaseException) -> Misconfigured | None:
    """Return why waiting does not help, null if it may."""
    if isinstance(failure, Misconfigured):
        return failure
    # The client wraps what the server says to a newcomer.
    for each in (failure, failure.__cause__):
        if isinstance(each, AuthenticationError | AuthorizationError):
            return Misconfigured(f"REDIS_URL: the server refuses the user or password: {each}")
        for answer, reason in HOPELESS.items():
            if isinstance(each, ResponseError) and re.search(answer, str(each)):
                return Misconfigured(f"REDIS_URL: {reason}: {each}")
    return None


class RedisBackplane:
    """Delivers by way of Redis, to this node as to the others."""

    def __init__(
        self,
        client: RedisClient,
        settings: RealtimeSettings,
        metrics: Metrics,
        delivery: Delivery,
    ) -> None:
        self.client = client
        self.timeout_s = settings.redis_timeout_s
        self.publisher = RedisPublisher(
            client,
            max_waiting_bytes=settings.redis_max_waiting_bytes,
            failures=metrics.counter("redis_publish_failures", "Messages Redis did not take."),
        )
        self.name, self.key = client.name, client.key
        self._delivery = delivery
        self._ping_interval_s = settings.redis_ping_interval_s
        self._probe_interval_s = settings.redis_probe_interval_s
        self._retry_max_s = settings.redis_retry_max_s
        self._gap_listeners: list[OnGap] = []
        self._hosted: dict[Channel, Subscription] = {}
        self._listeners: list[Listener] = []
        self._unconfirmed: Counter[Channel] = Counter()
        self._awaited: defaultdict[Channel, asyncio.Event] = defaultdict(asyncio.Event)
        self._confirmations = 0
        self._plain = PlainPublish(client)
        self._gap = False
        self._is_subscribed = False
        self._works = self._is_refused = False
        self._was_healthy = False
        self.healthy = False
        client.probe_with(self._attempt)
        self._gaps = metrics.counter("redis_gaps", "Times that messages may have been lost.")
        self._warned_of_malformed = False
        self._malformed = metrics.counter("redis_malformed", "Messages that were none, dropped.")
        metrics.watch("redis_up", "Whether messages flow through Redis.", lambda: self.healthy)

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
            self.healthy = False
            await self.client.aclose()

    def after_gap(self, listener: OnGap) -> None:
        """Have a listener called whenever Redis is back and messages may have been lost."""
        self._gap_listeners.append(listener)

    def publish(self, channel: Channel, envelope: Envelope) -> asyncio.Future[None]:
        """Hand the envelope to Redis."""
        return self.publisher.publish(self._plain, channel, envelope)

    def subscribe(self, subscription: Subscription) -> Subscription:
        """Host a channel."""
        self._hosted[subscription.channel] = subscription
        self._note_change(subscription.channel)
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

    def unsubscribe(self, subscription: Subscription) -> None:
        """Host the channel no more."""
        if self._hosted.get(subscription.channel) is subscription:
            del self._hosted[subscription.channel]
            self._awaited.pop(subscription.channel, None)
            self._note_change(subscription.channel)

    def _note_change(self, channel: Channel) -> None:
        for listener in self._listeners:
            if listener.takes(self.name(channel)):
                listener.note(channel)

    async def _supervise(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                # A task of its own: before Python 3.11.3, timeouts misbehave in one whose group has
                # failed (python/cpython#102815).
                await asyncio.create_task(self._listen())
            except* (*FAILURES, Misconfigured) as group:
                failure = group.exceptions[0]
                if not self._was_healthy and (reason := _misconfigured(failure)):
                    raise reason from failure
                log.warning("redis lost", error=explain(failure))
            except* Exception:
                log.exception("redis session failed")
            pause_s = FIRST_PAUSE_S if self.healthy else min(2 * pause_s, self._retry_max_s)
            self._lose()
            await self.client.reconnect()
            # Jittered, so that the nodes do not return all at once.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))

    async def _listen(self) -> None:
        async with self._connected() as listeners, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._probe(_probe_channels(self.client, listeners)))
            for listener in listeners:
                tasks.create_task(self._keep_subscribed(listener))
            for listener in listeners:
                tasks.create_task(self._read(listener))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[list[Listener]]:
        async with AsyncExitStack() as stack:
            async with answered_within(self.timeout_s):
                self._listeners = await stack.enter_async_context(self.client.listeners())
            for channel in self._hosted:
                self._note_change(channel)
            yield self._listeners

    def _attempt(self, pipeline: Batch, channel: Channel) -> None:
        self._plain.send(pipeline, channel, [b""])

    async def _probe(self, channels: list[Channel]) -> None:
        """Find out again and again whether Redis does what the service needs.

        Raises:
            RedisError, OSError: it is lost, or another server has to be looked for.
            Misconfigured: this user may never do it.

        """
        while True:
            try:
                for channel in channels:
                    await self.client.probe(channel)
            except ResponseError as failure:
                if not REFUSING.search(str(failure)):
                    raise
                if not self._was_healthy and (reason := _misconfigured(failure)):
                    raise reason from failure
                if not self._is_refused:
                    log.warning("redis refuses to work", error=explain(failure))
                self._works, self._is_refused = False, True
            else:
                self._works, self._is_refused = True, False
            await self._look()
            await asyncio.sleep(self._probe_interval_s)

    def _lose(self) -> None:
        self.healthy = self._works = self._is_subscribed = False
        self._listeners = []
        self._gap = True
        self._unconfirmed.clear()
        for subscription in self._hosted.values():
            subscription.confirmed = False

    async def _keep_subscribed(self, listener: Listener) -> None:
        held: dict[Channel, Subscription] = {}
        while True:
            listener.has_changed.clear()
            changed, listener.changed = listener.changed, set()
            new: list[Channel] = []
            gone: list[Channel] = []
            for channel in changed:  # and no other: a node may host very many
                subscription = self._hosted.get(channel)
                if subscription is None:
                    if held.pop(channel, None) is not None:
                        gone.append(channel)
                elif held.get(channel) is not subscription:
                    held[channel] = subscription
                    new.append(channel)
            self._unconfirmed.update(new)
            for start in range(0, len(new), CHANNELS_AT_ONCE):
                some = new[start : start + CHANNELS_AT_ONCE]
                await listener.subscribe([self.name(channel) for channel in some])
            if gone:
                await listener.unsubscribe([self.name(channel) for channel in gone])
            await listener.has_changed.wait()

    async def _read(self, listener: Listener) -> None:
        pacer = Pacer(self._delivery)
        while True:
            message = await listener.receive(self._ping_interval_s)
            if message is None:  # nobody speaks, or nobody is there
                async with answered_within(self.timeout_s):
                    message = await listener.ping()
            if message is None:
                continue
            if message["type"] in {"subscribe", "ssubscribe"}:
                self._confirm(self._channel(message))
                if not self._is_subscribed and not self._unconfirmed:
                    self._is_subscribed = True
                    await self._look()
            elif message["type"] in {"message", "smessage"}:
                await pacer.deliver(self._deliver, self._channel(message), message["data"])

    def _channel(self, message: dict[str, Any]) -> Channel:
        return self.client.channel(message["channel"].decode())

    def _confirm(self, channel: Channel) -> None:
        self._confirmations += 1
        self._unconfirmed[channel] -= 1
        if self._unconfirmed[channel] <= 0:
            del self._unconfirmed[channel]
            if subscription := self._hosted.get(channel):
                subscription.confirmed = True
            if awaited := self._awaited.pop(channel, None):
                awaited.set()

    async def _look(self) -> None:
        """Note whether messages flow, and tell of a gap when they do so again."""
        if self.healthy or not (self._works and self._is_subscribed):
            self.healthy = self.healthy and self._works
            return
        self.healthy = self._was_healthy = True
        log.info("redis connected", channels=len(self._hosted))
        if self._gap:
            self._gap = False
            await self._tell_of_gap()

    async def _tell_of_gap(self) -> None:
        self._gaps.inc()
        for listener in self._gap_listeners:
            listener()
        for number, subscription in enumerate(list(self._hosted.values())):
            if number % CHANNELS_AT_ONCE == CHANNELS_AT_ONCE - 1:
                await asyncio.sleep(0)
            is_hosted = self._hosted.get(subscription.channel) is subscription
            if is_hosted and subscription.on_gap is not None:
                subscription.on_gap()

    def _deliver(self, channel: Channel, publication: bytes) -> None:
        subscription = self._hosted.get(channel)
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


def _probe_channels(client: RedisClient, listeners: list[Listener]) -> list[Channel]:
    """Return a channel for each listener that belongs to it, so that each server is probed."""
    return [
        next(
            channel
            for channel in (Channel(f"probe-{number}") for number in count())
            if listener.takes(client.name(channel))
        )
        for listener in listeners
    ]
