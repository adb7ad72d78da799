"""The history of rooms in Redis, for all nodes.

One script numbers, stores and publishes a message, so the offsets agree with the order on the
room's channel. Each node checks the offsets of the messages that it receives. It reads missing
messages from the history and delivers them late but in order. It announces only those that are no
longer stored.

After a restart or a failover, Redis may have lost the latest offsets. So an epoch belongs to one
server process, identified by its ``run_id``, and ends with it.
"""

import asyncio
import secrets
from collections.abc import Collection, Coroutine, Sequence
from typing import Any

import structlog
from pydantic import ValidationError

from ...backplane import Channel, Envelope
from ...rooms.history import (
    NOWHERE,
    Announce,
    Deliver,
    History,
    Past,
    Position,
    RoomEnvelope,
    room_channel,
)
from ...settings.settings import RealtimeSettings
from ..backplane import RedisBackplane
from ..connections import FAILURES, Command, explain
from ..worker import Worker
from .feed import RedisFeed
from .scripts import Script

log = structlog.stdlib.get_logger(__name__)

POSITION_S = 3600  # how long a room's position outlives its messages
UNUSED_S = 60  # how long a position is stored if its epoch has no messages
RENEWALS = 3  # renewals of a position in that time, while the room has members
RENEWED_AT_ONCE = 500  # positions in one round trip
HEALED_AT_ONCE = 50  # rooms whose missing messages are read at the same time

PUBLISH = Script("position", "publish")
READ = Script("position", "read")
RENEW = Script("renew")


class RedisHistory(History):
    """Stores the messages of rooms in Redis, and heals the feeds of this node."""

    def __init__(self, backplane: RedisBackplane, settings: RealtimeSettings) -> None:
        super().__init__(backplane, settings)
        self.backplane: RedisBackplane = backplane
        self._client = backplane.client
        self._keep_ms = max(1, round(settings.history_s * 1000))
        self._position_s = round(settings.history_s) + POSITION_S
        self._feeds: dict[str, RedisFeed] = {}
        self._behind = Worker(
            self._heal, batch_weight=HEALED_AT_ONCE, pause_s=self._client.timeout_s
        )
        self.heal_later = self._behind.add
        self._client.probe_with(self._attempt)

    def publish(self, room: str, envelope: Envelope) -> asyncio.Future[int]:
        """Queue a message for the script that numbers, stores and publishes it."""
        channel = room_channel(room)
        return self.backplane.publisher.publish(
            self._publication, channel, envelope, is_numbered=True
        )

    def open(self, room: str, deliver: Deliver, announce: Announce) -> None:
        """Subscribe to the room's channel."""
        self._feeds[room] = RedisFeed(room, self, deliver, announce)

    def past(self, room: str, since: Position | None) -> Coroutine[Any, Any, Past]:
        """Return the messages of an open room since a position; later ones are delivered."""
        return self._feeds[room].past(since)

    def close(self, room: str) -> None:
        """Unsubscribe."""
        feed = self._feeds.pop(room)
        feed.close()
        self._behind.discard(feed)

    async def run(self) -> None:
        """Heal feeds with gaps, and renew the positions of rooms, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._behind.run())
            tasks.create_task(self._renew_often(UNUSED_S, is_used=False))
            tasks.create_task(self._renew_often(POSITION_S, is_used=True))

    async def _heal(self, feeds: list[RedisFeed]) -> Collection[RedisFeed]:
        healed = await asyncio.gather(*(feed.heal() for feed in feeds))
        return [feed for feed, is_healed in zip(feeds, healed, strict=True) if not is_healed]

    async def _renew_often(self, kept_s: float, *, is_used: bool) -> None:
        """Renew again and again the positions of epochs with messages, or of those without."""
        while True:
            await asyncio.sleep(kept_s / RENEWALS)
            feeds = list(self._feeds.values())
            for start in range(0, len(feeds), RENEWED_AT_ONCE):
                batch = feeds[start : start + RENEWED_AT_ONCE]
                await self._renew([each for each in batch if (each.position.offset > 0) == is_used])

    async def _renew(self, feeds: Sequence[RedisFeed]) -> None:
        """Renew positions in one round trip; a feed whose position is lost reads a new one."""
        if not feeds:
            return
        positions = [self._client.key(room_channel(feed.room), "position") for feed in feeds]
        try:
            replies = await self._client.send(
                [RENEW.command([position], UNUSED_S, self._position_s) for position in positions]
            )
        except FAILURES as failure:  # the next renewal comes early enough
            log.warning("renewing positions of rooms failed", error=explain(failure))
            return
        for feed, reply in zip(feeds, replies, strict=True):
            if reply == 0 and feed.position is not NOWHERE:
                feed.fall_behind()

    async def read(self, room: str, since: Position) -> Past:
        """Return the current position of a room, and its messages since an earlier one.

        Raises:
            Unavailable: Redis does not answer.

        """
        command = self._reading(room_channel(room), since)
        return _past(await self._client.ask(*command, repeatable=True), since)

    def _publication(self, channel: Channel, payloads: Sequence[bytes]) -> Command:
        limits = self._settings.history_messages, self._settings.history_bytes
        target = self._client.publish_command, self._client.name(channel)
        return self._script(PUBLISH, channel, *target, *limits, *payloads)

    def _reading(self, channel: Channel, since: Position) -> Command:
        return self._script(READ, channel, UNUSED_S, since.epoch, since.offset)

    def _script(self, script: Script, channel: Channel, *more: Any) -> Command:
        keys = self._client.key(channel, "messages"), self._client.key(channel, "position")
        new_epoch = secrets.token_urlsafe(9)
        return script.command(keys, self._keep_ms, self._position_s, new_epoch, *more)

    def _attempt(self, channel: Channel) -> Sequence[Command]:
        message = Envelope(None, None).encode()
        return self._publication(channel, [message]), self._reading(channel, NOWHERE)


def _past(reply: Any, since: Position) -> Past:
    """Parse the script's reply. A history that the script cannot have stored counts as lost."""
    epoch, offset, is_whole, entries = reply
    position = Position(epoch.decode(), int(offset))
    lost = Past(position, recovered=False)
    if not is_whole:
        return lost
    try:
        messages = tuple(RoomEnvelope.decode(entry.partition(b" ")[2]) for entry in entries)
    except ValidationError:
        log.warning("malformed history refused")
        return lost
    offsets = range(since.offset + 1, position.offset + 1)
    if [each.position for each in messages] != [Position(position.epoch, n) for n in offsets]:
        log.warning("inconsistent history refused")
        return lost
    return Past(position, messages, recovered=True)
