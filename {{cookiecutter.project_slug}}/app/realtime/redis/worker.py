"""A set of things to do, and the loop that does them."""

import asyncio
from collections import OrderedDict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Hashable,
    Iterable,
)
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Worker(Generic[Item]):
    """Does what is to be done soon, many items in one batch, the oldest first.

    ``work`` does a batch and returns the items that have to be done again, after a pause. An item
    that is added while its batch is being done is done once more. What ``work`` raises ends `run`.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Awaitable[Collection[Item]]],
        *,
        batch_weight: int,
        pause_s: float = 0.0,
    ) -> None:
        self._work = work
        self._batch_weight = batch_weight
        self._pause_s = pause_s
        # Unlike a dict, it finds its first item at once after many before that were removed.
        self._weights: OrderedDict[Item, int] = OrderedDict()
        self._has_items = asyncio.Event()
        self.weight = 0
        """What all items weigh that have to be done."""

    def __len__(self) -> int:
        """Return the number of items that have to be done."""
        return len(self._weights)

    def add(self, item: Item, weight: int = 1) -> None:
        """Have an item done. Idempotent."""
        if item not in self._weights:
            self._weights[item] = weight
            self.weight += weight
            self._has_items.set()

    def discard(self, item: Item) -> None:
        """Have an item not done any more. Idempotent."""
        self.weight -= self._weights.pop(item, 0)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._has_items.wait()
            if not await self.work_once():
                await asyncio.sleep(self._pause_s)

    async def work_once(self) -> bool:
        """Do one batch; return whether that is done for good."""
        again = await self._work(self.take_batch())
        for item in again:
            self.add(item)
        return not again

    def take_batch(self) -> list[Item]:
        """Return the oldest items, which now are somebody else's to do."""
        batch = []
        left = self._batch_weight
        while self._weights and left > 0:
            item, weight = self._weights.popitem(last=False)
            batch.append(item)
            left -= weight
            self.weight -= weight
        if not self._weights:
            self._has_items.clear()
        return batch


async def in_turns(items: Iterable[Item], at_once: int) -> AsyncIterator[Item]:
    """Yield the items of this moment. After so many, others have their turn."""
    for number, item in enumerate(list(items), start=1):
        yield item
        if number % at_once == 0:
            await asyncio.sleep(0)
