"""A map whose items expire."""

from collections import OrderedDict
from time import monotonic

MAX_ITEMS = 100_000


class ExpiringMap:
    """Values by key, each for a time. This one is in the memory of a single node.

    At ``max_items``, the oldest are removed. Those that have expired are removed once they are the
    oldest.
    """

    def __init__(self, max_items: int = MAX_ITEMS) -> None:
        self._max_items = max_items
        self._items: OrderedDict[str, tuple[str, float]] = OrderedDict()

    async def get(self, key: str) -> str | None:
        """Return a value that has not expired."""
        value, expires_at = self._items.get(key, (None, 0.0))
        return value if monotonic() < expires_at else None

    async def add(self, key: str, value: str, ttl_s: float) -> str | None:
        """Keep a value if the key has none; otherwise return the one that it has."""
        existing = await self.get(key)
        if existing is None:
            await self.put(key, value, ttl_s)
        return existing

    async def put(self, key: str, value: str, ttl_s: float) -> None:
        """Keep a value for this time; it replaces any other."""
        self._items.pop(key, None)
        while self._items and (len(self._items) >= self._max_items or self._oldest_has_expired()):
            self._items.popitem(last=False)
        self._items[key] = (value, monotonic() + ttl_s)

    async def pop(self, key: str) -> str | None:
        """Remove a value and return it, in one atomic step."""
        value, expires_at = self._items.pop(key, (None, 0.0))
        return value if monotonic() < expires_at else None

    def _oldest_has_expired(self) -> bool:
        return next(iter(self._items.values()))[1] <= monotonic()
