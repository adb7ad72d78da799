"""Delivery: when frames are written. Each connection is written to once per turn of the event loop.

A write costs much more than a frame in it. So a flush is delayed by one turn of the loop, and
messages that arrive meanwhile add their frames to the same write. A large flush is done in slices.
"""

import asyncio
import math
from abc import ABC, abstractmethod
from asyncio import get_running_loop
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from contextvars import Context, copy_context
from operator import itemgetter
from threading import get_ident
from time import monotonic

import structlog

from ..errors import WrongThread
from ..protocol import ServerFrame
from ..wire.frame import check_frame_size, encode

FLUSH_S = 0.002
"""Time budget per turn of the loop: once for connections with few frames, then for all others."""

FEW_FRAMES = 8
"""Connections with at most this many queued frames go first, if the earliest is for them alone."""

MAX_FRAMES_PER_TURN = 50_000
"""Once this many frames are enqueued in one turn of the loop, senders wait for the next flush."""

MAX_BYTES_WHILE_BEHIND = 2_097_152
"""Bytes enqueued in one turn of the loop while frames of an earlier turn are unwritten.

Once this is reached, a message that causes many frames is the last one handled in the turn.
"""

MANY_FRAMES = 64
"""A client whose message causes more frames waits while delivery is full."""

MESSAGES_IN_A_ROW = 32
"""Messages of one origin that are handled in a row before others have a turn."""

STALLED_S = 2.0
"""A flush that takes longer counts as stalled."""

RECOUNT_S = 1.0
"""How often unsent bytes are counted again: clients read meanwhile."""

CUT_DOWN_TO = 7 / 8
"""Share of the total limit that remains after slow recipients were cut off."""

log = structlog.stdlib.get_logger(__name__)


class Recipient(ABC):
    """Something that frames are written to. Only `Delivery` adds to its ``outbox``."""

    __slots__ = ("outbox",)

    def __init__(self) -> None:
        self.outbox: list[bytes] = []

    @abstractmethod
    def flush(self) -> None:
        """Write the frames in the outbox and empty it."""

    @abstractmethod
    def unsent_bytes(self) -> int:
        """Return how many written bytes are still in this process."""

    @abstractmethod
    def cut_off(self) -> None:
        """End the connection and drop what is unsent."""


class Delivery:
    """Fills the outboxes of connections and flushes them.

    Recipients wait in one list per group, and the groups take turns: a flood to ten thousand
    connections does not delay a message to two. Frames for single connections share one list, in
    which connections with few frames go first. A delivery belongs to the thread of one event loop.
    """

    def __init__(
        self, max_unsent_total_bytes: float = math.inf, max_unsent_bytes: float = math.inf
    ) -> None:
        self._max_frame_bytes = max_unsent_bytes  # to one recipient
        self.enqueued = 0
        """Frames enqueued since the start, counted once per recipient."""
        self._enqueued_to_groups = 0
        self._bytes_to_one = self._bytes_to_groups = 0
        self._waiting: defaultdict[int | None, list[Recipient]] = defaultdict(list)
        # Recipients that wait for a flush, with the turn in which they became due
        self._slices: deque[tuple[int, list[Recipient]]] = deque()
        self._turn = 0
        self._enqueued_before = self._bytes_before = 0
        self._is_due = False
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._max_unsent_bytes = max_unsent_total_bytes
        self._unsent: dict[Recipient, int] = {}
        self._recount: asyncio.TimerHandle | None = None
        self.unsent_bytes = 0
        """Bytes unsent to slow recipients; an overestimate until the next recount."""
        self._thread: int | None = None
        # Log lines of a flush have the fields of the process, not those of a sender.
        self._context = Context()

    @property
    def is_full(self) -> bool:
        """Whether senders should wait: many frames were enqueued since the last flush."""
        return self.enqueued - self._enqueued_before >= MAX_FRAMES_PER_TURN

    @property
    def is_congested(self) -> bool:
        """Whether many bytes were enqueued while frames of an earlier turn are unwritten.

        Then outboxes grow, and fast readers would be closed as slow consumers.
        """
        enqueued = self._bytes_to_one + self._bytes_to_groups
        return bool(self._slices) and enqueued - self._bytes_before >= MAX_BYTES_WHILE_BEHIND

    def frames_sent(self) -> dict[str, float]:
        """Return the numbers of frames, for metrics."""
        to_groups = self._enqueued_to_groups
        return {"one": self.enqueued - to_groups, "group": to_groups}

    def bytes_sent(self) -> dict[str, float]:
        """Return the sizes of these frames."""
        return {"one": self._bytes_to_one, "group": self._bytes_to_groups}

    def attach(self) -> None:
        """Bind to the current thread, and refuse calls from other threads.

        Raises:
            WrongThread: no event loop runs in it.
        """
        try:
            get_running_loop()
        except RuntimeError:
            raise WrongThread from None
        self._thread, self._context = get_ident(), copy_context()
        self._is_due, self._recount = False, None  # an earlier loop will not call them

    def check_thread(self) -> None:
        """Check that the caller is in the delivery's thread; by default, the first caller's.

        Raises:
            WrongThread: the caller is in another thread.
        """
        if get_ident() != self._thread:
            if self._thread is not None:
                raise WrongThread
            self.attach()

    def enqueue(self, recipient: Recipient, encoded: Sequence[bytes]) -> None:
        """Add encoded frames to one outbox: all of them, or none if one raises `TooLarge`."""
        for frame in encoded:
            check_frame_size(frame, self._max_frame_bytes)
        if not self._is_due:
            self._schedule()
        self.enqueued += len(encoded)
        for frame in encoded:
            self._bytes_to_one += len(frame)
        if not recipient.outbox:
            self._waiting[None].append(recipient)
        recipient.outbox += encoded

    def send_all(
        self,
        recipients: Mapping[str, Recipient],
        frame: ServerFrame | bytes,
        exclude: str | None = None,
    ) -> None:
        """Send a frame, encoded once, to all recipients but the one with the excluded id.

        The caller has checked the thread. A frame that is too large raises `TooLarge`.
        """
        encoded = frame if isinstance(frame, bytes) else encode(frame)
        check_frame_size(encoded, self._max_frame_bytes)
        if not self._is_due:
            self._schedule()
        excluded = None if exclude is None else recipients.get(exclude)
        count = len(recipients) - (excluded is not None)
        self.enqueued += count
        self._enqueued_to_groups += count
        self._bytes_to_groups += count * len(encoded)
        waiting = self._waiting[id(recipients) if len(recipients) > 1 else None]
        for recipient in recipients.values():
            if recipient is not excluded:
                outbox = recipient.outbox
                if not outbox:
                    waiting.append(recipient)
                outbox.append(encoded)

    def note_unsent(self, recipient: Recipient, unsent_bytes: int) -> None:
        """Note what a recipient has not read; if the total is too large, cut off the slowest."""
        self.unsent_bytes += unsent_bytes - self._unsent.get(recipient, 0)
        self._unsent[recipient] = unsent_bytes
        if self._recount is None or self.unsent_bytes > self._max_unsent_bytes:
            self._recount_unsent()
        if self.unsent_bytes > self._max_unsent_bytes:
            self._cut_off_slowest()

    def _cut_off_slowest(self) -> None:
        """Cut off recipients until many bytes are free, so that this is not repeated at once."""
        slowest_first = sorted(self._unsent.items(), key=itemgetter(1), reverse=True)
        for slowest, unsent_bytes in slowest_first:
            if self.unsent_bytes <= CUT_DOWN_TO * self._max_unsent_bytes:
                break
            del self._unsent[slowest]
            self.unsent_bytes -= unsent_bytes
            slowest.cut_off()

    def _recount_unsent(self) -> None:
        self._unsent = {each: unsent for each in self._unsent if (unsent := each.unsent_bytes())}
        self.unsent_bytes = sum(self._unsent.values())
        if self._recount is not None:
            self._recount.cancel()
        loop = get_running_loop()
        self._recount = loop.call_later(RECOUNT_S, self._recount_unsent) if self._unsent else None

    async def catch_up(self) -> None:
        """Wait for one turn of the loop, and until all frames enqueued by then are written.

        It does not wait for frames enqueued later.
        """
        await asyncio.sleep(0)
        if self._is_due:
            written = get_running_loop().create_future()
            self._waiters.append((self._turn + bool(self._waiting), written))
            await written

    async def is_stalled(self) -> bool:
        """Return whether frames enqueued by now are still unwritten after `STALLED_S`."""
        try:
            async with asyncio.timeout(STALLED_S):
                await self.catch_up()
        except TimeoutError:
            return True
        return False

    def _schedule(self) -> None:
        loop = get_running_loop()
        loop.call_soon(loop.call_soon, self._flush, context=self._context)  # one turn later
        self._is_due = True

    def _flush(self) -> None:
        self._turn += 1
        self._enqueued_before = self.enqueued
        self._bytes_before = self._bytes_to_one + self._bytes_to_groups
        slices = self._slices
        alone = self._waiting.pop(None, [])
        few = [each for each in alone if len(each.outbox) <= FEW_FRAMES]
        if len(few) < len(alone):
            many = [each for each in alone if len(each.outbox) > FEW_FRAMES]
            slices.append((self._turn, many))
        slices.extend((self._turn, group) for group in self._waiting.values())
        self._waiting.clear()
        self._flush_slice(self._turn, few, monotonic() + FLUSH_S)
        ends_at = monotonic() + FLUSH_S
        while slices:
            self._flush_slice(*slices.popleft(), ends_at)
            if monotonic() > ends_at:
                break
        if slices or self._waiting:
            get_running_loop().call_soon(self._flush)
        else:
            self._is_due = False
        if self._waiters:
            self._wake_waiters()

    def _flush_slice(self, turn: int, recipients: list[Recipient], ends_at: float) -> None:
        """Flush recipients; when the time is over, put the remaining ones back in the queue."""
        for flushed, recipient in enumerate(recipients, 1):
            try:
                recipient.flush()
            except Exception:
                log.exception("flush failed")
            if monotonic() > ends_at and flushed < len(recipients):
                del recipients[:flushed]
                self._slices.append((turn, recipients))
                break

    def _wake_waiters(self) -> None:
        unfinished = min((turn for turn, _ in self._slices), default=self._turn + 1)
        waiters, self._waiters = self._waiters, []
        for turn, written in waiters:
            if turn >= unfinished:
                self._waiters.append((turn, written))
            elif not written.done():
                written.set_result(None)
