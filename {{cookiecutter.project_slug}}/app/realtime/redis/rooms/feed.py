"""A room's messages as they come from Redis: in order, each once, none left out silently."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from ...backplane import Subscription
from ...errors import Unavailable
from ...rooms.history import (
    NOWHERE,
    Announce,
    Deliver,
    Feed,
    Past,
    Position,
    RoomEnvelope,
    room_channel,
)
from ..backplane import Resync

if TYPE_CHECKING:
    from .history import RedisHistory

MOST_HELD = 1_000
"""How many messages wait for older ones; if there are more, all have to be read."""


class RedisFeed(Feed):
    """Checks the numbers of what comes, and reads from the history what is missing.

    While something is missing, or nothing is known yet, newer messages are held back.
    """

    position = NOWHERE

    def __init__(
        self, room: str, history: "RedisHistory", deliver: Deliver, announce: Announce
    ) -> None:
        self.room = room
        self.is_closed = False
        self._history: RedisHistory = history
        self._deliver = deliver
        self._announce = announce
        self._whole_since = NOWHERE
        self._held: deque[RoomEnvelope] | None = deque(maxlen=MOST_HELD)
        self._healing = asyncio.Lock()
        self._reading = 0
        self._recent: list[RoomEnvelope] = []
        self._subscription = history.backplane.subscribe(
            Subscription(room_channel(room), self._take, RoomEnvelope, self.fall_behind)
        )

    @property
    def is_unused(self) -> bool:
        """Whether nothing was published in the epoch, as far as the feed knows."""
        return self.position.offset == 0

    def is_whole_since(self, position: Position) -> bool:
        """Return whether all after the position was delivered, up to the feed's own."""
        return self._has_reached(position) and self._whole_since.offset <= position.offset

    async def past(self, since: Position | None) -> Past:
        """Return what was said before now; on return nothing that is said escapes the feed.

        A client without a position needs no reading. One with a position does: the last message
        may have been lost on its way to this node, and nothing but the history tells.

        Raises:
            Unavailable: the subscription is not confirmed, or the history not read, in time.

        """
        await self._history.backplane.confirm(self._subscription)
        if self._held is None and since is None:
            return Past(self.position)
        self._reading += 1
        try:
            past = await self._history.read(self.room, since or NOWHERE)
            if self.position is NOWHERE:
                self._begin(past.position)
                self._release()
            await self._reach(past.position)
            return Past(self.position) if since is None else self._up_to_here(past)
        finally:
            self._reading -= 1
            if not self._reading:
                self._recent.clear()

    def _up_to_here(self, past: Past) -> Past:
        """Return what was read, and what was delivered since."""
        begin = self._whole_since
        if not past.recovered or begin.epoch != past.position.epoch:
            return Past(self.position, recovered=False)
        if begin.offset > past.position.offset:
            return Past(self.position, recovered=False)
        later = (each for each in self._recent if each.position.is_after(past.position))
        return Past(self.position, (*past.messages, *later), recovered=True)

    def close(self) -> None:
        """Unsubscribe."""
        self.is_closed = True
        self._history.backplane.unsubscribe(self._subscription)
        self._history.forget(self)

    def fall_behind(self) -> None:
        """Hold newer messages back until what may be missing has been read."""
        self._hold()
        self._history.heal_later(self)

    async def heal(self) -> bool:
        """Read and deliver what is missing, or announce it; return whether that is done."""
        if self.is_closed:
            return True
        if self.position is NOWHERE:  # the first reading is still to come
            return False
        try:
            await self._catch_up()
        except Unavailable:
            return False
        return True

    async def _reach(self, position: Position) -> None:
        """Deliver all up to a position that the room has: what is late, or lost, is read."""
        if not self._has_reached(position):
            try:
                await self._catch_up(position)
            except Unavailable:
                self.fall_behind()
                raise

    def _has_reached(self, position: Position) -> bool:
        return position == self.position or self.position.is_after(position)

    async def _catch_up(self, position: Position | None = None) -> None:
        async with self._healing:
            if position is not None and self._has_reached(position):
                return  # another one has read meanwhile
            self._hold()
            missed = await self._history.read(self.room, self.position)
            if not missed.recovered:
                self._begin(missed.position)
                self._announce(Resync(room=self.room))
            for envelope in missed.messages:
                self._emit(envelope)
            self._release()

    def _hold(self) -> None:
        if self._held is None:
            self._held = deque(maxlen=MOST_HELD)

    def _release(self) -> None:
        held, self._held = self._held or (), None
        for envelope in held:
            self._take(envelope)

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
        elif not self._has_reached(position):
            self.fall_behind()  # and read this one together with those before it

    def _emit(self, envelope: RoomEnvelope) -> None:
        self.position = envelope.position
        self._deliver(envelope)
        if self._reading:
            self._recent.append(envelope)
