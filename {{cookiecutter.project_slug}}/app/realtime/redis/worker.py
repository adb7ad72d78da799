"""A set of items to process, and the loop that processes them in batches."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Worker(Generic[Item]):
    """Processes items in batches, the oldest first.

    ``work`` processes a batch, and may return items to process again after a pause. An item that
    is added while its batch is in progress is processed once more. If ``work`` raises, `run` ends.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Awaitable[Collection[Item] | None]],
        *,
        batch_weight: int,
        pause_s: float = 0.0,
    ) -> None:
        self._work = work
        self._batch_weight = batch_weight
        self._pause_s = pause_s
        self._weights: OrderedDict[Item, int] = OrderedDict()
        self._has_items = asyncio.Event()
        self.weight = 0
        """Total weight of the items."""

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._weights)

    def add(self, item: Item, weight: int = 1) -> None:
        """Add an item. Idempotent."""
        if item not in self._weights:
            self._weights[item] = weight
            self.weight += weight
            self._has_items.set()

    # {% if cookiecutter.rooms %}
    def discard(self, item: Item) -> None:
        """Remove an item. Idempotent."""
        self.weight -= self._weights.pop(item, 0)

    # {% endif %}
    async def run(self) -> None:
        """Work until cancelled."""
        self._has_items = asyncio.Event()  # of this event loop
        while True:
            while not self._weights:
                self._has_items.clear()
                await self._has_items.wait()
            if again := await self._work(self.take_batch()):
                for item in again:
                    self.add(item)
                await asyncio.sleep(self._pause_s)

    def take_batch(self) -> list[Item]:
        """Remove the oldest items, up to the weight of a batch, and return them."""
        batch = []
        left = self._batch_weight
        while self._weights and left > 0:
            item, weight = self._weights.popitem(last=False)
            batch.append(item)
            left -= weight
            self.weight -= weight
        return batch
