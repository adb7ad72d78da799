"""The quota of the histories that this node stores in Redis: for all of them, and for each user."""

from collections import Counter, OrderedDict, defaultdict
from time import monotonic

from ...rooms.history import Position

ROOM_BYTES = 1_024
"""Estimated size of a room's keys in Redis without messages."""

Eviction = tuple[str, Position]
"""A room to remove, unless another node has published since this position."""


class HistoryQuota:
    """Counts the bytes of rooms, and names the least recently used rooms beyond a limit.

    A room counts towards the total, and towards the share of its owner: the user who began its
    epoch. So a user who fills one new room after another displaces only the history of these rooms.
    Rooms that the backend began count only towards the total. A room counts on every node that
    published to it; an eviction does nothing if another node has published since. Redis removes a
    room's messages ``history_s`` after the last publication, and its position ``position_s`` later.
    """

    def __init__(self, max_bytes: int, max_user_bytes: int, position_s: float) -> None:
        # By `kept_s`: when each room was last noted, the least recently used first
        self._noted_at: defaultdict[float, OrderedDict[str, float]] = defaultdict(OrderedDict)
        self._kept_s: dict[str, float] = {}
        self._position_s = position_s
        self._max_bytes = max_bytes
        self._max_user_bytes = max_user_bytes
        self._owners: dict[str, str | None] = {}
        self._positions: dict[str, Position] = {}
        # By user, None for all: the sizes of rooms, the least recently used first, and their sum
        self._sizes: defaultdict[str | None, OrderedDict[str, int]] = defaultdict(OrderedDict)
        self._sums: Counter[str | None] = Counter()

    def note(
        self, room: str, position: Position, owner: str | None, size_bytes: int, history_s: float
    ) -> list[Eviction]:
        """Note the size of a room's messages after a new one; return the rooms to remove."""
        now = monotonic()
        self._expire(now)
        if self._owners.setdefault(room, owner) != owner:
            self._forget(room)
            self._owners[room] = owner
        self._positions[room] = position
        self._keep(room, history_s if size_bytes else history_s + self._position_s, now)
        self._resize(room, ROOM_BYTES + size_bytes)
        for user in {owner, None}:
            self._sizes[user].move_to_end(room)
        removed = [] if owner is None else self._shrink(owner, self._max_user_bytes)
        return removed + self._shrink(None, self._max_bytes)

    def remove_quarter(self) -> list[Eviction]:
        """Return rooms to remove: the least recently used ones, with a quarter of all bytes."""
        return self._shrink(None, self._sums[None] * 3 // 4)

    def _shrink(self, user: str | None, max_bytes: int) -> list[Eviction]:
        removed = []
        while self._sums[user] > max_bytes:
            room = next(iter(self._sizes[user]))
            removed.append((room, self._positions[room]))
            self._forget(room)
        return removed

    def _resize(self, room: str, size_bytes: int) -> None:
        for user in {self._owners[room], None}:
            self._sums[user] += size_bytes - self._sizes[user].get(room, 0)
            self._sizes[user][room] = size_bytes

    def _expire(self, now: float) -> None:
        for kept_s, noted_at in list(self._noted_at.items()):
            while noted_at and next(iter(noted_at.values())) < now - kept_s:
                room = next(iter(noted_at))
                if self._sizes[None][room] > ROOM_BYTES:
                    self._resize(room, ROOM_BYTES)
                    self._keep(room, self._position_s, now)
                else:
                    self._forget(room)
            if not noted_at:
                del self._noted_at[kept_s]

    def _keep(self, room: str, kept_s: float, now: float) -> None:
        self._noted_at[self._kept_s.get(room, kept_s)].pop(room, None)
        self._noted_at[kept_s][room] = now
        self._kept_s[room] = kept_s

    def _forget(self, room: str) -> None:
        del self._noted_at[self._kept_s.pop(room)][room], self._positions[room]
        for each in {self._owners.pop(room), None}:
            self._sums[each] -= self._sizes[each].pop(room)
            if not self._sizes[each]:
                del self._sizes[each], self._sums[each]
