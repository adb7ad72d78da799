"""Logs: one line per event, as JSON in production, as readable text in development.

uvicorn's lines have the same format. No line contains credentials, a query string or a payload. The
number of lines is limited, see `log_limit`.
"""

import atexit
import logging
import os
from threading import RLock

import structlog
from structlog.typing import Processor

from ..settings.settings import RealtimeSettings
from .log_limit import LogLimiter

UVICORN_NOISE = (
    # The service logs these itself, with the connection's id and user. uvicorn's lines have the
    # query string, which may contain credentials.
    '"WebSocket %s"',
    "connection open",
    "connection closed",
    "connection rejected",
    "HTTP response sent",
    # The service logs this itself, with the status.
    "Invalid HTTP request received",
    # The client's errors, which uvicorn reports like errors of the service.
    "ASGI callable returned without completing handshake",
    "Invalid UTF-8 sequence received from client",
    "Cancel 0 running task(s), timeout graceful shutdown exceeded",
)

LINES = dict.fromkeys(("info", "warning", "error", "critical"), 0)
"""Lines logged by this process, by level."""

_counting = RLock()  # reentrant, since finalizers may log


def is_worth_logging(record: logging.LogRecord) -> bool:
    """Return false for the records of uvicorn that `UVICORN_NOISE` lists."""
    texts = str(record.msg), record.getMessage()
    return not any(noise in text for noise in UVICORN_NOISE for text in texts)


def count_line(record: logging.LogRecord) -> bool:
    """Count a line that is logged; return true."""
    level = record.levelname.lower()
    with _counting:
        LINES[level] = LINES.get(level, 0) + 1
    return True


def configure_logging(settings: RealtimeSettings) -> None:
    """Write the records of structlog and of the standard library to standard error."""
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
    handler.addFilter(count_line)
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
    uvicorn_logger.addFilter(is_worth_logging)
    # Below INFO, uvicorn logs every request and every frame.
    uvicorn_logger.setLevel(max(logging.INFO, root.level))


def _renderers(settings: RealtimeSettings) -> list[Processor]:
    # Plain tracebacks in both: the pretty ones print local variables, which may be payloads.
    if settings.environment == "production":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [
        structlog.dev.ConsoleRenderer(
            colors=os.isatty(2), exception_formatter=structlog.dev.plain_traceback
        )
    ]
