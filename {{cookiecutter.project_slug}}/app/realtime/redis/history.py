"""The history of all nodes together, which Redis keeps.

One script numbers, keeps and publishes, so a room's numbers and the order on its channel agree.
Each node checks the numbers of what it receives. What it missed, it reads from the history and
delivers late but in order; only what is not kept any more is announced to the members.

A Redis that was restarted or replaced may lack the last numbers that its predecessor gave away. So
an epoch belongs to one server process, told by its ``run_id``, and never outlives it.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import structlog
from pydantic import ValidationError

from ..backplane import Channel, Envelope, Subscription
from ..errors import Unavailable
from ..rooms.history import (
    NOWHERE,
    Announce,
    Deliver,
    Feed,
    Past,
    Position,
    RoomEnvelope,
    room_channel,
)
from ..settings import RealtimeSettings
from .backplane import RedisBackplane, Resync
from .client import FAILURES, Batch, answered_within, explain

log = structlog.stdlib.get_logger(__name__)

POSITION_S = 3600
"""How much longer than its messages a room's position is kept."""

UNUSED_S = 60
"""How long the position of a room is kept to which nothing was published in its epoch."""

RENEWALS = 3
"""Renewals of a position in that time, as long as this node has members of the room."""

RENEWED_AT_ONCE = 500
"""Positions that one round trip renews at most."""

MOST_HELD = 1_000
"""How many messages wait for older ones; if there are more, all have to be read."""

HEALING_AT_ONCE = 50
"""How many rooms read what they missed at the same time."""

CURRENT = """
local messages, position = KEYS[1], KEYS[2]
local keep_ms, new_epoch = tonumber(ARGV[1]), ARGV[2]
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local epoch, offset, bytes, owner =
  unpack(redis.call('HMGET', position, 'epoch', 'offset', 'bytes', 'run'))
if not epoch or owner ~= run then
  redis.call('DEL', messages)
  epoch, offset, bytes = new_epoch, 0, 0
end
offset, bytes = tonumber(offset), tonumber(bytes)
local count = redis.call('LLEN', messages)
if count == 0 then bytes = 0 end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function trim(most, most_bytes)
  while count > 0 do
    local oldest_ms = tonumber(string.match(redis.call('LINDEX', messages, 0), '^%d+'))
    if count <= most and bytes <= most_bytes and oldest_ms > now_ms - keep_ms then break end
    bytes = bytes - #redis.call('LPOP', messages)
    count = count - 1
  end
end

local function save(position_s)
  redis.call('HSET', position, 'epoch', epoch, 'offset', string.format('%.0f', offset),
    'bytes', string.format('%.0f', bytes), 'run', run)
  redis.call('EXPIRE', position, position_s)
end
"""
"""Finds out where the room stands, or begins an epoch.

Its messages are a list of ``<Unix milliseconds> <envelope>``, the newest last.
"""

PUBLISH = (
    CURRENT
    + """
local command, channel, position_s = ARGV[3], ARGV[4], ARGV[5]
local most, most_bytes = tonumber(ARGV[6]), tonumber(ARGV[7])
local lines = {}
for number = 8, #ARGV do
  offset = offset + 1
  local line = string.format('{"epoch":"%s","offset":%.0f,', epoch, offset)
    .. string.sub(ARGV[number], 2)
  if most > 0 then
    local entry = string.format('%.0f ', now_ms) .. line
    count = redis.call('RPUSH', messages, entry)
    bytes = bytes + #entry
  end
  lines[#lines + 1] = line
end
trim(most, most_bytes)
redis.call('PEXPIRE', messages, keep_ms)
save(position_s)
redis.call(command, channel, table.concat(lines, '\\n'))
return string.format('%.0f', offset)
"""
)

READ = (
    CURRENT
    + """
local position_s, since_epoch, since_offset = ARGV[3], ARGV[4], tonumber(ARGV[5])
trim(count, bytes)
save(offset == 0 and ARGV[6] or position_s)
local missed = offset - since_offset
local whole = epoch == since_epoch and missed >= 0 and missed <= count
local entries = {}
if whole and missed > 0 then entries = redis.call('LRANGE', messages, -missed, -1) end
return {epoch, string.format('%.0f', offset), whole and 1 or 0, entries}
"""
)

RENEW = """
local offset = redis.call('HGET', KEYS[1], 'offset')
if not offset then return 0 end
return redis.call('EXPIRE', KEYS[1], offset == '0' and ARGV[1] or ARGV[2])
"""
"""Keeps a position for longer; returns 0 if it is lost.

It decides by the offset in Redis: a node may not know yet that something was published.
"""


class KeepAndPublish:
    """How a room's messages are published: the script numbers and keeps them first."""

    def __init__(self, backplane: RedisBackplane, settings: RealtimeSettings) -> None:
        self._backplane = backplane
        self._settings = settings

    def send(self, pipeline: Batch, channel: Channel, payloads: Sequence[bytes]) -> None:
        """Keep and publish all in one."""
        settings = self._settings
        pipeline.eval(
            PUBLISH,
            2,
            *self.keys(channel),
            self.keep_ms,
            secrets.token_urlsafe(9),
            self._backplane.client.publish_command,
            self._backplane.name(channel),
            self.position_s,
            settings.history_messages,
            settings.history_bytes,
            *payloads,
        )

    def results(self, reply: Any, count: int) -> Sequence[int]:
        """Return the offsets."""
        last = int(reply)
        return range(last - count + 1, last + 1)

    def keys(self, channel: Channel) -> tuple[str, str]:
        """Return the keys of the messages and of the position."""
        key = self._backplane.key
        return key(channel, "messages"), key(channel, "position")

    @property
    def keep_ms(self) -> int:
        """How long messages are kept."""
        return max(1, round(self._settings.history_s * 1000))

    @property
    def position_s(self) -> int:
        """How long the position is kept after a message."""
        return round(self._settings.history_s) + POSITION_S


class RedisHistory:
    """Keeps rooms' messages in Redis, and sees to it that this node misses none."""

    def __init__(self, backplane: RedisBackplane, settings: RealtimeSettings) -> None:
        self.backplane = backplane
        self._publish = KeepAndPublish(backplane, settings)
        self._feeds: set[RedisFeed] = set()
        self._behind: dict[RedisFeed, None] = {}
        self._has_behind = asyncio.Event()
        backplane.client.probe_with(self._attempt)

    def publish(self, room: str, envelope: Envelope) -> asyncio.Future[int]:
        """Hand a message to Redis, to be kept and published."""
        return self.backplane.publisher.publish(self._publish, room_channel(room), envelope)

    def open(self, room: str, deliver: Deliver, announce: Announce) -> Feed:
        """Subscribe to the room's channel, and check what comes."""
        feed = RedisFeed(room, self, deliver, announce)
        self._feeds.add(feed)
        return feed

    def forget(self, feed: "RedisFeed") -> None:
        """Look after a feed no more."""
        self._feeds.discard(feed)
        self._behind.pop(feed, None)

    def heal_later(self, feed: "RedisFeed") -> None:
        """Have one feed look for what it missed."""
        self._behind[feed] = None
        self._has_behind.set()

    async def run(self) -> None:
        """Heal feeds that are behind, and renew the positions of rooms, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._heal())
            tasks.create_task(self._renew(UNUSED_S, unused=True))
            tasks.create_task(self._renew(POSITION_S, unused=False))

    async def _renew(self, kept_s: float, *, unused: bool) -> None:
        while True:
            await asyncio.sleep(kept_s / RENEWALS)
            feeds = list(self._feeds)
            try:
                for start in range(0, len(feeds), RENEWED_AT_ONCE):
                    some = feeds[start : start + RENEWED_AT_ONCE]
                    await self._renew_some([feed for feed in some if feed.is_unused == unused])
                    await asyncio.sleep(0)  # also where there was nothing to renew
            except FAILURES as failure:  # there are more renewals than are needed
                log.warning("renewing positions of rooms failed", error=explain(failure))

    async def _renew_some(self, feeds: Sequence["RedisFeed"]) -> None:
        """Renew some positions in one round trip; a feed whose position is lost reads it again."""
        pipeline = self.backplane.client.commands.pipeline(transaction=False)
        for feed in feeds:
            _, position = self._publish.keys(room_channel(feed.room))
            pipeline.eval(RENEW, 1, position, UNUSED_S, self._publish.position_s)
        async with answered_within(self.backplane.timeout_s):
            replies = await pipeline.execute(raise_on_error=False)
        for feed, reply in zip(feeds, replies, strict=True):
            if reply == 0 and feed.position is not NOWHERE:
                feed.fall_behind()

    async def _heal(self) -> None:
        while True:
            await self._has_behind.wait()
            feeds = list(islice(self._behind, HEALING_AT_ONCE))
            for feed in feeds:  # which may fall behind again meanwhile
                del self._behind[feed]
            healed = await asyncio.gather(*(feed.heal() for feed in feeds))
            for feed, is_healed in zip(feeds, healed, strict=True):
                if not is_healed:
                    self._behind[feed] = None
            if not all(healed):
                await asyncio.sleep(self.backplane.timeout_s)
            if not self._behind:
                self._has_behind.clear()

    async def read(self, room: str, since: Position) -> "Reading":
        """Return where the room stands, and what it has said since a position.

        Raises:
            Unavailable: Redis does not answer.

        """
        command = self._read_command(room_channel(room), since)
        reply = await self.backplane.client.ask(*command, repeatable=True)
        return Reading.of(reply, since)

    def _read_command(self, channel: Channel, since: Position) -> Sequence[str | int]:
        return (
            *("EVAL", READ, 2, *self._publish.keys(channel)),
            *(self._publish.keep_ms, secrets.token_urlsafe(9), self._publish.position_s),
            *(since.epoch, since.offset, UNUSED_S),
        )

    def _attempt(self, pipeline: Batch, channel: Channel) -> None:
        self._publish.send(pipeline, channel, [Envelope(None, None).encode()])
        pipeline.execute_command(*self._read_command(channel, NOWHERE))


@dataclass(frozen=True, slots=True)
class Reading:
    """Where a room stands, and what it has said since another position, null if that is lost."""

    position: Position
    missed: tuple[RoomEnvelope, ...] | None

    @classmethod
    def of(cls, reply: Any, since: Position) -> Self:
        """Return what the script has answered.

        Whoever can reach Redis can write there. What is kept is believed only if it is an envelope,
        and has the place that it must have.
        """
        epoch, offset, whole, entries = reply
        position = Position(epoch.decode(), int(offset))
        if not whole:
            return cls(position, None)
        try:
            missed = tuple(RoomEnvelope.decode(entry.partition(b" ")[2]) for entry in entries)
        except ValidationError:
            log.warning("malformed history refused")
            return cls(position, None)
        offsets = range(since.offset + 1, position.offset + 1)
        if [each.position for each in missed] != [Position(position.epoch, n) for n in offsets]:
            log.warning("inconsistent history refused")
            return cls(position, None)
        return cls(position, missed)


class RedisFeed:
    """A room's messages as they come from Redis: in order, each once, none left out silently.

    While something is missing, or nothing is known yet, newer messages are held back.
    """

    def __init__(
        self, room: str, history: RedisHistory, deliver: Deliver, announce: Announce
    ) -> None:
        self.room = room
        self._history = history
        self._deliver = deliver
        self._announce = announce
        self._whole_since = NOWHERE
        self._held: deque[RoomEnvelope] | None = deque(maxlen=MOST_HELD)
        self._closed = False
        self._waiting = 0
        self._recent: list[tuple[RoomEnvelope, Position]] = []
        self._moved = asyncio.Event()
        self.position = NOWHERE
        self._subscription = history.backplane.subscribe(
            Subscription(room_channel(room), self._take, RoomEnvelope, self.fall_behind)
        )

    @property
    def is_unused(self) -> bool:
        """Whether nothing was published in the epoch, as far as the feed knows."""
        return self.position.offset == 0

    def is_whole_since(self, position: Position) -> bool:
        """Return whether all after the position was delivered, up to the feed's own."""
        return (
            position.epoch == self.position.epoch
            and self._whole_since.offset <= position.offset <= self.position.offset
        )

    async def past(self, since: Position | None) -> Past:
        """Return what was said before now; on return nothing that is said escapes the feed.

        Raises:
            Unavailable: the subscription is not confirmed, or the history not read, in time.

        """
        await self._history.backplane.confirm(self._subscription)
        self._waiting += 1
        try:
            reading = await self._history.read(self.room, since or NOWHERE)
            if self.position is NOWHERE:
                self._begin(reading.position)
                self._release()
            await self._reach(reading.position)
            if since is None:
                return Past(self.position)
            if reading.missed is None or not self.is_whole_since(reading.position):
                return Past(self.position, recovered=False)
            later = (
                envelope
                for envelope, position in self._recent
                if position.is_after(reading.position)
            )
            return Past(self.position, (*reading.missed, *later), recovered=True)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._recent.clear()

    def close(self) -> None:
        """Unsubscribe."""
        self._closed = True
        self._history.backplane.unsubscribe(self._subscription)
        self._history.forget(self)

    def fall_behind(self) -> None:
        """Hold newer messages back until what may be missing has been read."""
        self._hold()
        self._history.heal_later(self)

    async def heal(self) -> bool:
        """Read and deliver what is missing, or announce it; return whether that is done."""
        if self._closed:
            return True
        if self.position is NOWHERE:  # the first reading is still to come
            return False
        self._hold()
        try:
            reading = await self._history.read(self.room, self.position)
        except Unavailable:
            return False
        if reading.missed is None:
            self._begin(reading.position)
            self._announce(Resync(room=self.room))
        else:
            for envelope in reading.missed:
                self._emit(envelope)
        self._release()
        return True

    def _hold(self) -> None:
        if self._held is None:
            self._held = deque(maxlen=MOST_HELD)

    def _begin(self, position: Position) -> None:
        self.position = self._whole_since = position

    def _take(self, envelope: RoomEnvelope) -> None:
        position = envelope.position
        if envelope.event is not None:
            self._deliver(envelope)
        elif self._held is not None:
            self._held.append(envelope)
        elif position == self.position.next:
            self._emit(envelope)
        elif position.epoch != self.position.epoch or position.offset > self.position.offset:
            self.fall_behind()  # and read this one together with those before it

    def _emit(self, envelope: RoomEnvelope) -> None:
        self.position = self.position.next
        self._deliver(envelope)
        if self._waiting:
            self._recent.append((envelope, self.position))
            self._moved.set()

    def _release(self) -> None:
        held, self._held = self._held or (), None
        for envelope in held:
            self._take(envelope)
        self._moved.set()

    async def _reach(self, position: Position) -> None:
        try:
            async with asyncio.timeout(self._history.backplane.timeout_s):
                while not self._has_reached(position):
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            self.fall_behind()
            msg = "the room's messages are late just now"
            raise Unavailable(msg) from None

    def _has_reached(self, position: Position) -> bool:
        if self._held is not None:
            return False
        if self.position.epoch != position.epoch:
            self.fall_behind()
            return False
        return self.position.offset >= position.offset
