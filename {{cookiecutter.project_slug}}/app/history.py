"""What a room has said lately, so that whoever was away for a moment misses nothing.

A room's messages are numbered without holes: ``offset`` counts within an ``epoch``, and a new epoch
begins whenever the count cannot be trusted any more. A client that returns with the position it had
gets what came since, or is told that something may be missing; it is never left to believe that it
has everything.
"""

import asyncio
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Literal, Protocol, Self

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from .backplane import Backplane, Channel, Envelope, Subscription
from .protocol import ServerFrame
from .settings import SettingsPart

LOG_BYTES = 1_024
"""What an empty log takes, about."""


class HistorySettings(SettingsPart):
    """How much of each room is kept, and for how long; with no messages kept there is no history.

    ``history_total_bytes`` is for all rooms of this process together.
    """

    history_messages: NonNegativeInt = 100
    history_s: PositiveFloat = 300.0
    history_bytes: PositiveInt = 262_144
    history_total_bytes: PositiveInt = 67_108_864


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


@dataclass(slots=True, kw_only=True)
class RoomEnvelope(Envelope):
    """A message with its place in the history, or the news that its sender has come or gone.

    News are not kept, and have no data. Where no history is kept, messages have no place either.
    """

    epoch: str | None = None
    offset: int | None = None
    event: Literal["joined", "left"] | None = None

    @classmethod
    def of(cls, envelope: Envelope, epoch: str | None = None, offset: int | None = None) -> Self:
        """Return the envelope with a place."""
        sender, data, exclude = envelope.sender, envelope.data, envelope.exclude
        return cls(sender, data, exclude, epoch=epoch, offset=offset)

    @property
    def position(self) -> Position | None:
        """The two as one."""
        if self.epoch is None or self.offset is None:
            return None
        return Position(self.epoch, self.offset)


@dataclass(frozen=True, slots=True)
class Past:
    """Where a room stands, and what it has said since a position, oldest first.

    ``recovered`` is true if nothing can be missing, false if something may be, and null if nobody
    asked. What comes after ``position`` is delivered as it happens.
    """

    position: Position | None = None
    messages: tuple[RoomEnvelope, ...] = ()
    recovered: bool | None = None


Deliver = Callable[[RoomEnvelope], None]
Announce = Callable[[ServerFrame], None]


class Feed(Protocol):
    """A room's messages, as long as this node has members of it."""

    @property
    def position(self) -> Position | None:
        """Up to where messages have been delivered."""

    def is_whole_since(self, position: Position) -> bool:
        """Return whether all after the position was delivered, up to the feed's own."""

    async def past(self, since: Position | None) -> Past:
        """Return what was said before now; on return nothing that is said escapes the feed.

        Raises:
            Unavailable: that cannot be told just now.

        """

    def close(self) -> None:
        """Deliver no more."""


class History(Protocol):
    """Keeps what is published to rooms, and feeds it to their members on every node."""

    def publish(self, room: str, envelope: Envelope) -> asyncio.Future[int] | asyncio.Future[None]:
        """Keep a message and pass it on, in the order of the calls.

        The future yields its offset, null where none is kept, or fails with `Unavailable`.
        """

    def open(self, room: str, deliver: Deliver, announce: Announce) -> Feed:
        """Feed a room's messages to ``deliver``, and what members must know to ``announce``."""


def room_channel(room: str) -> Channel:
    """Return the channel of one room's messages."""
    return Channel(f"room:{room}")


class NoHistory:
    """Passes messages on and keeps none."""

    def __init__(self, backplane: Backplane) -> None:
        self._backplane = backplane

    def publish(self, room: str, envelope: Envelope) -> asyncio.Future[None]:
        """Pass a message on."""
        return self._backplane.publish(room_channel(room), RoomEnvelope.of(envelope))

    def open(self, room: str, deliver: Deliver, announce: Announce) -> "PassingFeed":
        """Subscribe to the room's channel."""
        subscription = Subscription(room_channel(room), deliver, RoomEnvelope)
        return PassingFeed(self._backplane, self._backplane.subscribe(subscription))


class PassingFeed:
    """A room's messages as they pass."""

    position = None

    def __init__(self, backplane: Backplane, subscription: Subscription) -> None:
        self._backplane = backplane
        self._subscription = subscription

    def is_whole_since(self, position: Position) -> bool:
        """Return false: nothing is known."""
        return False

    async def past(self, since: Position | None) -> Past:
        """Wait for the subscription; there is no past.

        Raises:
            Unavailable: the subscription is not confirmed in time.

        """
        await self._backplane.confirm(self._subscription)
        return Past(recovered=None if since is None else False)

    def close(self) -> None:
        """Unsubscribe."""
        self._backplane.unsubscribe(self._subscription)


class MemoryLog:
    """One room's last messages, as JSON, each with the time at which it came."""

    __slots__ = ("_kept", "_settings", "deliver", "epoch", "offset", "size_bytes")

    def __init__(self, settings: HistorySettings) -> None:
        self._settings = settings
        self._kept: deque[tuple[float, bytes]] = deque()
        self.deliver: Deliver | None = None
        self.epoch = secrets.token_urlsafe(9)
        self.offset = 0
        self.size_bytes = LOG_BYTES

    def __len__(self) -> int:
        """Return the number of messages kept."""
        return len(self._kept)

    @property
    def position(self) -> Position:
        """The place of the last message."""
        return Position(self.epoch, self.offset)

    def append(self, envelope: Envelope) -> RoomEnvelope:
        """Give a message its number and keep it."""
        self.offset += 1
        kept = RoomEnvelope.of(envelope, self.epoch, self.offset)
        payload = kept.encode()
        self._kept.append((monotonic(), payload))
        self.size_bytes += len(payload)
        self.trim()
        return kept

    def trim(self) -> None:
        """Forget what is too old or too much."""
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


class MemoryHistory:
    """The history of a single node, in its memory.

    A log goes when its messages have and nobody is in the room. When all logs together are too
    large, those go first that nobody has published to for the longest time.
    """

    def __init__(self, settings: HistorySettings) -> None:
        self._settings = settings
        self._logs: OrderedDict[str, MemoryLog] = OrderedDict()
        self._size_bytes = 0
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return the number of logs."""
        return len(self._logs)

    def publish(self, room: str, envelope: Envelope) -> asyncio.Future[int]:
        """Keep a message, and deliver it at once."""
        log = self._log(room)
        self._logs.move_to_end(room)  # now the last to be forgotten
        self._size_bytes -= log.size_bytes
        kept = log.append(envelope)
        self._size_bytes += log.size_bytes
        self._make_room()
        if log.deliver is not None:
            log.deliver(kept)
        taken: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        taken.set_result(log.offset)
        return taken

    def open(self, room: str, deliver: Deliver, announce: Announce) -> "MemoryFeed":
        """Deliver a room's messages from now on."""
        log = self._log(room)
        log.deliver = deliver
        return MemoryFeed(log)

    def sweep(self) -> None:
        """Forget what is too old, in all rooms."""
        for room, log in list(self._logs.items()):
            self._size_bytes -= log.size_bytes
            log.trim()
            if log or log.deliver is not None:
                self._size_bytes += log.size_bytes
            else:
                del self._logs[room]
        self._sweep = None
        self._sweep_later()

    def _sweep_later(self) -> None:
        if self._sweep is None and self._logs:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(self._settings.history_s, self.sweep)

    def _log(self, room: str) -> MemoryLog:
        log = self._logs.get(room)
        if log is None:
            log = self._logs[room] = MemoryLog(self._settings)
            self._size_bytes += log.size_bytes
            self._sweep_later()
        return log

    def _make_room(self) -> None:
        for _ in range(len(self._logs)):
            if self._size_bytes <= self._settings.history_total_bytes:
                break
            room, log = self._logs.popitem(last=False)
            self._size_bytes -= log.size_bytes
            if log.deliver is not None:  # whoever is in the room relies on its count
                log.clear()
                self._logs[room] = log
                self._size_bytes += log.size_bytes


class MemoryFeed:
    """A room's messages on a single node, which has them all."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    @property
    def position(self) -> Position:
        """The place of the last message."""
        return self._log.position

    def is_whole_since(self, position: Position) -> bool:
        """Return whether the position is one of this log's: nothing is ever missing."""
        return position.epoch == self._log.epoch and position.offset <= self._log.offset

    async def past(self, since: Position | None) -> Past:
        """Return what is kept since the position."""
        return self._log.past(since)

    def close(self) -> None:
        """Deliver no more; what is kept stays for a while."""
        self._log.deliver = None
