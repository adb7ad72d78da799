"""One connection to Redis on which a node listens to its channels."""

import asyncio
from collections import Counter
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from ..backplane import Channel, Subscription
from ..connections.delivery import MAX_FRAMES_PER_TURN, MESSAGES_IN_A_ROW, Delivery
from .client import OwnsChannel
from .connections import PubSub, answered_within
from .worker import Worker

if TYPE_CHECKING:
    from .backplane import RedisBackplane

CHANNELS_AT_ONCE = 1_000
"""Channels that one command subscribes to."""


class Listener:
    """Subscribes to the channels that the node hosts, and delivers their messages.

    ``owns`` tells which channels belong to this connection.
    """

    def __init__(
        self, backplane: "RedisBackplane", delivery: Delivery, pubsub: PubSub, owns: OwnsChannel
    ) -> None:
        self.owns = owns
        self._backplane = backplane
        self._client = backplane.client
        self._delivery = delivery
        self._pubsub = pubsub
        self._held: dict[Channel, Subscription] = {}
        self._unconfirmed: Counter[str] = Counter()
        self._leaving: Counter[str] = Counter()
        # In a cluster, one command must not name channels of several slots.
        at_once = 1 if self._client.is_sharded else CHANNELS_AT_ONCE
        self._changed = Worker(self._adjust, batch_weight=at_once)
        self.adjust_later = self._changed.add
        self.subscribe = self._changed.run

    @cached_property
    def unused_channel(self) -> Channel:
        """A channel that belongs to this connection, and so to its server."""
        channels = (Channel(f"probe-{number}") for number in count())
        return next(each for each in channels if self.owns(self._client.name(each)))

    def holds(self, channel: Channel) -> bool:
        """Return whether Redis may still count this connection as a subscriber of a channel."""
        return channel in self._held or self._client.name(channel) in self._leaving

    @property
    def is_subscribed(self) -> bool:
        """Whether Redis has confirmed all subscriptions."""
        return not self._unconfirmed and not self._changed

    async def _adjust(self, changed: list[Channel]) -> None:
        """Subscribe to channels that are hosted now, and unsubscribe from the others."""
        new: list[str] = []
        gone: list[str] = []
        for channel in changed:
            subscription = self._backplane.hosted.get(channel)
            if subscription is None:
                if self._held.pop(channel, None) is not None:
                    gone.append(self._client.name(channel))
            elif self._held.get(channel) is not subscription:
                self._held[channel] = subscription
                new.append(self._client.name(channel))
        self._unconfirmed.update(new)
        self._leaving.update(gone)
        pubsub, is_sharded = self._pubsub, self._client.is_sharded
        if new:
            await (pubsub.ssubscribe if is_sharded else pubsub.subscribe)(*new)
        if gone:
            await (pubsub.sunsubscribe if is_sharded else pubsub.unsubscribe)(*gone)
        self._backplane.check_subscribed()

    async def read(self, ping_interval_s: float) -> None:
        """Deliver messages until the connection is lost.

        It lets other tasks run after `MESSAGES_IN_A_ROW` messages. It waits for delivery only after
        it has enqueued many frames itself, never because of frames that clients have caused.

        Raises:
            RedisError, OSError: the connection, or one of its channels, is lost.
        """
        delivery = self._delivery
        taken = enqueued = 0
        while True:
            # After a silence, the connection may be dead.
            message = await self._pubsub.get_message(timeout=ping_interval_s) or await self._ping()
            if message is None:
                continue
            before = delivery.enqueued
            self._take(message)
            enqueued += delivery.enqueued - before
            taken += 1
            if enqueued >= MAX_FRAMES_PER_TURN:
                enqueued = 0
                await delivery.catch_up()
            elif taken % MESSAGES_IN_A_ROW == 0:
                await asyncio.sleep(0)

    async def _ping(self) -> dict[str, Any] | None:
        """Send a ping, and return the next message, None if Redis refuses the ping."""
        async with answered_within(self._client.timeout_s):
            await self._pubsub.ping()
            try:
                message: dict[str, Any] | None = await self._pubsub.get_message(timeout=None)
            except ResponseError:  # a server that cannot save to disk refuses even a ping
                return None
        return message

    def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "message" | "smessage":
                self._backplane.deliver(self._client.channel(message["channel"]), message["data"])
            case "subscribe" | "ssubscribe":
                channel = self._client.channel(message["channel"])
                is_last = _count_down(self._unconfirmed, message["channel"].decode())
                if is_last and (subscription := self._held.get(channel)):
                    self._backplane.note_confirmed(subscription)
                self._backplane.check_subscribed()
            case "unsubscribe" | "sunsubscribe":
                name = message["channel"].decode()
                if name not in self._leaving:
                    raise ConnectionError("a slot has moved to another server")
                if _count_down(self._leaving, name):
                    self._backplane.note_left(self._client.channel(message["channel"]))


def _count_down(expected: Counter[str], name: str) -> bool:
    """Count one answer; return whether it was the last one expected."""
    expected[name] -= 1
    if expected[name] > 0:
        return False
    del expected[name]
    return True
