"""When frames are written: many together, and in slices, so that nobody waits for long.

A flush waits one more turn of the loop than it has to. What the sockets hold by then is read and
handled first and shares the write, and a write costs much more than a frame in it.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

import structlog

from .errors import WrongThread

SLICE = 256
"""How many connections are flushed in a row, which takes about a millisecond."""

FULL = 50_000
"""How many frames may be handed to connections in one turn before their senders had better wait."""

FEW = 500
"""So many frames are no reason to wait, whatever others hand out."""

BURST = 32
"""How many messages of one origin are handled in a row, before everybody else has a turn."""

STALLED_S = 2.0
"""What is not written in this time will not be written any more."""

log = structlog.stdlib.get_logger(__name__)


class Flushable(Protocol):
    """What can write all that waits in it."""

    def flush(self) -> None:
        """Write it."""


class Flusher:
    """Flushes each connection that has something to say.

    Connections wait by the source of their frames, and the sources take turns: a flood to ten
    thousand does not hold up a message to two. It belongs to one event loop and its thread.
    """

    def __init__(self) -> None:
        self.handed_out = 0
        """Frames that were handed to connections, ever."""
        self._waiting: defaultdict[object, list[Flushable]] = defaultdict(list)
        self._slices: deque[tuple[int, Iterator[Flushable]]] = deque()
        self._turn = 0
        self._taken_up = 0
        self._is_due = False
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def full(self) -> bool:
        """Whether enough was handed out in this turn of the loop."""
        return self.handed_out - self._taken_up >= FULL

    async def is_stalled(self) -> bool:
        """Return whether nobody gets anything any more, which takes some time to find out."""
        try:
            async with asyncio.timeout(STALLED_S):
                await self.catch_up()
        except TimeoutError:
            return True
        return False

    def attach(self) -> None:
        """Belong to the running event loop from now on."""
        self._loop = asyncio.get_running_loop()

    def check_thread(self) -> asyncio.AbstractEventLoop:
        """Return the event loop, to its own thread only.

        Raises:
            WrongThread: this is another one.

        """
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if self._loop is None:
            self._loop = running
        if running is None or running is not self._loop:
            msg = (
                "this works only in the event loop's thread: make the route or the job `async def`,"
                " or call it by `anyio.from_thread.run`"
            )
            raise WrongThread(msg)
        return running

    def waiting(self, source: object, frames: int = 1) -> list[Flushable]:
        """Return the list to which a source adds each connection whose outbox was empty.

        What goes to a single connection has one source in common, null. ``frames`` is how many
        the source is about to hand to connections.

        Raises:
            WrongThread: this is not the event loop's thread.

        """
        if not self._is_due:
            loop = self.check_thread()
            loop.call_soon(loop.call_soon, self._flush)
            self._is_due = True
        self.handed_out += frames
        return self._waiting[source]

    async def catch_up(self) -> None:
        """Give way: for one turn of the loop, and until all that waits then has been written.

        What others add meanwhile is not waited for.
        """
        await asyncio.sleep(0)
        if self._is_due:
            written = asyncio.get_running_loop().create_future()
            self._waiters.append((self._turn + bool(self._waiting), written))
            await written

    def _flush(self) -> None:
        self._turn += 1
        self._slices.extend((self._turn, iter(each)) for each in self._waiting.values())
        self._waiting.clear()
        self._taken_up = self.handed_out
        self._flush_slice()
        self._is_due = bool(self._slices or self._waiting)
        if self._is_due:
            asyncio.get_running_loop().call_soon(self._flush)
        if self._waiters:
            self._wake()

    def _flush_slice(self) -> None:
        left = SLICE
        while self._slices and left:
            _, connections = self._slices[0]
            for connection in islice(connections, left):
                left -= 1
                try:
                    connection.flush()
                except Exception:
                    log.exception("flush failed")
            if left:
                self._slices.popleft()
            else:
                self._slices.rotate(-1)

    def _wake(self) -> None:
        unfinished = min((turn for turn, _ in self._slices), default=self._turn + 1)
        waiters, self._waiters = self._waiters, []
        for turn, written in waiters:
            if turn >= unfinished:
                self._waiters.append((turn, written))
            elif not written.done():
                written.set_result(None)
