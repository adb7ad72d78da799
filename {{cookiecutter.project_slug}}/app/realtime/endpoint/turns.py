"""Turns: how connections share the event loop when it cannot handle all that they send."""

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from time import monotonic

from ..connections.delivery import MANY_FRAMES, Delivery

TURN_S = 0.002
"""How long clients' messages are handled in one turn of the event loop."""

WOKEN_AT_ONCE = 64
"""Connections that are woken for a turn. Those for which it has no time left wait again."""


class Turns:
    """Bounds the time for clients' messages in each turn of the event loop.

    Then the other connections wait for a later turn. The one with the earliest theoretical arrival
    time goes first. So a flood from many connections does not delay the few messages of others.
    """

    def __init__(self) -> None:
        self.end = 0.0
        """When the turn's time is over, by the monotonic clock; past if it has not begun."""
        self._has_begun = False
        self._is_next_due = False
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []  # a heap
        self._numbers = count()

    async def begin(self, due_at: Callable[[], float]) -> None:
        """Begin the turn's time; if it is over, wait for another turn, the earliest due first."""
        while self._has_begun and monotonic() > self.end:
            woken = asyncio.get_running_loop().create_future()
            heappush(self._waiting, (due_at(), next(self._numbers), woken))
            await woken
        if not self._has_begun:
            self._has_begun = True
            self.end = monotonic() + TURN_S
            if not self._is_next_due:
                self._schedule_next()

    def end_if_congested(self, delivery: Delivery, frames: int) -> None:
        """End the turn's time after a message with many frames, if they must be written first."""
        if frames > MANY_FRAMES and delivery.is_congested:
            self.end = 0.0

    def _schedule_next(self) -> None:
        self._is_next_due = True
        asyncio.get_running_loop().call_soon(self._start_next)

    def _start_next(self) -> None:
        self._has_begun = self._is_next_due = False
        self.end = 0.0
        if self._waiting:
            self._schedule_next()  # before those that are woken, which need the time of that turn
        for _ in range(min(WOKEN_AT_ONCE, len(self._waiting))):
            *_, woken = heappop(self._waiting)
            if not woken.done():
                woken.set_result(None)
