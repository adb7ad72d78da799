"""The ledger: published messages, deliveries to each member, and announced gaps.

All clients run in one process, so a counter orders all events: its values are *ticks*. Ticks tell
whether a client was a member when a message was published.
"""

from collections import Counter
from itertools import count
from typing import NamedTuple

from app.realtime.rooms.history import Position


class Message:
    """A message: the ticks when it was sent and acknowledged, and its offset, None until known.

    ``excluded`` is the member that sent it without ``echo``, and does not get it.
    """

    __slots__ = ("acknowledged_at", "excluded", "offset", "room", "sent_at")

    def __init__(self, room: str, sent_at: int, excluded: "Membership | None") -> None:
        self.room = room
        self.sent_at = sent_at
        self.excluded = excluded
        self.acknowledged_at: int | None = None
        self.offset: int | None = None


class Gap(NamedTuple):
    """An announced gap: messages between these positions may be missing.

    Messages after ``since`` were acknowledged after the tick ``opened_at``; messages up to
    ``until`` were sent before the tick ``told_at``.
    """

    since: Position
    until: Position
    opened_at: int
    told_at: int

    def may_hold(self, message: Message) -> bool:
        """Return whether this acknowledged message may be in the gap."""
        if message.acknowledged_at is None or message.offset is None:
            return False
        if message.acknowledged_at <= self.opened_at or message.sent_at >= self.told_at:
            return False
        if self.since.epoch != self.until.epoch:  # offsets of different epochs cannot be compared
            return True
        return self.since.offset < message.offset <= self.until.offset


class Totals(NamedTuple):
    """The counts at the end of a trial.

    ``sent`` and ``unacknowledged`` count messages. ``live`` to ``lost`` count each sent message
    once for each member that has to get it. The last two count deliveries of any message.
    """

    sent: int = 0
    unacknowledged: int = 0
    live: int = 0
    recovered: int = 0
    announced: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0

    @property
    def is_correct(self) -> bool:
        """Whether no message was lost, duplicated or out of order."""
        return not (self.lost or self.duplicated or self.out_of_order)


class Ledger:
    """All published messages, and the memberships of all clients."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.memberships: list[Membership] = []
        self._ticks = count(1)
        self._out_of_order = 0

    def tick(self) -> int:
        """Return the next tick."""
        return next(self._ticks)

    def open(self, room: str) -> "Membership":
        """Add a membership for a client that is about to join a room."""
        membership = Membership(room, self)
        self.memberships.append(membership)
        return membership

    def send(self, room: str, excluded: "Membership | None" = None) -> int:
        """Record a message that is about to be published; return its number."""
        self.messages.append(Message(room, self.tick(), excluded))
        return len(self.messages) - 1

    def acknowledge(self, number: int, offset: int) -> None:
        """Record the ``ok`` to a message."""
        self.messages[number].acknowledged_at = self.tick()
        self.place(number, offset)

    def place(self, number: int, offset: int) -> None:
        """Record the offset of a message, which must be the same for all members."""
        message = self.messages[number]
        if message.offset is None:
            message.offset = offset
        elif message.offset != offset:
            self._out_of_order += 1

    def totals(self) -> Totals:
        """Return the totals; valid after all clients have settled."""
        sent = sum(message.acknowledged_at is not None for message in self.messages)
        unacknowledged = len(self.messages) - sent
        total = Totals(sent=sent, unacknowledged=unacknowledged, out_of_order=self._out_of_order)
        for membership in self.memberships:
            total = Totals(*map(sum, zip(total, membership.totals(), strict=True)))
        return total


class Membership:
    """One client in one room: the messages that it received, and its position.

    The position is what the client sends as ``since``: up to there it has received every message,
    except in announced gaps and its own without ``echo``. As the protocol says, the ``ok`` to
    ``join`` and messages move it, and the ``ok`` to ``publish`` does not.
    """

    def __init__(self, room: str, ledger: Ledger) -> None:
        self.room = room
        self.position: Position | None = None
        self.joined_at: int | None = None
        self.rejoined_at = 0
        """Tick of the last answered join on this connection, 0 without one."""
        self._ledger = ledger
        self._replays = 0
        self._position_unknown = False
        self._certain_since = 0
        self._gaps: list[Gap] = []
        self._skipped: Counter[int] = Counter()
        self._live: set[int] = set()
        self._recovered: set[int] = set()
        self._duplicated = 0
        self._out_of_order = 0

    @property
    def is_complete(self) -> bool:
        """Whether the replay is complete and the position is known."""
        return not self._replays and not self._position_unknown

    def join_answered(
        self, position: Position, join_sent_at: int, *, recovered: bool | None, replayed: int
    ) -> None:
        """Record the ``ok`` to a join that was sent at a tick."""
        told_at = self._ledger.tick()
        if self.position is None:
            self.joined_at = told_at
        elif recovered is False:
            self._gaps.append(Gap(self.position, position, self._certain_since, told_at))
        elif replayed:
            if Position(position.epoch, position.offset - replayed) != self.position:
                self._out_of_order += 1
            position = self.position  # the replayed messages will move it
        elif position == self.position or position.is_after(self.position):
            self._skip(self.position.offset, position.offset)
        else:
            self._out_of_order += 1
            position = self.position
        if position != self.position:
            self.position, self._certain_since = position, join_sent_at
        self.rejoined_at, self._replays, self._position_unknown = join_sent_at, replayed, False

    def disconnected(self) -> None:
        """Record the end of the connection, and of its replay."""
        self.rejoined_at, self._replays, self._position_unknown = 0, 0, False

    def resync(self) -> None:
        """Record that offsets may be of another epoch, until the next join is answered."""
        self._position_unknown = True

    def received(self, number: int, offset: int) -> None:
        """Record a delivered message."""
        is_replay = self._replays > 0
        if is_replay:
            self._replays -= 1
        if number in self._live or number in self._recovered:
            self._duplicated += 1
        else:
            came = self._recovered if is_replay else self._live
            came.add(number)
            self._ledger.place(number, offset)
        if self._position_unknown or self.position is None:
            return
        if offset > self.position.offset:
            self._skip(self.position.offset, offset - 1)
            self.position = Position(self.position.epoch, offset)
            self._certain_since = self._ledger.messages[number].sent_at
        else:
            self._out_of_order += 1

    def _skip(self, after: int, until: int) -> None:
        # The acknowledgements of its own messages may come later.
        self._skipped.update(range(after + 1, until + 1))

    def _skipped_from_others(self) -> int:
        own = [message.offset for message in self._ledger.messages if message.excluded is self]
        of_others = self._skipped - Counter(offset for offset in own if offset is not None)
        return max(0, of_others.total() - own.count(None))

    def totals(self) -> Totals:
        """Return the counts of the messages that this member has to get."""
        live = recovered = announced = lost = 0
        for number, message in enumerate(self._ledger.messages):
            if not self._is_owed(message):
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
            duplicated=self._duplicated,
            out_of_order=self._out_of_order + self._skipped_from_others(),
        )

    def _is_owed(self, message: Message) -> bool:
        return (
            message.room == self.room
            and message.excluded is not self
            and message.acknowledged_at is not None
            and self.joined_at is not None
            and message.sent_at > self.joined_at
        )
