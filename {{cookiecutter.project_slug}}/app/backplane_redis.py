"""Redis or Valkey between the nodes: a node subscribes only to what it hosts.

What a node hosts is a plain dict. A session with Redis makes the subscriptions equal to it, so it
does not matter how many joins and leaves come together, or in which order. When the session is
lost, the next one subscribes to everything afresh, and whoever has to know is told: what was
published in between is lost.
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import structlog
from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
)
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, ResponseError

from .backplane import Channel, Envelope, OnGap, Subscription
from .errors import Misconfigured, Unavailable
from .protocol import ServerFrame
from .publisher_redis import FAILURES, SEPARATOR, PlainPublish, RedisPublisher, explain
from .settings import SettingsPart

log = structlog.stdlib.get_logger(__name__)

FIRST_PAUSE_S = 0.2
REFUSALS = (AuthenticationError, AuthorizationError, ResponseError)
NOT_CONFIRMED = "the subscription is not confirmed just now"


def _check_url(url: SecretStr) -> SecretStr:
    try:
        target = parse_url(url.get_secret_value())
        target.get("host", "").encode("idna")
    except ValueError:
        msg = "is no address of a server; write one like redis://localhost:6379/0"
        raise ValueError(msg) from None
    return url


class RedisSettings(SettingsPart):
    """Where Redis is, and how long it may take. Without a URL the service is a single node."""

    redis_url: Annotated[SecretStr, AfterValidator(_check_url)] | None = None
    redis_prefix: str = Field(default="ws:", min_length=1, max_length=64)
    redis_timeout_s: PositiveFloat = 1.0
    redis_ping_interval_s: PositiveFloat = 2.0
    redis_retry_max_s: PositiveFloat = 5.0
    redis_max_waiting_bytes: PositiveInt = 16_777_216


@dataclass(slots=True, kw_only=True)
class Resync(ServerFrame):
    """Messages may have been lost: everywhere, or in one room."""

    type: Literal["resync"] = "resync"
    room: str | None = None


def connect(settings: RedisSettings) -> Redis | None:
    """Return a client for ``REDIS_URL``, which connects when it is first used.

    Whoever uses it says how long to wait, with `asyncio.timeout`.
    """
    if settings.redis_url is None:
        return None
    return Redis.from_url(
        settings.redis_url.get_secret_value(),
        # The client would bound writes with `asyncio.wait_for`, which swallows a cancellation now
        # and then in Python 3.11 (python/cpython#86296).
        socket_timeout=None,
        socket_connect_timeout=settings.redis_timeout_s,
        # A publisher is told within the timeout, and repeats what is worth it. By default, the
        # client would try a frozen server for a minute.
        retry=Retry(NoBackoff(), 0),
    )


def _is_refusal(failure: BaseException) -> bool:
    # The client wraps what the server says to a newcomer.
    return any(isinstance(each, REFUSALS) for each in (failure, failure.__cause__))


class RedisBackplane:
    """Delivers by way of Redis, to this node as to the others."""

    def __init__(
        self,
        redis: Redis,
        settings: RedisSettings,
        *,
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        self.redis = redis
        self.prefix = settings.redis_prefix
        self.timeout_s = settings.redis_timeout_s
        self.publisher = RedisPublisher(
            redis,
            timeout_s=settings.redis_timeout_s,
            max_waiting_bytes=settings.redis_max_waiting_bytes,
        )
        self._catch_up = catch_up
        self._ping_interval_s = settings.redis_ping_interval_s
        self._retry_max_s = settings.redis_retry_max_s
        self._gap_listeners: list[OnGap] = []
        self._hosted: dict[Channel, Subscription] = {}
        self._changed: set[Channel] = set()
        self._has_changed = asyncio.Event()
        self._unconfirmed: Counter[Channel] = Counter()
        self._awaited: defaultdict[Channel, asyncio.Event] = defaultdict(asyncio.Event)
        self._plain = PlainPublish(settings.redis_prefix)
        self._gap = False
        self._was_healthy = False
        self.healthy = False

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
            await self.redis.aclose()

    def after_gap(self, listener: OnGap) -> None:
        """Have a listener called whenever Redis is back and messages may have been lost."""
        self._gap_listeners.append(listener)

    def name(self, channel: Channel) -> str:
        """Return what Redis knows a channel by."""
        return self.prefix + channel

    def key(self, channel: Channel, what: str) -> str:
        """Return the key of something that belongs to a channel; a cluster keeps all together."""
        return self.prefix + "{" + channel + "}:" + what

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
        self._changed.add(channel)
        self._has_changed.set()

    async def _supervise(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async with self.redis.pubsub() as pubsub, asyncio.TaskGroup() as tasks:
                    async with asyncio.timeout(self.timeout_s):
                        await pubsub.connect()
                    tasks.create_task(self._keep_subscribed(pubsub))
                    tasks.create_task(self._read(pubsub))
            except* FAILURES as group:
                failure = group.exceptions[0]
                if not self._was_healthy and _is_refusal(failure):
                    msg = f"REDIS_URL: the server refuses the user, password or database: {failure}"
                    raise Misconfigured(msg) from failure
                log.warning("redis lost", error=explain(failure))
            except* Exception:
                log.exception("redis session failed")
            pause_s = FIRST_PAUSE_S if self.healthy else min(2 * pause_s, self._retry_max_s)
            self._lose()
            # Jittered, so that the nodes do not return all at once.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))

    def _lose(self) -> None:
        self.healthy = False
        self._gap = True
        self._unconfirmed.clear()
        for subscription in self._hosted.values():
            subscription.confirmed = False

    async def _keep_subscribed(self, pubsub: PubSub) -> None:
        held: dict[Channel, Subscription] = {}
        self._changed = set(self._hosted)
        while True:
            self._has_changed.clear()
            changed, self._changed = self._changed, set()
            new = {
                channel: self._hosted[channel]
                for channel in changed & self._hosted.keys()
                if held.get(channel) is not self._hosted[channel]
            }
            gone = changed & held.keys() - self._hosted.keys()
            if new:
                self._unconfirmed.update(new.keys())
                held |= new
                await pubsub.subscribe(*(self.prefix + channel for channel in new))
            if gone:
                for channel in gone:
                    del held[channel]
                await pubsub.unsubscribe(*(self.prefix + channel for channel in gone))
            await self._has_changed.wait()

    async def _read(self, pubsub: PubSub) -> None:
        while True:
            message = await pubsub.get_message(timeout=self._ping_interval_s)
            if message is None:  # nobody speaks, or nobody is there
                async with asyncio.timeout(self.timeout_s):
                    await pubsub.ping()
                message = await pubsub.get_message(timeout=self.timeout_s)
            if message is None:
                msg = "no answer to a ping"
                raise TimeoutError(msg)
            if message["type"] == "subscribe":
                self._confirm(self._channel(message))
            elif message["type"] == "message":
                self._deliver(self._channel(message), message["data"])
                await self._catch_up()

    def _channel(self, message: dict[str, Any]) -> Channel:
        return Channel(message["channel"].decode().removeprefix(self.prefix))

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
                log.warning("malformed envelope dropped", channel=channel, size_bytes=len(payload))
