"""The history of all nodes together, which Redis keeps.

One script numbers, keeps and publishes, so a room's numbers and the order on its channel agree.
Each node checks the numbers of what it receives. What it missed, it reads from the history and
delivers late but in order; only what is not kept any more is announced to the members.

A Redis that was restarted or replaced may lack the last numbers that its predecessor gave away. So
an epoch belongs to one server process, told by its ``run_id``, and never outlives it.
"""

import asyncio
import secrets
from collections.abc import Collection, Sequence
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
from ..worker import Worker, in_turns
from .feed import RedisFeed
from .scripts import Script

log = structlog.stdlib.get_logger(__name__)

POSITION_S = 3600
"""How much longer than its messages a room's position is kept."""

UNUSED_S = 60
"""How long the position of a room is kept to which nothing was published in its epoch."""

RENEWALS = 3
"""Renewals of a position in that time, as long as this node has members of the room."""

RENEWED_AT_ONCE = 500
"""Positions that one round trip renews at most."""

HEALED_AT_ONCE = 50
"""Rooms that read what they missed at the same time."""

PUBLISH = Script("position", "publish")
READ = Script("position", "read")
RENEW = Script("renew")


class RedisHistory(History):
    """Keeps rooms' messages in Redis, and sees to it that this node misses none."""

    def __init__(self, backplane: RedisBackplane, settings: RealtimeSettings) -> None:
        super().__init__(backplane, settings)
        self.backplane: RedisBackplane = backplane
        self._client = backplane.client
        self._keep_ms = max(1, round(settings.history_s * 1000))
        self._position_s = round(settings.history_s) + POSITION_S
        self._feeds: set[RedisFeed] = set()
        self._behind = Worker(
            self._heal, batch_weight=HEALED_AT_ONCE, pause_s=self._client.timeout_s
        )
        self._renewals = Worker(self._renew, batch_weight=RENEWED_AT_ONCE)
        self._client.probe_with(self._attempt)

    def publish(self, room: str, envelope: Envelope) -> asyncio.Future[int]:
        """Hand a message to Redis, to be kept and published."""
        channel = room_channel(room)
        return self.backplane.publisher.publish(
            self._publication, channel, envelope, is_numbered=True
        )

    def open(self, room: str, deliver: Deliver, announce: Announce) -> RedisFeed:
        """Subscribe to the room's channel, and check what comes."""
        feed = RedisFeed(room, self, deliver, announce)
        self._feeds.add(feed)
        return feed

    def forget(self, feed: RedisFeed) -> None:
        """Look after a feed no more."""
        self._feeds.discard(feed)
        self._behind.discard(feed)
        self._renewals.discard(feed)

    def heal_later(self, feed: RedisFeed) -> None:
        """Have one feed look for what it missed."""
        self._behind.add(feed)

    async def run(self) -> None:
        """Heal feeds that are behind, and renew the positions of rooms, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._behind.run())
            tasks.create_task(self._renewals.run())
            tasks.create_task(self._renew_often(UNUSED_S, unused=True))
            tasks.create_task(self._renew_often(POSITION_S, unused=False))

    async def _heal(self, feeds: list[RedisFeed]) -> Collection[RedisFeed]:
        healed = await asyncio.gather(*(feed.heal() for feed in feeds))
        return [feed for feed, is_healed in zip(feeds, healed, strict=True) if not is_healed]

    async def _renew_often(self, kept_s: float, *, unused: bool) -> None:
        while True:
            await asyncio.sleep(kept_s / RENEWALS)
            async for feed in in_turns(self._feeds, RENEWED_AT_ONCE):
                if feed.is_unused == unused and not feed.is_closed:
                    self._renewals.add(feed)

    async def _renew(self, feeds: list[RedisFeed]) -> Collection[RedisFeed]:
        """Renew some positions in one round trip; a feed whose position is lost reads it again."""
        positions = [self._client.key(room_channel(feed.room), "position") for feed in feeds]
        try:
            replies = await self._client.send(
                [RENEW.command([position], UNUSED_S, self._position_s) for position in positions]
            )
        except FAILURES as failure:  # there are more renewals than are needed
            log.warning("renewing positions of rooms failed", error=explain(failure))
            return ()
        for feed, reply in zip(feeds, replies, strict=True):
            if reply == 0 and feed.position is not NOWHERE:
                feed.fall_behind()
        return ()

    async def read(self, room: str, since: Position) -> Past:
        """Return where the room stands, and what it has said since a position.

        Raises:
            Unavailable: Redis does not answer.

        """
        command = self._reading(room_channel(room), since)
        return _past(await self._client.ask(*command, repeatable=True), since)

    def _publication(self, channel: Channel, payloads: Sequence[bytes]) -> Command:
        """Return the command that numbers, keeps and publishes messages."""
        return PUBLISH.command(
            self._keys(channel),
            *(self._keep_ms, secrets.token_urlsafe(9)),
            *(self._client.publish_command, self._client.name(channel), self._position_s),
            *(self._settings.history_messages, self._settings.history_bytes),
            *payloads,
        )

    def _reading(self, channel: Channel, since: Position) -> Command:
        return READ.command(
            self._keys(channel),
            *(self._keep_ms, secrets.token_urlsafe(9)),
            *(self._position_s, since.epoch, since.offset, UNUSED_S),
        )

    def _keys(self, channel: Channel) -> Sequence[str]:
        return [self._client.key(channel, what) for what in ("messages", "position")]

    def _attempt(self, channel: Channel) -> Sequence[Command]:
        message = Envelope(None, None).encode()
        return self._publication(channel, [message]), self._reading(channel, NOWHERE)


def _past(reply: Any, since: Position) -> Past:
    """Return what the script has answered.

    Whoever can reach Redis can write there. What is kept is believed only if it is an envelope, and
    has the place that it must have.
    """
    epoch, offset, whole, entries = reply
    position = Position(epoch.decode(), int(offset))
    lost = Past(position, recovered=False)
    if not whole:
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
