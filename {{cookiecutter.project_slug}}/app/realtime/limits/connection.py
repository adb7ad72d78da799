"""Limits of one connection: how fast its client may send, and how many errors in a row."""

from time import monotonic

from ..errors import Flood, RateLimited, TooManyErrors
from ..settings import RealtimeSettings
from .rate import RateLimit

MAX_REFUSALS_LOGGED = 50
"""Kinds of refusal logged for one connection; a bound for kinds that are made up at run time."""


class ConnectionLimits:
    """The limits and counts of one connection. They are checked for every message."""

    __slots__ = ("_bytes", "_messages", "_refusals", "_settings", "errors_in_a_row")

    def __init__(self, settings: RealtimeSettings) -> None:
        self._settings = settings
        self._messages = RateLimit()
        self._bytes = RateLimit()
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
        settings = self._settings
        size_bytes = len(frame) if frame.isascii() else len(frame.encode())
        lead_s = self._messages.count(now, 1 / settings.max_messages_per_s)
        bytes_lead_s = self._bytes.count(now, size_bytes / settings.max_bytes_per_s)
        if bytes_lead_s > lead_s:
            lead_s = bytes_lead_s
        if lead_s >= settings.max_burst_s:
            if lead_s >= 2 * settings.max_burst_s:
                raise Flood
            msg = "too fast: welcome tells the limits"
            raise RateLimited(msg)

    def count_error(self) -> None:
        """Count a message that is not a valid command.

        Raises:
            TooManyErrors: there are too many in a row.

        """
        self.errors_in_a_row += 1
        if self.errors_in_a_row >= self._settings.max_errors_in_a_row:
            raise TooManyErrors

    def is_first_refusal(self, kind: str) -> bool:
        """Return whether this is the first refusal of its kind, which is worth a log line."""
        if kind in self._refusals or len(self._refusals) >= MAX_REFUSALS_LOGGED:
            return False
        self._refusals |= {kind}
        return True
