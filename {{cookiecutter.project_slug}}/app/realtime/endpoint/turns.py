"""Turns: how connections share the event loop when it cannot handle all that they send."""

import asyncio
from collections import defaultdict
from heapq import heappop, heappush
from itertools import count
from time import monotonic

from ..wire.asgi import Wire
from ..wire.inbox import Incoming

TURN_S = 0.002
"""How long clients' messages are handled in one turn of the event loop."""

WOKEN_AT_ONCE = 64
"""Connections woken at the start of a turn. Those not served within its time wait again."""

COMPARED_S = 10.0
"""How long handled bytes are summed for each user; then all users start at 0."""

MESSAGE_BYTES = 4_096
"""Handling a message takes about as long as parsing this many bytes."""


class Turns:
    """Bounds the time for clients' messages in each turn of the event loop.

    When it is used up, other connections wait for a later turn. They are ordered by what was
    handled for their users, the least first (least attained service). So a user who sends little
    does not wait for many users who send more.
    """

    def __init__(self) -> None:
        self.end = 0.0
        """When the turn's time is over, by the monotonic clock; past if it has not begun."""
        self._has_begun = False
        self._is_next_due = False
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap
        self._numbers = count()
        self._handled_bytes: defaultdict[str, int] = defaultdict(int)  # by user
        self._compared_until = 0.0

    async def begin(self, user: str, wire: Wire) -> None:
        """Begin the turn's time; if it is over, wait for another turn, in the order of users.

        While many wait, their wires are not read: each read takes time from the others.
        """
        while self._has_begun and monotonic() > self.end:
            if len(self._waiting) > WOKEN_AT_ONCE:
                wire.pause_reading()
            woken = asyncio.get_running_loop().create_future()
            heappush(self._waiting, (self._handled_bytes[user], next(self._numbers), woken))
            await woken
        wire.resume_reading()
        if not self._has_begun:
            self._has_begun = True
            self.end = monotonic() + TURN_S
            if self.end > self._compared_until:
                self._handled_bytes.clear()
                self._waiting = sorted((0, number, woken) for _, number, woken in self._waiting)
                self._compared_until = self.end + COMPARED_S
            if not self._is_next_due:
                self._schedule_next()

    def count(self, user: str, message: Incoming, *, must_end: bool = False) -> None:
        """Count a message of a user that is handled; end the turn's time if it ``must_end``."""
        size_bytes = len(message) if isinstance(message, str) else 0  # approximate
        self._handled_bytes[user] += MESSAGE_BYTES + size_bytes
        if must_end:
            self.end = 0.0

    def _schedule_next(self) -> None:
        self._is_next_due = True
        asyncio.get_running_loop().call_soon(self._start_next)

    def _start_next(self) -> None:
        self._has_begun = self._is_next_due = False
        self.end = 0.0
        if self._waiting:
            self._schedule_next()  # first, so that the next turn starts before the woken ones run
        for _ in range(min(WOKEN_AT_ONCE, len(self._waiting))):
            *_, woken = heappop(self._waiting)
            if not woken.done():
                woken.set_result(None)
