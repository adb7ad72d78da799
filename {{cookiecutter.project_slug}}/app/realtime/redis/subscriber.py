"""What this node hears from the others, for as long as one connection to Redis lasts."""

import asyncio
from collections import Counter
from collections.abc import Collection
from contextlib import AsyncExitStack
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import ResponseError

from ..backplane import Channel, Subscription
from ..connections.delivery import Delivery
from ..settings.settings import RealtimeSettings
from .connections import Listener, answered_within, explain
from .pacer import Pacer
from .refusals import is_temporary, misconfigured
from .worker import Worker

if TYPE_CHECKING:
    from .backplane import RedisBackplane

log = structlog.stdlib.get_logger(__name__)

CHANNELS_AT_ONCE = 1_000
"""How many channels are subscribed to before others have their turn."""


class Subscriber:
    """Has Redis send what the node hosts, delivers what comes, and probes what Redis does."""

    def __init__(
        self, backplane: "RedisBackplane", settings: RealtimeSettings, delivery: Delivery
    ) -> None:
        self._backplane = backplane
        self._client = backplane.client
        self._settings = settings
        self._delivery = delivery
        self._listeners: list[tuple[Listener, Worker[Channel]]] = []
        self._unconfirmed: Counter[Channel] = Counter()
        self._is_subscribed = self._works = self._is_refused = False
        self.healthy = False

    def note_change(self, channel: Channel) -> None:
        """Have a channel subscribed to that is hosted, or left that is no more."""
        for listener, changed in self._listeners:
            if listener.takes(self._client.name(channel)):
                changed.add(channel)

    async def run(self, *, worked_before: bool) -> None:
        """Connect, and work until the connection is lost.

        Raises:
            RedisError, OSError: it is lost, or another server has to be looked for.
            Misconfigured: the server is not of the kind that the settings tell.

        """
        async with AsyncExitStack() as stack:
            async with answered_within(self._client.timeout_s):
                listeners = await stack.enter_async_context(self._client.listeners())
            for listener in listeners:
                subscribe = partial(self._subscribe, listener, {})
                changed = Worker(subscribe, batch_weight=CHANNELS_AT_ONCE)
                self._listeners.append((listener, changed))
            for channel in self._backplane.hosted:
                self.note_change(channel)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            tasks.create_task(self._probe(listeners, worked_before=worked_before))
            for listener, changed in self._listeners:
                tasks.create_task(changed.run())
                tasks.create_task(self._read(listener))

    async def _subscribe(
        self, listener: Listener, held: dict[Channel, Subscription], changed: list[Channel]
    ) -> Collection[Channel]:
        """Make what a listener hears equal to what is hosted, as far as that has changed."""
        new: list[Channel] = []
        gone: list[Channel] = []
        for channel in changed:
            subscription = self._backplane.hosted.get(channel)
            if subscription is None:
                if held.pop(channel, None) is not None:
                    gone.append(channel)
            elif held.get(channel) is not subscription:
                held[channel] = subscription
                new.append(channel)
        self._unconfirmed.update(new)
        if new:
            await listener.subscribe([self._client.name(channel) for channel in new])
        if gone:
            await listener.unsubscribe([self._client.name(channel) for channel in gone])
        return ()

    async def _read(self, listener: Listener) -> None:
        pacer = Pacer(self._delivery)
        while True:
            message = await listener.receive(self._settings.redis_ping_interval_s)
            if message is None:  # nobody speaks, or nobody is there
                async with answered_within(self._client.timeout_s):
                    message = await listener.ping()
            if message is None:
                continue
            if message["type"] in {"subscribe", "ssubscribe"}:
                self._take_confirmation(self._channel(message))
            elif message["type"] in {"message", "smessage"}:
                await pacer.deliver(
                    self._backplane.deliver, self._channel(message), message["data"]
                )

    def _channel(self, message: dict[str, Any]) -> Channel:
        return self._client.channel(message["channel"].decode())

    def _take_confirmation(self, channel: Channel) -> None:
        self._unconfirmed[channel] -= 1
        if self._unconfirmed[channel] <= 0:
            del self._unconfirmed[channel]
            self._backplane.note_confirmed(channel)
        if not (self._unconfirmed or any(changed for _, changed in self._listeners)):
            self._is_subscribed = True
            self._look()

    async def _probe(self, listeners: list[Listener], *, worked_before: bool) -> None:
        """Find out again and again whether Redis does what the service needs.

        Raises:
            RedisError, OSError: it is lost, or another server has to be looked for.

        """
        channels = [self._channel_of(listener) for listener in listeners]
        while True:
            try:
                for channel in channels:
                    await self._client.probe(channel)
            except ResponseError as refusal:
                may_wait = worked_before or self._works or not misconfigured(refusal)
                if not (may_wait and is_temporary(refusal)):
                    raise
                if not self._is_refused:
                    log.warning("redis refuses to work", error=explain(refusal))
                self._works, self._is_refused = False, True
            else:
                self._works, self._is_refused = True, False
            self._look()
            await asyncio.sleep(self._settings.redis_probe_interval_s)

    def _channel_of(self, listener: Listener) -> Channel:
        """Return a channel that belongs to a listener, so that its server is probed."""
        channels = (Channel(f"probe-{number}") for number in count())
        return next(channel for channel in channels if listener.takes(self._client.name(channel)))

    def _look(self) -> None:
        """Note whether messages flow."""
        was_healthy, self.healthy = self.healthy, self._works and self._is_subscribed
        if self.healthy and not was_healthy:
            self._backplane.note_healthy()
