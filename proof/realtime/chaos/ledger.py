"""The books: what was published in each room, what each member got of it, and what it was told.

All clients live in one process, so that whatever happens there has a place in one order, its
*tick*. It is by ticks that a message is known to have been published while somebody was a member.
"""

from collections import Counter
from itertools import count
from typing import NamedTuple

from app.realtime.rooms.history import Position


class Message:
    """A message: when it was sent and acknowledged, and its offset, null until that is known.

    ``spared`` is the member that sent it without ``echo``, and need not get it.
    """

    __slots__ = ("acknowledged_at", "offset", "room", "sent_at", "spared")

    def __init__(self, room: str, sent_at: int, spared: "Membership | None") -> None:
        self.room = room
        self.sent_at = sent_at
        self.spared = spared
        self.acknowledged_at: int | None = None
        self.offset: int | None = None


class Gap(NamedTuple):
    """What a member was told: between these positions something may be missing.

    Whatever has its place after ``since`` was acknowledged after ``opened_at``; what has its place
    up to ``until`` was sent before ``told_at``.
    """

    since: Position
    until: Position
    opened_at: int
    told_at: int

    def may_hold(self, message: Message) -> bool:
        """Return whether it can be this acknowledged message that is missing."""
        if message.acknowledged_at is None or message.offset is None:
            return False
        if message.acknowledged_at <= self.opened_at or message.sent_at >= self.told_at:
            return False
        if self.since.epoch != self.until.epoch:  # offsets of different epochs tell nothing
            return True
        return self.since.offset < message.offset <= self.until.offset


class Totals(NamedTuple):
    """What it all adds up to.

    ``sent`` were acknowledged with an offset, ``unsure`` were not: they may arrive or not. The next
    four count deliveries of what was sent to those who were members by then: for each message and
    member exactly one of them. The last two count all that any member ever got.
    """

    sent: int = 0
    unsure: int = 0
    live: int = 0
    recovered: int = 0
    announced: int = 0
    lost: int = 0
    doubled: int = 0
    misplaced: int = 0

    @property
    def is_right(self) -> bool:
        """Whether the service has kept its promise."""
        return not (self.lost or self.doubled or self.misplaced)


class Ledger:
    """Everything that was published, and everybody's memberships."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.memberships: list[Membership] = []
        self._ticks = count(1)
        self._misplaced = 0

    def tick(self) -> int:
        """Return the place of what happens now."""
        return next(self._ticks)

    def open(self, room: str) -> "Membership":
        """Keep a book on somebody who is about to join a room."""
        membership = Membership(room, self)
        self.memberships.append(membership)
        return membership

    def send(self, room: str, spared: "Membership | None" = None) -> int:
        """Note a message that is about to be published; return its number."""
        self.messages.append(Message(room, self.tick(), spared))
        return len(self.messages) - 1

    def acknowledge(self, number: int, offset: int) -> None:
        """Note an ``ok``."""
        self.messages[number].acknowledged_at = self.tick()
        self.place(number, offset)

    def place(self, number: int, offset: int) -> None:
        """Note the offset of a message, which must be the same for all who hear of it."""
        message = self.messages[number]
        if message.offset is None:
            message.offset = offset
        elif message.offset != offset:
            self._misplaced += 1

    def totals(self) -> Totals:
        """Return the totals, once everybody has come to rest."""
        sent = sum(message.acknowledged_at is not None for message in self.messages)
        unsure = len(self.messages) - sent
        total = Totals(sent=sent, unsure=unsure, misplaced=self._misplaced)
        for membership in self.memberships:
            total = Totals(*map(sum, zip(total, membership.totals(), strict=True)))
        return total


class Membership:
    """One client in one room: what it has received, and its position.

    The position is what it says to a node it comes to: up to there, it has everything but what it
    was told to miss, and what it sent without ``echo``. It moves as the README tells, by the ``ok``
    to ``join`` and by messages, never by the ``ok`` to ``publish``.
    """

    def __init__(self, room: str, ledger: Ledger) -> None:
        self.room = room
        self.position: Position | None = None
        self.joined_at: int | None = None
        self.checked_at = 0
        """When the join was sent that was answered last on this connection, 0 without one."""
        self._ledger = ledger
        self._replays = 0
        self._in_doubt = False
        self._certain_at = 0
        self._gaps: list[Gap] = []
        self._skipped: Counter[int] = Counter()
        self._live: set[int] = set()
        self._recovered: set[int] = set()
        self._doubled = 0
        self._misplaced = 0

    @property
    def is_complete(self) -> bool:
        """Whether all has come that was promised."""
        return not self._replays and not self._in_doubt

    def enter(
        self, position: Position, asked_at: int, *, recovered: bool | None, replayed: int
    ) -> None:
        """Note the ``ok`` to a join that was sent at a tick."""
        told_at = self._ledger.tick()
        if self.position is None:
            self.joined_at = told_at
        elif recovered is False:
            self._gaps.append(Gap(self.position, position, self._certain_at, told_at))
        elif replayed:
            if Position(position.epoch, position.offset - replayed) != self.position:
                self._misplaced += 1
            position = self.position  # which the replayed messages move
        elif position == self.position or position.is_after(self.position):
            self._skip(self.position.offset, position.offset)
        else:
            self._misplaced += 1
            position = self.position
        if position != self.position:
            self.position, self._certain_at = position, asked_at
        self.checked_at, self._replays, self._in_doubt = asked_at, replayed, False

    def leave(self) -> None:
        """Note the end of a connection, and of what was still to come there."""
        self.checked_at, self._replays, self._in_doubt = 0, 0, False

    def doubt(self) -> None:
        """Note that from here on, offsets may be of another epoch, until a join is answered."""
        self._in_doubt = True

    def take(self, number: int, offset: int) -> None:
        """Note a message."""
        is_replay = self._replays > 0
        if is_replay:
            self._replays -= 1
        if number in self._live or number in self._recovered:
            self._doubled += 1
        else:
            came = self._recovered if is_replay else self._live
            came.add(number)
            self._ledger.place(number, offset)
        if self._in_doubt or self.position is None:
            return
        if offset > self.position.offset:
            self._skip(self.position.offset, offset - 1)
            self.position = Position(self.position.epoch, offset)
            self._certain_at = self._ledger.messages[number].sent_at
        else:
            self._misplaced += 1

    def _skip(self, after: int, until: int) -> None:
        # Which of them are its own may become known later.
        self._skipped.update(range(after + 1, until + 1))

    def _wrongly_skipped(self) -> int:
        own = [message.offset for message in self._ledger.messages if message.spared is self]
        of_others = self._skipped - Counter(offset for offset in own if offset is not None)
        return max(0, of_others.total() - own.count(None))

    def totals(self) -> Totals:
        """Return what became of each message that this member had to get."""
        live = recovered = announced = lost = 0
        for number, message in enumerate(self._ledger.messages):
            if not self._is_due(message):
                continue
            if number in self._live:
                live += 1
            elif number in self._recovered:
                recovered += 1
            elif any(gap.may_hold(message) for gap in self._gaps):
                announced += 1
            else:
                lost += 1
        return Totals(
            live=live,
            recovered=recovered,
            announced=announced,
            lost=lost,
            doubled=self._doubled,
            misplaced=self._misplaced + self._wrongly_skipped(),
        )

    def _is_due(self, message: Message) -> bool:
        return (
            message.room == self.room
            and message.spared is not self
            and message.acknowledged_at is not None
            and self.joined_at is not None
            and message.sent_at > self.joined_at
        )
