"""A rate limit for log lines, per event and second.

Clients can cause a line with each handshake, and team code may log each message. Dropped lines are
counted, and the count is logged.
"""

import logging
from collections import Counter
from contextvars import Context
from threading import RLock
from time import monotonic

import structlog
from structlog.typing import EventDict, WrappedLogger

LogEvent = tuple[str, str]
"""The name of a logger, and the text without its arguments."""

MAX_TEXT = 100
"""Characters of the text that identify an event."""

MAX_EVENTS = 1_000
"""Events counted separately in one second, since other libraries may log any text."""

OTHER_EVENTS: LogEvent = ("", "other events")
"""All further events, which share one limit."""

log = structlog.stdlib.get_logger(__name__)

# Dropped lines are reported even if `LOG_LEVEL` is ERROR.
logging.getLogger(__name__).setLevel(logging.WARNING)


class LogLimiter(logging.Filter):
    """Drops the lines of an event beyond a number per second.

    The number of dropped lines is logged before the first line of a later second. The limiter is a
    processor for structlog's events, and a handler's filter for all other records.
    """

    def __init__(self, max_lines_per_s: int) -> None:
        super().__init__()
        self._max_lines = max_lines_per_s
        self._second = 0
        self._lines: Counter[LogEvent] = Counter()
        # Reentrant, since signal handlers and finalizers may log.
        self._lock = RLock()

    def __call__(self, logger: WrappedLogger, name: str, event_dict: EventDict) -> EventDict:
        """Return the event.

        Raises:
            DropEvent: it is over the limit.
        """
        if not self._may_pass(logger.name, event_dict.get("event")):
            raise structlog.DropEvent
        return event_dict

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record. Those of structlog have been counted already."""
        return hasattr(record, "_logger") or self._may_pass(record.name, record.msg)

    def report(self) -> None:
        """Log the number of lines dropped since the last report."""
        with self._lock:
            lines, self._lines = self._lines, Counter()
        for (logger, text), number in lines.items():
            if number > self._max_lines:
                # An empty context, since this has nothing to do with the current connection.
                Context().run(
                    log.warning,
                    "log lines suppressed",
                    suppressed=number - self._max_lines,
                    of=text,
                    source=logger,
                )

    def _may_pass(self, logger: str, text: object) -> bool:
        if logger == __name__:
            return True
        if (second := int(monotonic())) != self._second:
            self._second = second
            self.report()
        event = (logger, text[:MAX_TEXT] if isinstance(text, str) else type(text).__name__)
        with self._lock:
            if event not in self._lines and len(self._lines) >= MAX_EVENTS:
                event = OTHER_EVENTS
            self._lines[event] += 1
            return self._lines[event] <= self._max_lines
