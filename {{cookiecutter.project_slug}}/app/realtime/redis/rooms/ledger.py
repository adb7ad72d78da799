"""The sizes of the histories that this node has stored in Redis, and which to remove at a limit."""

from collections import Counter, OrderedDict, defaultdict
from time import monotonic

ROOM_BYTES = 1_024
"""Estimated size of a room's keys in Redis without messages."""


class Ledger:
    """Counts rooms towards a total, and towards a share of the user who first wrote in the room.

    A user who fills one new room after another displaces only the history of these rooms. Messages
    of the backend count towards the total alone. Rooms not written to for ``kept_s`` have expired.
    """

    def __init__(self, max_bytes: int, max_user_bytes: int, kept_s: float) -> None:
        self._kept_s = kept_s
        self._noted_at: dict[str, float] = {}
        self._max_bytes = max_bytes
        self._max_user_bytes = max_user_bytes
        self._owners: dict[str, str | None] = {}
        # By user, null for all: the sizes of rooms, the least recently used first, and their sum
        self._sizes: defaultdict[str | None, OrderedDict[str, int]] = defaultdict(OrderedDict)
        self._sums: Counter[str | None] = Counter()

    def note(self, room: str, sender: str | None, size_bytes: int) -> list[str]:
        """Note a message and the size of its room; return the rooms to remove."""
        now = monotonic()
        self._forget_expired(now - self._kept_s)
        self._noted_at[room] = now
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

    def _forget_expired(self, before: float) -> None:
        while self._noted_at:
            room = next(iter(self._sizes[None]))
            if self._noted_at[room] >= before:
                break
            self._forget(room)

    def _forget(self, room: str) -> None:
        del self._noted_at[room]
        for each in {self._owners.pop(room), None}:
            self._sums[each] -= self._sizes[each].pop(room)
            if not self._sizes[each]:
                del self._sizes[each], self._sums[each]
