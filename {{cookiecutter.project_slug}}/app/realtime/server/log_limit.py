"""A rate limit for log lines: so many of one event in a second, whoever causes them.

Strangers can cause a line with each handshake, and team code may log each message. What is dropped
is counted, and the count is logged.
"""

import logging
from collections import Counter
from contextvars import Context
from threading import RLock
from time import monotonic

import structlog
from structlog.typing import EventDict, WrappedLogger

Event = tuple[str, str]
"""The name of a logger, and the text before its arguments are put in."""

MAX_TEXT = 100
"""Characters of its text by which an event is known."""

MAX_EVENTS = 1_000
"""Events counted separately in one second: other libraries' records may have any text."""

OTHER_EVENTS: Event = ("", "other events")
"""All events beyond that, which share one limit."""

log = structlog.stdlib.get_logger(__name__)

# Dropped lines are reported even if `LOG_LEVEL` is ERROR.
logging.getLogger(__name__).setLevel(logging.WARNING)


class LogLimiter(logging.Filter):
    """Drops the lines of an event beyond a number in each second of the clock.

    How many were dropped is logged before the first line of any event in a later second. It is a
    processor for structlog's events, and a filter of a handler for all other records.
    """

    def __init__(self, max_lines_per_s: int) -> None:
        super().__init__()
        self._max_lines = max_lines_per_s
        self._second = 0
        self._lines: Counter[Event] = Counter()
        # Reentrant, since signal handlers and finalizers log, too.
        self._lock = RLock()

    def __call__(self, logger: WrappedLogger, name: str, event_dict: EventDict) -> EventDict:
        """Return an event that may be logged.

        Raises:
            DropEvent: it is one too many.

        """
        if not self._may_pass(logger.name, event_dict.get("event")):
            raise structlog.DropEvent
        return event_dict

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record may be logged; structlog's have been counted already."""
        return hasattr(record, "_logger") or self._may_pass(record.name, record.msg)

    def report(self) -> None:
        """Log how many lines have been dropped since the last report."""
        with self._lock:
            lines, self._lines = self._lines, Counter()
        for (logger, text), number in lines.items():
            if number > self._max_lines:
                # An empty context: this is not about the connection that happens to log now.
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
