"""The history of rooms: numbers messages, keeps the last ones, and replays them to clients.

A room's messages are numbered without gaps: ``offset`` counts within an ``epoch``, and a new epoch
begins when the count cannot be trusted any more. A client that returns with its position gets the
messages since then, or is told that some may be missing.

The history numbers and keeps a message, and publishes it to the room's channel of the backplane.
"""

import asyncio
import secrets
from collections import OrderedDict, defaultdict, deque
# {% if cookiecutter.redis %}
from collections.abc import Callable
# {% endif %}
from dataclasses import dataclass, field
from itertools import islice
from time import monotonic
from typing import Annotated

from pydantic import Field, StringConstraints
from pydantic_core import from_json

from ..backplane import Backplane, Channel, Deliver, Envelope, Subscription
from ..futures import done, then
# {% if cookiecutter.redis %}
from ..protocol import STRICT, ServerFrame
# {% else %}
from ..protocol import STRICT
# {% endif %}
from ..settings.settings import RealtimeSettings
from ..wire.frame import check_frame_size, frame_payload
from .frames import RoomMessage, message_frame
from .options import Rules, make_rules

LOG_BYTES = 1_024  # estimated size of a log without messages
SWEPT_AT_ONCE = 100  # limit of expired logs that one turn of the event loop removes


@dataclass(frozen=True, slots=True)
class Position:
    """A position in a room's history: after message number ``offset`` of this ``epoch``."""

    __pydantic_config__ = STRICT

    epoch: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    offset: Annotated[int, Field(ge=0, lt=2**53)]

    @property
    def next(self) -> "Position":
        """The position after the next message."""
        return Position(self.epoch, self.offset + 1)


NOWHERE = Position("", 0)
# {% if cookiecutter.redis %}
"""Position of a message that is not kept, and of a feed before its first read; no real epoch."""
# {% else %}
"""Position of a message that is not kept; no real epoch."""
# {% endif %}


@dataclass(frozen=True, slots=True)
class Replay:
    """The current position of a room, and messages before it, oldest first.

    ``frames`` has the messages, encoded for members. ``recovered`` is true if none is missing,
    false if some may be missing, and None if no earlier position was given.
    """

    position: Position
    frames: tuple[bytes, ...] = ()
    recovered: bool | None = None

    @property
    def messages(self) -> list[RoomMessage]:
        """The messages, parsed."""
        return list(map(_parse, self.frames))


def _parse(frame: bytes) -> RoomMessage:
    fields = from_json(frame_payload(frame))
    sender, data = fields["from"], fields["data"]
    return RoomMessage(sender, data, room=fields["room"], offset=fields["offset"])


# {% if cookiecutter.redis %}
Announce = Callable[[ServerFrame, Position], None]
"""Takes a frame for the members, and the position before which they may have missed messages."""


# {% endif %}
def room_channel(room: str) -> Channel:
    """Return the channel of one room's messages and events."""
    return Channel(f"room:{room}")


@dataclass(slots=True, eq=False)
class RoomLog:
    """One room's position and its last messages, as frames, each with the time of its arrival."""

    rules: Rules
    epoch: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    offset: int = 0
    kept: deque[tuple[float, bytes]] = field(default_factory=deque)
    size_bytes: int = LOG_BYTES
    subscription: Subscription | None = None
    used_at: float = 0.0

    @property
    def position(self) -> Position:
        """Position of the last message."""
        return Position(self.epoch, self.offset)

    def append(self, frame: bytes) -> None:
        """Count a message and keep it."""
        self.offset += 1
        self.kept.append((monotonic(), frame))
        self.size_bytes += len(frame)

    def trim(self) -> None:
        """Drop the oldest messages until number, bytes and age are within the limits."""
        rules, kept = self.rules, self.kept
        expired_at = monotonic() - rules.history_s
        while kept and (
            len(kept) > rules.history_messages
            or self.size_bytes - LOG_BYTES > rules.history_bytes
            or kept[0][0] < expired_at
        ):
            self.size_bytes -= len(kept.popleft()[1])

    def replay(self, since: Position | None, last: int) -> Replay:
        """Return the messages since a position, or without one the last messages."""
        expired_at = monotonic() - self.rules.history_s
        if since is None:
            newest = islice(reversed(self.kept), last)
            frames = [frame for kept_at, frame in newest if kept_at >= expired_at]
            return Replay(self.position, tuple(reversed(frames)))
        missed = self.offset - since.offset
        if since.epoch != self.epoch or not 0 <= missed <= len(self.kept):
            return Replay(self.position, recovered=False)
        kept = list(self.kept)[len(self.kept) - missed :]
        if kept and kept[0][0] < expired_at:
            return Replay(self.position, recovered=False)
        return Replay(self.position, tuple(frame for _, frame in kept), recovered=True)


class History:
    """Numbers, keeps and publishes the messages of rooms, in memory.

    ``HISTORY_TOTAL_BYTES`` bounds the logs that can be evicted: those with messages, and those of
    rooms without members. The least recently used are evicted first, when they are too old or their
    total is too large. If the room has members, only its messages are evicted: the members rely on
    its position. A log with members but without messages has nothing to evict, so it is left out of
    the order of use.
    """

    def __init__(self, backplane: Backplane, settings: RealtimeSettings) -> None:
        self.backplane = backplane
        self.rules_of = make_rules(settings)
        """Returns the rules of a room; `Rooms.set_policy` sets it."""
        self._settings = settings
        self._logs: dict[str, RoomLog] = {}
        # By ``history_s``: logs with the same one expire in the order of their last use.
        self._by_use: defaultdict[float, OrderedDict[str, RoomLog]] = defaultdict(OrderedDict)
        self._size_bytes = 0
        # By ``history_s``, the event loop of the sweep timer. In a closed loop, it never fires.
        self._sweeping_loops: dict[float, asyncio.AbstractEventLoop] = {}

    def publish(
        self, room: str, envelope: Envelope, *, keep: bool = True, message_id: str | None = None
    ) -> asyncio.Future[Position]:
        """Publish a message in the order of the calls; with ``keep``, number and keep it.

        The future yields its position, or fails with `Unavailable`. A message that failed may be
        published again with the same id: members get it once. In memory the id is ignored: a
        message that failed was not published.
        """
        if not keep:
            sent = self.backplane.publish(room_channel(room), envelope, message_id)
            return then(sent, lambda count: NOWHERE)
        envelope.offset = self._logs[room].offset + 1 if room in self._logs else 1
        envelope.frame = frame = message_frame(room, envelope)  # raises if the data is not JSON
        check_frame_size(frame, self._settings.max_unsent_bytes)
        log = self._take_out(room)
        log.append(frame)
        self._put_back(room, log)
        if log.subscription is not None:  # like `backplane.publish`, but without a future
            log.subscription.deliver(envelope)
        return done(log.position)

    # {% if cookiecutter.redis %}
    def open(self, room: str, deliver: Deliver, announce: Announce) -> None:
        """Deliver a room's messages from now on; call ``announce`` if some were lost."""
    # {% else %}
    def open(self, room: str, deliver: Deliver) -> None:
        """Deliver a room's messages from now on."""
    # {% endif %}
        log = self._take_out(room)
        log.subscription = self.backplane.subscribe(Subscription(room_channel(room), deliver))
        self._put_back(room, log)

    async def replay(self, room: str, since: Position | None, last: int = 0) -> Replay:
        """Return an open room's messages since a position, or the last ones; deliver later ones."""
        return self._logs[room].replay(since, last)

    async def read(self, room: str, since: Position | None, last: int = 0) -> Replay:
        """Return any room's messages since a position, or the last ones."""
        log = self._take_out(room)
        self._put_back(room, log)
        return log.replay(since, last)

    def close(self, room: str) -> None:
        """Stop delivering, but keep the messages for a while."""
        log = self._take_out(room)
        if log.subscription is not None:
            self.backplane.unsubscribe(log.subscription)
        log.subscription = None
        self._put_back(room, log)

    def _take_out(self, room: str) -> RoomLog:
        """Return a room's log, and take it out of the order of use while its size changes."""
        log = self._logs.get(room)
        if log is None:
            log = self._logs[room] = RoomLog(self.rules_of(room))
        elif self._by_use[log.rules.history_s].pop(room, None) is not None:
            self._size_bytes -= log.size_bytes
        return log

    def _put_back(self, room: str, log: RoomLog) -> None:
        log.trim()
        log.used_at = monotonic()
        if log.kept or log.subscription is None:
            self._by_use[log.rules.history_s][room] = log
            self._size_bytes += log.size_bytes
            while self._size_bytes > self._settings.history_total_bytes:
                self._evict_first(min(filter(None, self._by_use.values()), key=_first_used_at))
            self._sweep_later(log.rules.history_s)

    def _evict_first(self, by_use: OrderedDict[str, RoomLog]) -> None:
        room, log = by_use.popitem(last=False)
        self._size_bytes -= log.size_bytes
        if log.subscription is None:
            del self._logs[room]
        else:
            log.kept.clear()
            log.size_bytes = LOG_BYTES

    def _sweep_later(self, history_s: float) -> None:
        by_use = self._by_use[history_s]
        if not by_use:
            del self._by_use[history_s]
        elif self._sweeping_loops.get(history_s) is not (loop := asyncio.get_running_loop()):
            wait_s = _first_used_at(by_use) + history_s - monotonic()
            loop.call_later(wait_s, self._sweep, history_s)
            self._sweeping_loops[history_s] = loop

    def _sweep(self, history_s: float) -> None:
        self._sweeping_loops.pop(history_s, None)
        by_use, used_before = self._by_use[history_s], monotonic() - history_s
        for _ in range(SWEPT_AT_ONCE):
            if not by_use or _first_used_at(by_use) > used_before:
                break
            self._evict_first(by_use)
        self._sweep_later(history_s)


def _first_used_at(by_use: OrderedDict[str, RoomLog]) -> float:
    return next(iter(by_use.values())).used_at
