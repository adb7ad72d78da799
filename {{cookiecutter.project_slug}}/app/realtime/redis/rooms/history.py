"""The history of rooms in Redis, for all nodes.

One script numbers, stores and publishes a message, so the offsets agree with the order on the
room's channel. Each node checks the offsets of the messages that it receives. It reads missing
messages from the history and delivers them late but in order. It announces only those that are no
longer stored.

After a restart or a failover, Redis may have lost the latest offsets. So an epoch belongs to one
server process since its last promotion, identified by ``run_id`` and ``second_repl_offset``.
"""

import asyncio
import secrets
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from pydantic import ValidationError

from ...backplane import Channel, Deliver, Envelope
from ...idempotency import REMEMBERED_S
from ...rooms.frames import message_frame
from ...rooms.history import NOWHERE, Announce, History, Position, Replay, room_channel
from ...rooms.options import Rules, make_rules
from ...settings.settings import RealtimeSettings
from ..backplane import RedisBackplane
from ..connections import FAILURES, RedisCommand, explain, has_malformed_data
from ..envelopes import decode, encode
from ..scripts import Script
from ..worker import Worker
from .feed import RedisFeed, Stored, position_of
from .quota import Eviction, HistoryQuota

log = structlog.stdlib.get_logger(__name__)

POSITION_S = 3600  # how long a room's position outlives its messages
UNUSED_S = 60  # how long a position is stored if its epoch has no messages
RENEWALS = 3  # renewals of a position within either period, while the room has members
RENEWED_AT_ONCE = 500  # positions in one round trip
EVICTED_AT_ONCE = 100  # rooms in one round trip
HEALED_AT_ONCE = 50  # rooms whose missing messages are read at the same time

EVICT = Script("rooms/evict")
PUBLISH = Script("rooms/position", "rooms/publish")
READ = Script("rooms/position", "rooms/read")
RENEW = Script("rooms/renew")


class RedisHistory(History):
    """Stores the messages of rooms in Redis, and heals the feeds of this node.

    It overrides all methods of `History`, and calls its `publish` for messages that are not kept.
    """

    def __init__(self, backplane: RedisBackplane, settings: RealtimeSettings) -> None:
        super().__init__(backplane, settings)
        self.backplane: RedisBackplane = backplane
        self._client = backplane.client
        self._feeds: dict[str, RedisFeed] = {}
        pause_s = self._client.timeout_s
        self._behind = Worker(self._heal, batch_weight=HEALED_AT_ONCE, pause_s=pause_s)
        self.heal_later = self._behind.add
        self._quota = HistoryQuota(
            settings.history_total_bytes, settings.history_user_bytes, POSITION_S
        )
        self._evictions = Worker(self._evict, batch_weight=EVICTED_AT_ONCE, pause_s=pause_s)
        self._client.add_probe(self._probe_commands)

    def publish(
        self, room: str, envelope: Envelope, *, keep: bool = True, message_id: str | None = None
    ) -> asyncio.Future[Position]:
        """Queue a message for the script that numbers, stores and publishes it, once per id."""
        if not keep:
            return super().publish(room, envelope, keep=False, message_id=message_id)
        rules = self._feeds[room].rules if room in self._feeds else self.rules_of(room)
        return self.backplane.publisher.publish(
            partial(self._publish_command, rules, message_id=message_id),
            room_channel(room),
            envelope,
            partial(self._read_positions, room, rules.history_s),
            batch_key=rules if message_id is None else None,
        )

    def _read_positions(
        self, room: str, history_s: float, reply: Any, count: int
    ) -> list[Position]:
        """Return the positions of published messages; remove other rooms beyond the quota."""
        epoch, last, *stored = reply
        position = Position(epoch.decode(), int(last))
        if stored:  # not a repetition
            size_bytes, owner = stored[0], stored[1].decode(errors="replace") or None
            for eviction in self._quota.note(room, position, owner, size_bytes, history_s):
                self._evictions.add(eviction)
        offsets = range(position.offset - count + 1, position.offset + 1)
        return [Position(position.epoch, offset) for offset in offsets]

    async def _free_memory(self) -> None:
        """Remove history while Redis refuses to write because its memory is full."""
        while True:
            await asyncio.sleep(self._settings.redis_probe_interval_s)
            if "used memory" in str(self.backplane.refusal):
                for eviction in self._quota.remove_quarter():
                    self._evictions.add(eviction)

    async def _evict(self, rooms: list[Eviction]) -> Collection[Eviction]:
        """Remove the histories of rooms; return those that Redis did not remove, for a retry."""
        removals = [self._evict_command(room_channel(room), position) for room, position in rooms]
        replies = await self._send(removals)
        return [
            eviction
            for eviction, reply in zip(rooms, replies, strict=True)
            if isinstance(reply, Exception) and not has_malformed_data(reply)
        ]

    def open(self, room: str, deliver: Deliver, announce: Announce) -> None:
        """Subscribe to the room's channel."""
        self._feeds[room] = RedisFeed(room, self, deliver, announce)

    async def replay(self, room: str, since: Position | None, last: int = 0) -> Replay:
        """Return an open room's messages since a position, or the last ones; deliver later ones."""
        return _framed(room, await self._feeds[room].replay(since, last))

    async def read(self, room: str, since: Position | None, last: int = 0) -> Replay:
        """Return any room's messages since a position, or the last ones."""
        stored = await self.load(room, self.rules_of(room), since or NOWHERE, last)
        return _framed(room, stored if since else replace(stored, recovered=None))

    def close(self, room: str) -> None:
        """Unsubscribe."""
        feed = self._feeds.pop(room)
        feed.close()
        self._behind.discard(feed)

    async def run(self) -> None:
        """Heal feeds with gaps, evict histories and renew positions, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._evictions.run())
            tasks.create_task(self._free_memory())
            tasks.create_task(self._behind.run())
            tasks.create_task(self._renew_periodically(UNUSED_S, is_used=False))
            tasks.create_task(self._renew_periodically(POSITION_S, is_used=True))

    async def _heal(self, feeds: list[RedisFeed]) -> Collection[RedisFeed]:
        healed = await asyncio.gather(*(feed.heal() for feed in feeds))
        return [feed for feed, is_healed in zip(feeds, healed, strict=True) if not is_healed]

    async def _renew_periodically(self, kept_s: float, *, is_used: bool) -> None:
        """Renew periodically the positions of epochs with messages, or of those without."""
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
        renewals = [self._renew_command(room_channel(each.room), each.rules) for each in feeds]
        replies = await self._send(renewals)
        for feed, reply in zip(feeds, replies, strict=True):
            is_lost = reply == 0 or "WRONGTYPE" in str(reply)
            if is_lost and feed.position is not NOWHERE:
                feed.fall_behind()

    async def _send(self, commands: Sequence[RedisCommand]) -> list[Any]:
        """Send commands; if Redis does not answer, return the failure in place of each reply."""
        try:
            return await self._client.send_in_background(commands)
        except FAILURES as failure:
            log.warning("maintaining history failed", error=explain(failure))
            return [failure] * len(commands)

    async def load(self, room: str, rules: Rules, since: Position, last: int = 0) -> Stored:
        """Return a room's position, and its messages since an earlier one, or the last ones.

        Raises:
            Unavailable: Redis does not answer.
        """
        channel = room_channel(room)
        command = self._read_command(channel, rules, since, last)
        return _stored(channel, await self._client.ask(*command, repeatable=True))

    def _publish_command(
        self,
        rules: Rules,
        channel: Channel,
        payloads: Sequence[bytes],
        message_id: str | None = None,
    ) -> RedisCommand:
        keys = self._keys(channel)
        if message_id is not None:
            keys = (*keys, self._client.key(channel, f"published:{message_id}"))
        target = self._client.publish_command, self._client.name(channel)
        limits = rules.history_messages, rules.history_bytes, REMEMBERED_S
        return PUBLISH.command(keys, *_position_arguments(rules), *target, *limits, *payloads)

    def _read_command(
        self, channel: Channel, rules: Rules, since: Position, last: int = 0
    ) -> RedisCommand:
        wanted = UNUSED_S, since.epoch, since.offset, last
        return READ.command(self._keys(channel), *_position_arguments(rules), *wanted)

    def _renew_command(self, channel: Channel, rules: Rules) -> RedisCommand:
        return RENEW.command([self._keys(channel)[1]], UNUSED_S, _position_s(rules))

    def _evict_command(self, channel: Channel, position: Position) -> RedisCommand:
        target = self._client.count_command, self._client.name(channel)
        return EVICT.command(self._keys(channel), *target, position.epoch, position.offset)

    def _keys(self, channel: Channel) -> tuple[str, ...]:
        return self._client.key(channel, "messages"), self._client.key(channel, "position")

    def _probe_commands(self, channel: Channel) -> Sequence[RedisCommand]:
        message, rules = encode(Envelope(None, None)), make_rules(self._settings)(channel)
        return (
            self._publish_command(rules, channel, [message]),
            self._read_command(channel, rules, NOWHERE),
            self._renew_command(channel, rules),
            self._evict_command(channel, NOWHERE),
        )


def _position_arguments(rules: Rules) -> tuple[int, int, str]:
    """Return the first arguments of the scripts that read a position, see `position.lua`."""
    return max(1, round(rules.history_s * 1000)), _position_s(rules), secrets.token_urlsafe(9)


def _position_s(rules: Rules) -> int:
    return round(rules.history_s) + POSITION_S


def _framed(room: str, stored: Stored) -> Replay:
    frames = tuple(message_frame(room, envelope) for envelope in stored.messages)
    return Replay(stored.position, frames, stored.recovered)


def _stored(channel: Channel, reply: Any) -> Stored:
    """Parse the script's reply. A history that the script cannot have stored counts as lost."""
    epoch, offset, is_whole, entries = reply
    position = Position(epoch.decode(), int(offset))
    lost = Stored(position, recovered=False)
    if not is_whole:
        return lost
    try:
        messages = tuple(decode(channel, entry.partition(b" ")[2]) for entry in entries)
    except ValidationError:
        log.warning("malformed history refused")
        return lost
    offsets = range(position.offset - len(messages) + 1, position.offset + 1)
    if list(map(position_of, messages)) != [Position(position.epoch, n) for n in offsets]:
        log.warning("inconsistent history refused")
        return lost
    return Stored(position, messages, recovered=True)
