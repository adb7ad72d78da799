"""How a client behaves: whether it sends faster than it may, or one error after the other.

There is no timer and nothing to refill. Each rate is one number: the time at which all that has
come would have come at that rate. How far it lies ahead of the clock is how far the client does
(virtual scheduling, as in the generic cell rate algorithm, ITU-T I.371).
"""

from time import monotonic

from ..errors import Flood, RateLimited, TooManyErrors
from ..settings import RealtimeSettings

MAX_REFUSALS_LOGGED = 50
"""Kinds of refusal that are logged for one connection: more than there are, unless kinds are made
up while the service runs."""


class Conduct:
    """What one connection has sent lately. Asked for every message, so it does little."""

    __slots__ = (
        "_burst_s",
        "_byte_s",
        "_bytes_until",
        "_max_errors",
        "_message_s",
        "_messages_until",
        "_refusals",
        "errors_in_a_row",
    )

    def __init__(self, settings: RealtimeSettings) -> None:
        self._message_s = 1 / settings.max_messages_per_s
        self._byte_s = 1 / settings.max_bytes_per_s
        self._burst_s = float(settings.max_burst_s)
        self._max_errors = settings.max_errors_in_a_row
        self._messages_until = self._bytes_until = 0.0
        self.errors_in_a_row = 0
        self._refusals: frozenset[str] = frozenset()  # the empty one takes no memory

    def pace(self, frame: str) -> None:
        """Let a message pass that does not come too early. One that does counts all the same.

        So who heeds a refusal, and waits, may soon go on. Who does not gets ever further ahead.

        Raises:
            RateLimited: the client is ahead of a rate by the length of a burst.
            Flood: it is ahead by twice that, and so has been refused for a whole burst.

        """
        now = monotonic()
        messages_until, bytes_until = self._messages_until, self._bytes_until
        size = len(frame) if frame.isascii() else len(frame.encode())
        self._messages_until = (messages_until if messages_until > now else now) + self._message_s
        self._bytes_until = (bytes_until if bytes_until > now else now) + size * self._byte_s
        # What came before this message decides: after a silence, it may be of any size.
        too_early = now + self._burst_s
        if messages_until >= too_early or bytes_until >= too_early:
            if max(messages_until, bytes_until) >= too_early + self._burst_s:
                raise Flood
            msg = "too fast: welcome tells the limits"
            raise RateLimited(msg)

    def is_first_refusal(self, kind: str) -> bool:
        """Return whether this is the first refusal of its kind, which is worth a log line."""
        if kind in self._refusals or len(self._refusals) >= MAX_REFUSALS_LOGGED:
            return False
        self._refusals |= {kind}
        return True

    def count_error(self) -> None:
        """Count a message that is no valid command.

        Raises:
            TooManyErrors: it is one too many in a row.

        """
        self.errors_in_a_row += 1
        if self.errors_in_a_row >= self._max_errors:
            raise TooManyErrors
