"""A rate limit by the generic cell rate algorithm (GCRA, ITU-T I.371), without timers."""

import math


class RateLimit:
    """Rates of messages and of bytes, kept as one number: the theoretical arrival time.

    A message costs ``1 / messages_per_s`` seconds, or its bytes ``/ bytes_per_s`` if that is more.
    The theoretical arrival time minus the current time is how far the sender is ahead.
    """

    __slots__ = ("_arrival", "_burst_s", "_byte_s", "_message_s")

    def __init__(
        self, messages_per_s: float, bytes_per_s: float = math.inf, burst_s: float = 0.0
    ) -> None:
        self._message_s = 1 / messages_per_s
        self._byte_s = 1 / bytes_per_s
        self._burst_s = burst_s
        self._arrival = 0.0

    def lead_s(self, now: float) -> float:
        """Return how many seconds the sender is ahead."""
        return max(0.0, self._arrival - now)

    def charge(self, now: float, size_bytes: float) -> None:
        """Count bytes, even beyond the limit."""
        arrival = self._arrival
        self._arrival = (arrival if arrival > now else now) + size_bytes * self._byte_s

    def take(self, now: float, size_bytes: int = 0) -> bool:
        """Count a message; if the sender is ahead by a burst, return false and count nothing.

        The size of this message does not matter: after a pause it may be of any size.
        """
        arrival = self._arrival
        if arrival < now:
            arrival = now
        elif arrival - now >= self._burst_s:
            return False
        cost_s = size_bytes * self._byte_s
        self._arrival = arrival + (cost_s if cost_s > self._message_s else self._message_s)
        return True
