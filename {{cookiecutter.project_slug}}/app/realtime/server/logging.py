"""Logs: one line for each event, JSON in production, for human eyes in development.

uvicorn's own lines take the same way. No line holds credentials, a query string or a payload.
Their number is limited, see `log_limit`.
"""

import atexit
import logging
import sys

import structlog
from structlog.typing import Processor

from ..settings import RealtimeSettings
from .log_limit import LogLimiter

UVICORN_NOISE = (
    # The service has lines of its own for these, with the connection's id and user; uvicorn's show
    # the query, which may hold credentials.
    '"WebSocket %s"',
    "connection open",
    "connection closed",
    "connection rejected",
    "HTTP response sent",
    # This has one, too, with the status.
    "Invalid HTTP request received",
    # These would blame the service for what it refused, or what a client sent.
    "ASGI callable returned without completing handshake",
    "Invalid UTF-8 sequence received from client",
)


class NoiseFilter(logging.Filter):
    """Drops lines of uvicorn's that say too much or nothing."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record may pass."""
        return not any(noise in str(record.msg) for noise in UVICORN_NOISE)


def configure_logging(settings: RealtimeSettings) -> None:
    """Send structlog's and the standard library's records to standard error, in one format."""
    limiter = LogLimiter(settings.max_log_lines_per_s)
    atexit.register(limiter.report)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            limiter,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.addFilter(limiter)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(settings),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    uvicorn_logger = logging.getLogger("uvicorn.error")
    uvicorn_logger.addFilter(NoiseFilter())
    # Below INFO it prints every request and every frame.
    uvicorn_logger.setLevel(max(logging.INFO, root.level))


def _renderers(settings: RealtimeSettings) -> list[Processor]:
    # Tracebacks stay plain in both: the pretty ones print local variables, and so payloads.
    if settings.environment == "production":
        return [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    ]
