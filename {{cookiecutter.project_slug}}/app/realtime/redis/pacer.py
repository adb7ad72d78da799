"""How fast messages are taken from Redis: as they come, but others have their turns, too."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec

from ..delivery import BURST, FULL, Flusher

P = ParamSpec("P")


class Pacer:
    """Lets everybody else have a turn after enough messages.

    It waits for what it has handed out itself, never for what clients have.
    """

    def __init__(self, flusher: Flusher) -> None:
        self._flusher = flusher
        self._delivered = 0
        self._handed_out = 0

    async def deliver(self, deliver: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Deliver one message, and give way if it is time to."""
        before = self._flusher.handed_out
        deliver(*args, **kwargs)
        self._handed_out += self._flusher.handed_out - before
        self._delivered += 1
        if self._handed_out >= FULL:
            self._handed_out = 0
            await self._flusher.catch_up()
        elif self._delivered % BURST == 0:
            await asyncio.sleep(0)
