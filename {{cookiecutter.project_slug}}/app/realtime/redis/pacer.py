"""How fast messages are taken from Redis: as they come, but others have their turns, too."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec

from ..connections.delivery import BURST, FULL, Delivery

P = ParamSpec("P")


class Pacer:
    """Lets everybody else have a turn after enough messages.

    It waits for what it has handed out itself, never for what clients have.
    """

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._delivered = 0
        self._handed_out = 0

    async def deliver(self, deliver: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Deliver one message, and give way if it is time to."""
        before = self._delivery.enqueued
        deliver(*args, **kwargs)
        self._handed_out += self._delivery.enqueued - before
        self._delivered += 1
        if self._handed_out >= FULL:
            self._handed_out = 0
            await self._delivery.catch_up()
        elif self._delivered % BURST == 0:
            await asyncio.sleep(0)
