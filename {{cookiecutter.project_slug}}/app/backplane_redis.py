"""Redis or Valkey between the nodes: a node subscribes only to what it hosts.

What a node hosts is a plain dict. A session with Redis makes the subscriptions equal to it, so it
does not matter how many joins and leaves come together, or in which order. When the session is
lost, the next one subscribes to everything afresh, and whoever has to know is told: what was
published in between is lost.
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from pydantic import ValidationError

from .backplane import Channel, Envelope, OnGap, Subscription
from .client_redis import FAILURES, REFUSALS, Listener, RedisClient, RedisSettings, explain
from .errors import Misconfigured, Unavailable
from .flusher import Flusher
from .metrics import Metrics
from .pacer_redis import Pacer
from .protocol import ServerFrame
from .publisher_redis import SEPARATOR, PlainPublish, RedisPublisher

log = structlog.stdlib.get_logger(__name__)

FIRST_PAUSE_S = 0.2
NOT_CONFIRMED = "the subscription is not confirmed just now"


@dataclass(slots=True, kw_only=True)
class Resync(ServerFrame):
    """Messages may have been lost: everywhere, or in one room."""

    type: Literal["resync"] = "resync"
    room: str | None = None


def _misconfigured(failure: BaseException) -> Misconfigured:
    if isinstance(failure, Misconfigured):
        return failure
    return Misconfigured(f"REDIS_URL: the server refuses the user, password or database: {failure}")


def _is_refusal(failure: BaseException) -> bool:
    # The client wraps what the server says to a newcomer.
    return any(isinstance(each, REFUSALS) for each in (failure, failure.__cause__))


class RedisBackplane:
    """Delivers by way of Redis, to this node as to the others."""

    def __init__(
        self,
        client: RedisClient,
        settings: RedisSettings,
        metrics: Metrics,
        flusher: Flusher,
    ) -> None:
        self.client = client
        self.timeout_s = settings.redis_timeout_s
        self.publisher = RedisPublisher(
            client.commands,
            timeout_s=settings.redis_timeout_s,
            max_waiting_bytes=settings.redis_max_waiting_bytes,
            failures=metrics.count("redis_publish_failures", "Messages Redis did not take."),
        )
        self._prefix = settings.redis_prefix
        self._flusher = flusher
        self._ping_interval_s = settings.redis_ping_interval_s
        self._retry_max_s = settings.redis_retry_max_s
        self._gap_listeners: list[OnGap] = []
        self._hosted: dict[Channel, Subscription] = {}
        self._listeners: list[Listener] = []
        self._unconfirmed: Counter[Channel] = Counter()
        self._awaited: defaultdict[Channel, asyncio.Event] = defaultdict(asyncio.Event)
        self._plain = PlainPublish(client.publish_command, self.name)
        self._gap = False
        self._was_healthy = False
        self.healthy = False
        self._gaps = metrics.count("redis_gaps", "Times that messages may have been lost.")
        self._malformed = metrics.count("redis_malformed", "Messages that were none, dropped.")
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

    def name(self, channel: Channel) -> str:
        """Return what Redis knows a channel by."""
        return self._prefix + "{" + channel + "}"

    def key(self, channel: Channel, what: str) -> str:
        """Return the key of what a channel has; a cluster keeps it in the channel's slot."""
        return f"{self.name(channel)}:{what}"

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
            Unavailable: it does not in time.

        """
        if subscription.confirmed:
            return
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._awaited[subscription.channel].wait()
        except TimeoutError:
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
                if not self._was_healthy and _is_refusal(failure):
                    raise _misconfigured(failure) from failure
                log.warning("redis lost", error=explain(failure))
            except* Exception:
                log.exception("redis session failed")
            pause_s = FIRST_PAUSE_S if self.healthy else min(2 * pause_s, self._retry_max_s)
            self._lose()
            # Jittered, so that the nodes do not return all at once.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))

    async def _listen(self) -> None:
        async with self._connected() as listeners, asyncio.TaskGroup() as tasks:
            for listener in listeners:
                tasks.create_task(self._keep_subscribed(listener))
            for listener in listeners:
                tasks.create_task(self._read(listener))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[list[Listener]]:
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(self.timeout_s):
                self._listeners = await stack.enter_async_context(self.client.listeners())
            for channel in self._hosted:
                self._note_change(channel)
            yield self._listeners

    def _lose(self) -> None:
        self.healthy = False
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
            new = {
                channel: self._hosted[channel]
                for channel in changed & self._hosted.keys()
                if held.get(channel) is not self._hosted[channel]
            }
            gone = changed & held.keys() - self._hosted.keys()
            if new:
                self._unconfirmed.update(new.keys())
                held |= new
                await listener.subscribe([self.name(channel) for channel in new])
            if gone:
                for channel in gone:
                    del held[channel]
                await listener.unsubscribe([self.name(channel) for channel in gone])
            await listener.has_changed.wait()

    async def _read(self, listener: Listener) -> None:
        pacer = Pacer(self._flusher)
        while True:
            message = await listener.receive(self._ping_interval_s)
            if message is None:  # nobody speaks, or nobody is there
                async with asyncio.timeout(self.timeout_s):
                    await listener.ping()
                message = await listener.receive(self.timeout_s)
            if message is None:
                msg = "no answer to a ping"
                raise TimeoutError(msg)
            if message["type"] in {"subscribe", "ssubscribe"}:
                self._confirm(self._channel(message))
            elif message["type"] in {"message", "smessage"}:
                await pacer.deliver(self._deliver, self._channel(message), message["data"])

    def _channel(self, message: dict[str, Any]) -> Channel:
        return Channel(message["channel"].decode().removeprefix(self._prefix)[1:-1])

    def _confirm(self, channel: Channel) -> None:
        self._unconfirmed[channel] -= 1
        if self._unconfirmed[channel] <= 0:
            del self._unconfirmed[channel]
            if subscription := self._hosted.get(channel):
                subscription.confirmed = True
            if awaited := self._awaited.pop(channel, None):
                awaited.set()
        if not self._unconfirmed and not self.healthy:
            self.healthy = self._was_healthy = True
            log.info("redis connected", channels=len(self._hosted))
            if self._gap:
                self._gap = False
                self._tell_of_gap()

    def _tell_of_gap(self) -> None:
        self._gaps.add()
        for listener in self._gap_listeners:
            listener()
        for subscription in list(self._hosted.values()):
            if subscription.on_gap is not None:
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
                if not self._malformed.total:  # the rest is only counted
                    log.warning("malformed envelope dropped", channel=channel, size=len(payload))
                self._malformed.add()
