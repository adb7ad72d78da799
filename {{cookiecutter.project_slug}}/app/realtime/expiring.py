"""A map whose items expire."""

from collections import OrderedDict
from heapq import heapify, heappop, heappush
from time import monotonic

MAX_ITEMS = 100_000


class ExpiringMap:
    """Values by key, each kept for a time. This class keeps them in memory.

    At ``max_items``, a new item replaces the oldest one.
    """

    def __init__(self, max_items: int = MAX_ITEMS) -> None:
        self._max_items = max_items
        self._items: OrderedDict[str, tuple[str, float]] = OrderedDict()
        # A heap of expiries with their keys, also of items that were replaced or removed
        self._expiries: list[tuple[float, str]] = []

    async def get(self, key: str) -> str | None:
        """Return a value that has not expired."""
        value, expires_at = self._items.get(key, (None, 0.0))
        return value if monotonic() < expires_at else None

    async def add(self, key: str, value: str, ttl_s: float) -> str | None:
        """Store a value if the key has none; otherwise return the existing value.

        Each call needs a unique value, by which a call that is repeated is recognized.
        """
        existing = await self.get(key)
        if existing is None:
            await self.put(key, value, ttl_s)
        return existing

    async def put(self, key: str, value: str, ttl_s: float) -> None:
        """Store a value for ``ttl_s`` seconds. It replaces an earlier one."""
        now = monotonic()
        self._items.pop(key, None)
        while self._expiries and self._expiries[0][0] <= now:
            expires_at, first = heappop(self._expiries)
            if first in self._items and self._items[first][1] == expires_at:
                del self._items[first]
        if len(self._items) >= self._max_items:
            self._items.popitem(last=False)
        self._items[key] = value, now + ttl_s
        heappush(self._expiries, (now + ttl_s, key))
        if len(self._expiries) > 2 * self._max_items:
            self._expiries = [(expires_at, key) for key, (_, expires_at) in self._items.items()]
            heapify(self._expiries)

    async def pop(self, key: str) -> str | None:
        """Remove a value and return it, in one atomic step."""
        value, expires_at = self._items.pop(key, (None, 0.0))
        return value if monotonic() < expires_at else None
