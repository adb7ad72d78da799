"""A rate limit without timers: the generic cell rate algorithm (GCRA, ITU-T I.371)."""


class RateLimit:
    """One rate, kept as one number: the theoretical arrival time of the next cell.

    Its distance from the clock is how far the sender is ahead of the rate. Callers pass the same
    monotonic clock each time, and the interval that one cell takes at the rate.
    """

    __slots__ = ("arrival",)

    def __init__(self) -> None:
        self.arrival = 0.0
        """The theoretical arrival time of the next cell."""

    def lead_s(self, now: float) -> float:
        """Return how many seconds the cells counted until now are ahead of the rate."""
        lead_s = self.arrival - now
        return lead_s if lead_s > 0.0 else 0.0

    def count(self, now: float, interval_s: float) -> float:
        """Count one cell; return how many seconds those before it were ahead of the rate."""
        arrival = self.arrival
        if arrival < now:
            arrival = now
        self.arrival = arrival + interval_s
        return arrival - now
