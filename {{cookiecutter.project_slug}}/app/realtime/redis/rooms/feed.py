"""A room's messages on this node: in order, each once. Every gap is filled or announced."""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...backplane import Deliver, Envelope, Subscription
from ...errors import TooLarge, Unavailable
from ...rooms.history import NOWHERE, Announce, Position, room_channel
from ..backplane import Resync
from ..connections import answered_within

if TYPE_CHECKING:
    from .history import RedisHistory

MAX_HELD = 1_000
"""Messages held until older ones are read; beyond it, the oldest are dropped and read again."""

ARRIVAL_S = 0.5
"""How long a message that is in the history may take to arrive, before it counts as lost."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A `Replay` as Redis stores it: its messages are envelopes, not frames."""

    position: Position
    messages: tuple[Envelope, ...] = ()
    recovered: bool | None = None


class RedisFeed:
    """Checks the offsets of a room's messages, and reads missing messages from the history.

    ``position`` is that of the last delivered message. Newer messages are held while older ones are
    missing, and until the history is read for the first time.
    """

    def __init__(
        self, room: str, history: "RedisHistory", deliver: Deliver, announce: Announce
    ) -> None:
        self.room = room
        self.rules = history.rules_of(room)
        self.position = NOWHERE
        self.is_closed = False
        self._history = history
        self._deliver = deliver
        self._announce = announce
        # None while messages are delivered at once
        self._held: deque[Envelope] | None = deque(maxlen=MAX_HELD)
        self._healing = asyncio.Lock()
        self._readers = 0
        # Messages that are delivered while the history is read
        self._recent: deque[Envelope] = deque(maxlen=MAX_HELD)
        self._emitted = asyncio.Event()  # set for a moment by each delivery
        self._subscription = history.backplane.subscribe(
            Subscription(room_channel(room), self._take, self.fall_behind)
        )

    async def replay(self, since: Position | None, last: int = 0) -> Stored:
        """Return the messages since a position, or the last ones; later ones are delivered.

        For either, Redis is asked: this node may have missed the last message without noticing.

        Raises:
            Unavailable: Redis does not confirm the subscription, or does not answer, in time.
        """
        await self._history.backplane.confirm(self._subscription)
        if self._held is None and since is None and not last:
            return Stored(self.position)
        self._readers += 1
        try:
            # Twice if another reader has set a newer position meanwhile: since then, `_recent` has
            # all new messages.
            for _ in range(2):
                stored = await self._history.load(self.room, self.rules, since or NOWHERE, last)
                if self.position is NOWHERE:
                    self.position = stored.position
                    self._release()
                await self._reach(stored.position)
                extended = self._extend(stored)
                if extended.recovered or not stored.recovered:
                    break
            if since is None:
                return Stored(self.position, extended.messages[-last:] if last else ())
            return extended
        finally:
            self._readers -= 1
            if not self._readers:
                self._recent.clear()

    async def _reach(self, position: Position) -> None:
        """Wait until the messages up to a position are delivered; if they are lost, read them."""
        if self._held is None and self.position.epoch == position.epoch:
            with suppress(TimeoutError):
                async with answered_within(ARRIVAL_S):
                    while not self._has_reached(position):
                        await self._emitted.wait()
        if not self._has_reached(position):
            await self._catch_up(position)

    def _extend(self, stored: Stored) -> Stored:
        """Add the messages that were delivered after the history was read, if there is no gap."""
        epoch, offset = stored.position.epoch, stored.position.offset
        later = [each for each in self._recent if each.epoch == epoch and each.offset > offset]
        end = Position(epoch, offset + len(later))
        if not stored.recovered or end != self.position:
            return Stored(self.position, recovered=False)
        return Stored(self.position, (*stored.messages, *later), recovered=True)

    def close(self) -> None:
        """Unsubscribe."""
        self.is_closed = True
        self._history.backplane.unsubscribe(self._subscription)

    def fall_behind(self) -> None:
        """Hold newer messages until the missing messages are read."""
        self._hold()
        self._history.heal_later(self)

    async def heal(self) -> bool:
        """Deliver the missing messages, or announce the gap; return whether this has succeeded."""
        if self.is_closed:
            return True
        if self.position is NOWHERE:  # the history was not read yet
            return False
        try:
            await self._catch_up()
        except Unavailable:
            return False
        return True

    async def _catch_up(self, position: Position | None = None) -> None:
        """Read and deliver the missing messages, unless the position is already reached."""
        async with self._healing:
            if position is not None and self._has_reached(position):
                return
            self._hold()
            try:
                missed = await self._history.load(self.room, self.rules, self.position)
            except BaseException:  # also a cancellation, if the client that joins has gone
                self._history.heal_later(self)
                raise
            if not missed.recovered:
                self._emit_held()
                if not self._has_reached(missed.position):
                    self.position = missed.position
                    self._announce(Resync(room=self.room), missed.position)
            for envelope in missed.messages:
                self._emit(envelope, position_of(envelope))
            self._release()

    def _has_reached(self, position: Position) -> bool:
        return position.epoch == self.position.epoch and position.offset <= self.position.offset

    def _hold(self) -> None:
        if self._held is None:
            self._held = deque(maxlen=MAX_HELD)

    def _emit_held(self) -> None:
        """Deliver held messages up to the first gap."""
        while self._held and position_of(self._held[0]) == self.position.next:
            self._emit(self._held.popleft(), self.position.next)

    def _release(self) -> None:
        held, self._held = self._held or (), None
        for envelope in held:
            self._take(envelope)

    def _take(self, envelope: Envelope) -> None:
        position = position_of(envelope)
        if envelope.event is not None or not (envelope.offset or envelope.epoch):
            self._deliver(envelope)  # it has no number, so it reveals no gap
        elif self._held is not None:
            self._held.append(envelope)
        elif position == self.position.next:
            self._emit(envelope, position)
        elif not self._has_reached(position):
            self.fall_behind()  # it will read this message from the history, too

    def _emit(self, envelope: Envelope, position: Position) -> None:
        self.position = position
        with suppress(TooLarge):  # a node with a larger MAX_UNSENT_BYTES has published it
            self._deliver(envelope)
        if self._readers:
            self._recent.append(envelope)
            self._emitted.set()
            self._emitted.clear()


def position_of(envelope: Envelope) -> Position:
    """Return the position of a message, `NOWHERE` if it is not kept."""
    return Position(envelope.epoch, envelope.offset)
