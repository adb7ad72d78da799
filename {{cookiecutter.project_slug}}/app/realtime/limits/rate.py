"""Rate limits: the algorithm, and the limits of one connection.

The generic cell rate algorithm (GCRA, ITU-T I.371) needs no timers.
"""

from time import monotonic

from ..errors import Flood, RateLimited, TooManyErrors
from ..settings.settings import RealtimeSettings

MAX_REFUSALS_LOGGED = 50
"""Kinds of refusal logged for one connection; a bound for kinds that are made up at run time."""


class RateLimit:
    """One rate, kept as one number: the theoretical arrival time of the next cell.

    Its distance from the clock is how far the sender is ahead of the rate.
    """

    __slots__ = ("_arrival", "_interval_s")

    def __init__(self, cells_per_s: float) -> None:
        self._interval_s = 1 / cells_per_s
        self._arrival = 0.0

    def lead_s(self, now: float) -> float:
        """Return how many seconds the cells counted until now are ahead of the rate."""
        return max(0.0, self._arrival - now)

    def count(self, now: float, cells: int = 1) -> float:
        """Count cells; return how many seconds those before them were ahead of the rate."""
        arrival = self._arrival
        if arrival < now:
            arrival = now
        self._arrival = arrival + cells * self._interval_s
        return arrival - now


class ConnectionLimits:
    """The limits and counts of one connection. They are checked for every message."""

    __slots__ = (
        "_burst_s",
        "_bytes",
        "_max_errors_in_a_row",
        "_messages",
        "_refusals",
        "errors_in_a_row",
    )

    def __init__(self, settings: RealtimeSettings) -> None:
        self._messages = RateLimit(settings.max_messages_per_s)
        self._bytes = RateLimit(settings.max_bytes_per_s)
        self._burst_s = settings.max_burst_s
        self._max_errors_in_a_row = settings.max_errors_in_a_row
        self.errors_in_a_row = 0
        self._refusals: frozenset[str] = frozenset()  # the empty one takes no memory

    def check_rate(self, frame: str) -> None:
        """Count a message, refused or not, against the rates of messages and of bytes.

        A client that waits after a refusal may soon continue; one that does not gets further
        ahead. Only the messages before this one decide, so after a pause it may be of any size.

        Raises:
            RateLimited: the client is ahead of a rate by `MAX_BURST_S`.
            Flood: it is ahead by twice that, so it has ignored refusals for a whole burst.

        """
        now = monotonic()
        size_bytes = len(frame) if frame.isascii() else len(frame.encode())
        lead_s = self._messages.count(now)
        bytes_lead_s = self._bytes.count(now, size_bytes)
        if bytes_lead_s > lead_s:
            lead_s = bytes_lead_s
        if lead_s >= self._burst_s:
            if lead_s >= 2 * self._burst_s:
                raise Flood
            msg = "too fast: welcome tells the limits"
            raise RateLimited(msg)

    def count_error(self) -> None:
        """Count a message that is not a valid command.

        Raises:
            TooManyErrors: there are too many in a row.

        """
        self.errors_in_a_row += 1
        if self.errors_in_a_row >= self._max_errors_in_a_row:
            raise TooManyErrors

    def is_first_refusal(self, kind: str) -> bool:
        """Return whether this is the first refusal of its kind, which is worth a log line."""
        if kind in self._refusals or len(self._refusals) >= MAX_REFUSALS_LOGGED:
            return False
        self._refusals |= {kind}
        return True
