"""The quota of the histories that this node stores in Redis: for all of them, and for each user."""

from collections import Counter, OrderedDict, defaultdict
from time import monotonic

ROOM_BYTES = 1_024
"""Estimated size of a room's keys in Redis without messages."""


class HistoryQuota:
    """Counts the bytes of rooms, and names the least recently used rooms beyond a limit.

    A room counts towards the total, and towards the share of the user who was the first to publish
    to it. So a user who fills one new room after another displaces only the history of these rooms.
    A room that the backend published to first counts only towards the total. When nobody has
    published to a room for ``kept_s``, Redis has removed its messages, and it counts no more.
    """

    def __init__(self, max_bytes: int, max_user_bytes: int) -> None:
        # By ``kept_s``: when each room was last noted, the least recently used first
        self._noted_at: defaultdict[float, OrderedDict[str, float]] = defaultdict(OrderedDict)
        self._kept_s: dict[str, float] = {}
        self._max_bytes = max_bytes
        self._max_user_bytes = max_user_bytes
        self._owners: dict[str, str | None] = {}
        # By user, None for all: the sizes of rooms, the least recently used first, and their sum
        self._sizes: defaultdict[str | None, OrderedDict[str, int]] = defaultdict(OrderedDict)
        self._sums: Counter[str | None] = Counter()

    def note(self, room: str, sender: str | None, size_bytes: int, kept_s: float) -> list[str]:
        """Note the size of a room after a message of ``sender``; return the rooms to remove.

        Redis keeps the messages for ``kept_s``.
        """
        now = monotonic()
        self._forget_expired(now)
        noted_at = self._noted_at[self._kept_s.setdefault(room, kept_s)]
        noted_at[room] = now
        noted_at.move_to_end(room)
        owner = self._owners.setdefault(room, sender)
        for user in {owner, None}:
            self._sums[user] += ROOM_BYTES + size_bytes - self._sizes[user].pop(room, 0)
            self._sizes[user][room] = ROOM_BYTES + size_bytes
        removed = [] if owner is None else self._shrink(owner, self._max_user_bytes)
        return removed + self._shrink(None, self._max_bytes)

    def remove_quarter(self) -> list[str]:
        """Return the least recently used rooms to remove, with a quarter of all bytes."""
        return self._shrink(None, self._sums[None] * 3 // 4)

    def _shrink(self, user: str | None, max_bytes: int) -> list[str]:
        removed = []
        while self._sums[user] > max_bytes:
            room = next(iter(self._sizes[user]))
            self._forget(room)
            removed.append(room)
        return removed

    def _forget_expired(self, now: float) -> None:
        for kept_s, noted_at in list(self._noted_at.items()):
            while noted_at and next(iter(noted_at.values())) < now - kept_s:
                self._forget(next(iter(noted_at)))

    def _forget(self, room: str) -> None:
        kept_s = self._kept_s.pop(room)
        del self._noted_at[kept_s][room]
        if not self._noted_at[kept_s]:
            del self._noted_at[kept_s]
        for each in {self._owners.pop(room), None}:
            self._sums[each] -= self._sizes[each].pop(room)
            if not self._sizes[each]:
                del self._sizes[each], self._sums[each]
