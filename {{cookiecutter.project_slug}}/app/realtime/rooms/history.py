"""The history of rooms: it numbers messages, keeps the last ones, and replays them on a return.

A room's messages are numbered without holes: ``offset`` counts within an ``epoch``, and a new epoch
begins whenever the count cannot be trusted any more. A client that returns with its position gets
what came since, or is told that something may be missing. It is never left to believe that it has
everything when it has not.

Messages travel by the backplane, as all others do: once they are numbered and kept, they are
published to the room's channel.
"""

import asyncio
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ValidationInfo

from ..backplane import Backplane, Channel, Envelope, Subscription
from ..protocol import ServerFrame
from ..settings.settings import RealtimeSettings

LOG_BYTES = 1_024
"""Estimated size of a log without messages."""

SWEPT_AT_ONCE = 100
"""Logs that one turn of the loop removes at most because of their age."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a room's history: that of its ``offset``-th message in this ``epoch``."""

    epoch: str
    offset: int

    @property
    def next(self) -> "Position":
        """The place of the next message."""
        return Position(self.epoch, self.offset + 1)

    def is_after(self, other: "Position") -> bool:
        """Return whether this place comes later in the same epoch."""
        return self.epoch == other.epoch and self.offset > other.offset


NOWHERE = Position("", 0)
"""Position of a feed that has not read anything, and of events; never a real epoch."""

Event = Literal["joined", "left"]


def _check_sender(event: Event | None, info: ValidationInfo) -> Event | None:
    if event is not None and info.data.get("sender") is None:
        msg = "nobody has joined or left"
        raise ValueError(msg)
    return event


@dataclass(slots=True, kw_only=True)
class RoomEnvelope(Envelope):
    """A message with its position, or the event that its sender has joined or left.

    Events have no data and no position, and are not kept.
    """

    epoch: str = NOWHERE.epoch
    offset: int = NOWHERE.offset
    event: Annotated[Event | None, AfterValidator(_check_sender)] = None

    @classmethod
    def of(cls, envelope: Envelope, position: Position) -> Self:
        """Return the envelope with its position."""
        sender, data, exclude = envelope.sender, envelope.data, envelope.exclude
        return cls(sender, data, exclude, epoch=position.epoch, offset=position.offset)

    @property
    def position(self) -> Position:
        """Position of the message, `NOWHERE` for an event."""
        return Position(self.epoch, self.offset)


@dataclass(frozen=True, slots=True)
class Past:
    """The current position of a room, and its messages since an earlier one, oldest first.

    ``recovered`` is true if nothing can be missing, false if something may be, and null if nobody
    asked. What comes after ``position`` is delivered as it happens.
    """

    position: Position
    messages: tuple[RoomEnvelope, ...] = ()
    recovered: bool | None = None


Deliver = Callable[[RoomEnvelope], None]
Announce = Callable[[ServerFrame], None]


def room_channel(room: str) -> Channel:
    """Return the channel of one room's messages and events."""
    return Channel(f"room:{room}")


class Log:
    """One room's last messages, as JSON, each with the time at which it came."""

    __slots__ = ("_kept", "_settings", "epoch", "has_members", "offset", "size_bytes", "used_at")

    def __init__(self, settings: RealtimeSettings) -> None:
        self._settings = settings
        self._kept: deque[tuple[float, bytes]] = deque()
        self.has_members = False
        self.epoch = secrets.token_urlsafe(9)
        self.offset = 0
        self.size_bytes = LOG_BYTES
        self.used_at = monotonic()

    def __len__(self) -> int:
        """Return the number of messages kept."""
        return len(self._kept)

    @property
    def position(self) -> Position:
        """Position of the last message."""
        return Position(self.epoch, self.offset)

    def append(self, envelope: Envelope) -> RoomEnvelope:
        """Give a message its number and keep it."""
        self.offset += 1
        numbered = RoomEnvelope.of(envelope, self.position)
        if self._settings.history_messages:
            payload = numbered.encode()
            self._kept.append((monotonic(), payload))
            self.size_bytes += len(payload)
            self.trim()
        return numbered

    def trim(self) -> None:
        """Forget the messages that are too old or too many."""
        settings, kept = self._settings, self._kept
        while kept and (
            len(kept) > settings.history_messages
            or self.size_bytes - LOG_BYTES > settings.history_bytes
            or kept[0][0] < self._oldest_allowed
        ):
            self.size_bytes -= len(kept.popleft()[1])

    def clear(self) -> None:
        """Forget all messages, but not how many there were."""
        self._kept.clear()
        self.size_bytes = LOG_BYTES

    def past(self, since: Position | None) -> Past:
        """Return what is kept since a position."""
        if since is None:
            return Past(self.position)
        missed = self.offset - since.offset
        if since.epoch != self.epoch or not 0 <= missed <= len(self._kept):
            return Past(self.position, recovered=False)
        messages = list(self._kept)[len(self._kept) - missed :]
        if messages and messages[0][0] < self._oldest_allowed:
            return Past(self.position, recovered=False)
        envelopes = tuple(RoomEnvelope.decode(payload) for _, payload in messages)
        return Past(self.position, envelopes, recovered=True)

    @property
    def _oldest_allowed(self) -> float:
        return monotonic() - self._settings.history_s


class History:
    """Numbers and keeps what is published to rooms. This one is a single node's, in its memory.

    ``HISTORY_TOTAL_BYTES`` bounds the logs that can be given up: those with messages, and those of
    rooms without members. They are in an order by last use, from whose front they are given up,
    when they are too many or ``HISTORY_S`` old. A log of a room with members only loses its
    messages, since the members rely on its count; once empty it is not in the order, and as many
    exist as there are rooms with members. So no step looks at a log that has nothing to give.
    """

    def __init__(self, backplane: Backplane, settings: RealtimeSettings) -> None:
        self.backplane = backplane
        self._settings = settings
        self._logs: dict[str, Log] = {}
        # Unlike a dict, it finds its first item at once after many before that were removed.
        self._by_use: OrderedDict[str, Log] = OrderedDict()
        self._size_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return the number of logs."""
        return len(self._logs)

    def publish(self, room: str, envelope: Envelope) -> asyncio.Future[int]:
        """Give a message its number, keep it and pass it on, in the order of the calls.

        The future yields its offset, or fails with `Unavailable`.
        """
        log = self._take_out(room)
        numbered = log.append(envelope)
        self._put_back(room, log)
        self.backplane.publish(room_channel(room), numbered)
        taken: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        taken.set_result(numbered.offset)
        return taken

    def open(self, room: str, deliver: Deliver, announce: Announce) -> "Feed":
        """Feed a room's messages to ``deliver``, and what members must know to ``announce``."""
        log = self._take_out(room)
        log.has_members = True
        self._put_back(room, log)
        return Feed(self, room, log, deliver)

    def close(self, room: str) -> None:
        """Keep a room's messages for a while, though nobody is there any more."""
        log = self._take_out(room)
        log.has_members = False
        log.trim()
        self._put_back(room, log)

    def _take_out(self, room: str) -> Log:
        if self._by_use.pop(room, None) is not None:
            self._size_bytes -= self._logs[room].size_bytes
        if room not in self._logs:
            self._logs[room] = Log(self._settings)
        return self._logs[room]

    def _put_back(self, room: str, log: Log) -> None:
        log.used_at = monotonic()
        if log or not log.has_members:
            self._by_use[room] = log
            self._size_bytes += log.size_bytes
            while self._size_bytes > self._settings.history_total_bytes:
                self._give_up_first()
            self._sweep_later()

    def _give_up_first(self) -> None:
        room, log = self._by_use.popitem(last=False)
        self._size_bytes -= log.size_bytes
        if log.has_members:
            log.clear()
        else:
            del self._logs[room]

    def _sweep_later(self) -> None:
        if self._timer is None and self._by_use:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._first_expires_in_s(), self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        for _ in range(SWEPT_AT_ONCE):
            if not self._by_use or self._first_expires_in_s() > 0:
                break
            self._give_up_first()
        self._sweep_later()

    def _first_expires_in_s(self) -> float:
        first = next(iter(self._by_use.values()))
        return first.used_at + self._settings.history_s - monotonic()


class Feed:
    """A room's messages, as long as this node has members of it. A single node has them all."""

    def __init__(self, history: History, room: str, log: Log, deliver: Deliver) -> None:
        self._history = history
        self._room = room
        self._log = log
        subscription = Subscription(room_channel(room), deliver, RoomEnvelope)
        self._subscription = history.backplane.subscribe(subscription)

    @property
    def position(self) -> Position:
        """Position of the last message delivered, `NOWHERE` before the first reading."""
        return self._log.position

    def is_whole_since(self, position: Position) -> bool:
        """Return whether all after the position was delivered, up to the feed's own."""
        return position.epoch == self._log.epoch and position.offset <= self._log.offset

    async def past(self, since: Position | None) -> Past:
        """Return what was said before now; on return nothing that is said escapes the feed.

        Raises:
            Unavailable: that cannot be told just now.

        """
        return self._log.past(since)

    def close(self) -> None:
        """Deliver no more."""
        if self._history.backplane.unsubscribe(self._subscription):
            self._history.close(self._room)
