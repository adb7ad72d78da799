"""A queue of unread items, of limited length."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, Self, TypeVar

from .status import NORMAL, Ended

MAX_UNREAD = 10_000

Item = TypeVar("Item")


class Inbox(Generic[Item]):
    """An asynchronous iterator over unread items; an error ends the iteration.

    If more than 10,000 items are unread, those of the ``gap`` replace them.
    """

    def __init__(self, *gap: Item) -> None:
        self._gap = gap
        self._unread: deque[Item] = deque()
        self.error: Exception | None = None
        self._changed = asyncio.Event()

    def __aiter__(self) -> Self:
        """Iterate over items."""
        return self

    async def __anext__(self) -> Item:
        """Return the next item; after the last one, raise the error, unless the end is normal."""
        try:
            await self._wait_until(lambda: self._unread)
        except Ended as end:
            if end.code == NORMAL:
                raise StopAsyncIteration from None
            raise
        return self._unread.popleft()

    def end(self, error: Exception) -> None:
        """Raise an error in the reader after the last unread item."""
        self.error = self.error or error
        self._changed.set()

    def _put(self, item: Item) -> None:
        self._unread.append(item)
        if len(self._unread) > MAX_UNREAD:
            self._unread = deque(self._gap)
        self._changed.set()

    async def _wait_until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition, checked after each change; raise the error if it comes first."""
        while not condition():
            if self.error is not None:
                raise self.error
            self._changed.clear()
            await self._changed.wait()
