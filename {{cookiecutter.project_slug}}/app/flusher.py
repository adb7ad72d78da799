"""When frames are written: many together, and in slices, so that nobody waits for long.

A flush waits one more turn of the loop than it has to. What the sockets hold by then is read and
handled first and shares the write, and a write costs much more than a frame in it.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

SLICE = 256
"""How many connections are flushed in a row, which takes about a millisecond."""

FULL = 50_000
"""How many frames may be handed to connections in one turn before their senders had better wait."""

FEW = 500
"""So many frames are no reason to wait, whatever others hand out."""


class Flushable(Protocol):
    """What can write all that waits in it."""

    def flush(self) -> None:
        """Write it."""


class Flusher:
    """Flushes each connection that has something to say.

    Connections wait by the source of their frames, and the sources take turns: a flood to ten
    thousand does not hold up a message to two.
    """

    def __init__(self) -> None:
        self.handed_out = 0
        """Frames that were handed to connections, ever."""
        self._waiting: defaultdict[object, list[Flushable]] = defaultdict(list)
        self._slices: deque[Iterator[Flushable]] = deque()
        self._taken_up = 0
        self._busy = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def full(self) -> bool:
        """Whether enough was handed out in this turn of the loop."""
        return self.handed_out - self._taken_up >= FULL

    def waiting(self, source: object, frames: int = 1) -> list[Flushable]:
        """Return the list to which a source adds each connection whose outbox was empty.

        What goes to a single connection has one source in common, null. ``frames`` is how many
        the source is about to hand to connections.
        """
        self.handed_out += frames
        if not self._busy:
            self._busy = True
            self._idle.clear()
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._flush)
        return self._waiting[source]

    async def catch_up(self) -> None:
        """Give way: for one turn of the loop, and until all that waits now has been written."""
        await asyncio.sleep(0)
        await self._idle.wait()

    def _flush(self) -> None:
        self._slices.extend(iter(connections) for connections in self._waiting.values())
        self._waiting.clear()
        self._taken_up = self.handed_out
        try:
            self._flush_slice()
        finally:
            if self._slices or self._waiting:
                asyncio.get_running_loop().call_soon(self._flush)
            else:
                self._busy = False
                self._idle.set()

    def _flush_slice(self) -> None:
        left = SLICE
        while self._slices and left:
            for connection in islice(self._slices[0], left):
                left -= 1
                connection.flush()
            if left:
                self._slices.popleft()
            else:
                self._slices.rotate(-1)
