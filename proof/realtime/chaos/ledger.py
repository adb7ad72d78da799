"""The ledger: published messages, deliveries to each member, and announced gaps.

All clients run in one process, so a counter orders all events: its values are *ticks*. Ticks tell
whether a client was a member when a message was published.

A message is published once, and so has one offset. Only a message with a key can be repeated. When
Redis loses its data, an epoch ends and the keys are forgotten, so a repetition is published again.
A repeated message has at most one offset in each epoch.
"""

from collections import Counter
from itertools import chain, count
from typing import NamedTuple

from app.realtime.rooms.history import Position


class Message:
    """A message: the ticks when it was first sent and acknowledged, and its offsets.

    ``excluded`` is the member that sent it without ``echo``, and does not get it. ``offset`` is the
    acknowledged one, None until then. ``delivered`` has the offset of the deliveries in each epoch;
    a message without a key has one for all epochs, under None.
    """

    __slots__ = (
        *("acknowledged_at", "delivered", "excluded", "has_key"),
        *("is_repeated", "offset", "room", "sent_at"),
    )

    def __init__(
        self, room: str, sent_at: int, excluded: "Membership | None", *, has_key: bool
    ) -> None:
        self.room = room
        self.sent_at = sent_at
        self.excluded = excluded
        self.has_key = has_key
        self.is_repeated = False
        self.acknowledged_at: int | None = None
        self.offset: int | None = None
        self.delivered: dict[str | None, int] = {}

    @property
    def offsets(self) -> list[int]:
        """All known offsets."""
        offsets = list(self.delivered.values())
        if self.offset is not None and self.offset not in offsets:
            offsets.append(self.offset)
        return offsets


class Gap(NamedTuple):
    """An announced gap: messages between these positions may be missing.

    Messages after ``since`` were acknowledged after the tick ``opened_at``; messages up to
    ``until`` were sent before the tick ``told_at``.
    """

    since: Position
    until: Position
    opened_at: int
    told_at: int

    @property
    def ends_epoch(self) -> bool:
        """Whether it ends in another epoch, whose offsets cannot be compared."""
        return self.since.epoch != self.until.epoch

    def overlaps(self, message: Message) -> bool:
        """Return whether the message may have been published within the time of the gap."""
        acknowledged_at = message.acknowledged_at
        is_earlier = acknowledged_at is not None and acknowledged_at <= self.opened_at
        return not is_earlier and message.sent_at < self.told_at

    def may_hold(self, message: Message) -> bool:
        """Return whether this acknowledged message may be in the gap."""
        if message.offset is None or not self.overlaps(message):
            return False
        return self.ends_epoch or self.since.offset < message.offset <= self.until.offset


class Totals(NamedTuple):
    """The counts at the end of a trial.

    ``sent`` to ``repeated`` count messages. ``live`` to ``lost`` count each sent message once for
    each member that has to get it. The next two count deliveries of any message. ``loads`` counts
    how often followers have loaded the state.
    """

    sent: int = 0
    unacknowledged: int = 0
    repeated: int = 0
    live: int = 0
    recovered: int = 0
    announced: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    loads: int = 0

    def plus(self, other: "Totals") -> "Totals":
        """Return the sums of all counts."""
        return Totals(*map(sum, zip(self, other, strict=True)))

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

    def tick(self) -> int:
        """Return the next tick."""
        return next(self._ticks)

    def open(self, room: str) -> "Membership":
        """Add a membership for a client that is about to join a room."""
        membership = Membership(room, self)
        self.memberships.append(membership)
        return membership

    def send(
        self, room: str, excluded: "Membership | None" = None, *, has_key: bool = False
    ) -> int:
        """Record a message that is about to be published; return its number."""
        self.messages.append(Message(room, self.tick(), excluded, has_key=has_key))
        return len(self.messages) - 1

    def repeat(self, number: int) -> None:
        """Record that a message with a key is about to be published again."""
        self.messages[number].is_repeated = True

    def acknowledge(self, number: int, offset: int) -> None:
        """Record the ``ok`` to a message."""
        message = self.messages[number]
        message.acknowledged_at, message.offset = self.tick(), offset

    def totals(self) -> Totals:
        """Return the totals; valid after all clients have settled."""
        sent = sum(message.acknowledged_at is not None for message in self.messages)
        total = Totals(
            sent=sent,
            unacknowledged=len(self.messages) - sent,
            repeated=sum(message.is_repeated for message in self.messages),
            out_of_order=sum(map(self._is_misplaced, self.messages)),
        )
        for membership in self.memberships:
            total = total.plus(membership.totals())
        return total

    def _is_misplaced(self, message: Message) -> bool:
        """Return whether a message was acknowledged with another offset than it was delivered with.

        If it can have several offsets, the acknowledged one may be of an epoch where all members
        miss it in announced gaps.
        """
        delivered = message.delivered.values()
        if message.offset is None or not delivered or message.offset in delivered:
            return False
        members = (each for each in self.memberships if each.room == message.room)
        return all(each.most_offsets(message) == 1 for each in members)


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
        self._received: set[tuple[int, str | None]] = set()
        self._undated: list[tuple[int, int]] = []
        """Deliveries whose epoch is unknown, of messages with a key."""
        self._unplaced: set[int] = set()
        """Offsets received between a ``resync`` and the answered join; perhaps of its epoch."""
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
        for number, offset in self._undated:
            self._record(number, offset, position.epoch)
        self._undated.clear()
        if self.position is None:
            self.joined_at = told_at
        elif recovered is False:
            self._gaps.append(Gap(self.position, position, self._certain_since, told_at))
        elif replayed:
            if Position(position.epoch, position.offset - replayed) != self.position:
                self._out_of_order += 1
            position = self.position  # the replayed messages will move it
        elif position.epoch == self.position.epoch and position.offset >= self.position.offset:
            self._skip(self.position.offset, position.offset)
        else:
            self._out_of_order += 1
            position = self.position
        if position != self.position:
            self.position, self._certain_since = position, join_sent_at
        self.rejoined_at, self._replays, self._position_unknown = join_sent_at, replayed, False
        self._unplaced.clear()

    def disconnected(self) -> None:
        """Record the end of the connection, and of its replay."""
        self.rejoined_at, self._replays, self._position_unknown = 0, 0, False
        self._undated.clear()
        self._unplaced.clear()

    def resync(self) -> None:
        """Record that offsets may be of another epoch, until the next join is answered."""
        self._position_unknown = True
        self._undated.clear()

    def received(self, number: int, offset: int) -> None:
        """Record a delivered message."""
        is_replay = self._replays > 0
        if is_replay:
            self._replays -= 1
        (self._recovered if is_replay else self._live).add(number)
        message = self._ledger.messages[number]
        position = None if self._position_unknown else self.position
        if position is None:
            self._unplaced.add(offset)
            if message.has_key:
                self._undated.append((number, offset))
            else:
                self._record(number, offset, None)
            return
        self._record(number, offset, position.epoch)
        if offset > position.offset:
            self._skip(position.offset, offset - 1)
            self.position = Position(position.epoch, offset)
            self._certain_since = max(self._certain_since, message.sent_at)
        else:
            self._out_of_order += 1

    def _record(self, number: int, offset: int, epoch: str | None) -> None:
        """Count a delivery in an epoch; without a key, a message is delivered in one only."""
        message = self._ledger.messages[number]
        in_epoch = epoch if message.has_key else None
        if (number, in_epoch) in self._received:
            self._duplicated += 1
            return
        self._received.add((number, in_epoch))
        if message.delivered.setdefault(in_epoch, offset) != offset:
            self._out_of_order += 1

    def _skip(self, after: int, until: int) -> None:
        # The acknowledgements of its own messages may come later.
        self._skipped.update(set(range(after + 1, until + 1)) - self._unplaced)

    def _skipped_from_others(self) -> int:
        """Return how many skipped offsets cannot be those of its own messages without ``echo``."""
        own = [message for message in self._ledger.messages if message.excluded is self]
        known = Counter(chain.from_iterable(message.offsets for message in own))
        unknown = sum(max(0, self.most_offsets(each) - len(each.offsets)) for each in own)
        return max(0, (self._skipped - known).total() - unknown)

    def most_offsets(self, message: Message) -> int:
        """Return how many offsets a message can have: one in each epoch that this member saw."""
        if not message.is_repeated:
            return 1
        return 1 + sum(gap.ends_epoch and gap.overlaps(message) for gap in self._gaps)

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
