"""A map whose items expire."""

from collections import OrderedDict
from time import monotonic
from typing import Generic, TypeVar

V = TypeVar("V")


class ExpiringMap(Generic[V]):
    """Values by key, each for a time. At the limit, the oldest give way.

    Those that have expired are forgotten once they are the oldest.
    """

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        # Unlike a dict, it finds its first item at once after many before that were removed.
        self._items: OrderedDict[str, tuple[V, float]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of items, some of which may have expired."""
        return len(self._items)

    def get(self, key: str) -> V | None:
        """Return a value that has not expired."""
        value, expires_at = self._items.get(key, (None, 0.0))
        return value if monotonic() < expires_at else None

    def put(self, key: str, value: V, lifetime_s: float) -> None:
        """Keep a value for so long, in place of another one."""
        self._items.pop(key, None)
        while self._items and (len(self._items) >= self._max_items or self._oldest_has_expired()):
            self._items.popitem(last=False)
        self._items[key] = (value, monotonic() + lifetime_s)

    def pop(self, key: str) -> V | None:
        """Remove a value; return it if it has not expired."""
        value, expires_at = self._items.pop(key, (None, 0.0))
        return value if monotonic() < expires_at else None

    def _oldest_has_expired(self) -> bool:
        return next(iter(self._items.values()))[1] <= monotonic()
